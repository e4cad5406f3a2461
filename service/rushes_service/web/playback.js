// One clock for every clip on the page: samples of one prompt show the same frame at the same time.

const TICK_MS = 120;
const JUMP_S = 0.3; // further apart than this, a clip is set; nearer, it runs faster or slower until it fits

const clips = new Map(); // video -> frames per second
const listeners = new Set();
let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;
let rate = 1;
let zero = performance.now(); // when the clock was at `held`
let held = 0;

export const isPlaying = () => playing;
export const clock = () => (playing ? held + ((performance.now() - zero) / 1000) * rate : held);

export function add(video, fps) {
  clips.set(video, fps || 16);
  video.addEventListener("loadedmetadata", () => align(video, true), { once: true });
  if (playing) video.play().catch(() => {});
}

export function remove(video) {
  if (!clips.delete(video)) return;
  video.pause();
  // Frees the decoder: browsers allow some dozens at a time.
  video.removeAttribute("src");
  video.load();
}

export function setPlaying(value) {
  held = clock();
  zero = performance.now();
  playing = value;
  for (const video of clips.keys()) {
    if (playing) video.play().catch(() => {});
    else video.pause();
    align(video, true);
  }
  for (const listener of listeners) listener();
}

// One frame on or back, all clips together.
export function nudge(frames) {
  if (playing) setPlaying(false);
  const fps = clips.values().next().value ?? 16;
  held = Math.max(0, (Math.round(held * fps) + frames + 0.5) / fps);
  for (const video of clips.keys()) align(video, true);
}

export function setRate(value) {
  held = clock();
  zero = performance.now();
  rate = value;
}

export const onPlayback = (listener) => listeners.add(listener);

function align(video, exactly = false) {
  const { duration } = video;
  if (!(duration > 0) || video.seeking) return;
  const target = clock() % duration;
  const apart = ((video.currentTime - target + 1.5 * duration) % duration) - duration / 2;
  const frame = 1 / (clips.get(video) ?? 16);
  if (exactly ? Math.abs(apart) > frame / 4 : Math.abs(apart) > Math.min(JUMP_S, duration / 3)) {
    video.currentTime = target;
  }
  video.playbackRate = playing && Math.abs(apart) > frame / 3 ? rate * Math.min(1.25, Math.max(0.8, 1 - apart)) : rate;
}

setInterval(() => {
  if (document.hidden) return;
  for (const video of clips.keys()) {
    if (playing && video.paused) video.play().catch(() => {});
    // A clip that was still seeking when all were stopped is set now.
    align(video, !playing);
  }
}, TICK_MS);
