// One cell of the sheet: a still at once, the clip when there is time, progress while it is made.

import { h, icon } from "./dom.js";
import { add, remove } from "./playback.js";
import { ask, mediaAddress, stillAddress } from "./server.js";
import { HEALTH, draftNote, isDraft, isOver, stateWords } from "./words.js";

const MAX_CLIPS = 40; // players at once; browsers stop at 75, phones earlier
const STILL_AGAIN_MS = 3000;
let clips = 0;

export function makeCell() {
  const shot = h("div", { className: "shot" });
  const marks = h("div", { className: "marks" });
  const bar = h("i", { className: "bar" });
  const words = h("p", { className: "words" });
  const element = h("div", { className: "cell", role: "gridcell", tabIndex: -1 }, shot, words, marks, bar);
  return { element, shot, marks, bar, words, shown: "", video: null, still: null, idle: 0 };
}

// Makes `view` show the top of a stack. `options`: {dimmed, mark, label, width}.
export function showCell(view, stack, options) {
  const cell = stack[0] ?? null;
  const { element } = view;
  element.dataset.state = cell ? cell.state : "empty";
  element.dataset.id = cell?.id ?? "";
  element.classList.toggle("dimmed", options.dimmed);
  element.setAttribute("aria-label", label(cell, options.label));
  showMarks(view, stack, options.mark);
  showProgress(view, cell);
  showMedia(view, cell, options.width);
}

function label(cell, where) {
  if (!cell) return `${where}: no sample`;
  return [where, stateWords(cell), ...(isDraft(cell) ? ["draft"] : []), ...(cell.health ?? []).map((flag) => HEALTH[flag] ?? flag)].join(", ");
}

function showMarks(view, stack, mark) {
  const cell = stack[0];
  const flags = cell?.health ?? [];
  const signature = [cell?.favourite, cell?.draft, flags.join(), stack.length, mark].join("|");
  if (view.marks.dataset.signature === signature) return;
  view.marks.dataset.signature = signature;
  view.marks.replaceChildren(
    ...[
      mark ? h("b", { className: "letter" }, mark) : null,
      cell && isDraft(cell) ? h("span", { className: "draft", title: `draft, ${draftNote(cell)}` }, "draft") : null,
      flags.length ? h("span", { className: "flag", title: flags.map((flag) => HEALTH[flag] ?? flag).join(", ") }, icon("warn"), flags.join(", ")) : null,
      stack.length > 1 ? h("span", { className: "takes", title: `${stack.length} samples here; the newest is shown` }, icon("stack"), String(stack.length)) : null,
      cell?.favourite ? h("span", { className: "star", title: "favourite" }, icon("star")) : null,
    ].filter(Boolean),
  );
}

function showProgress(view, cell) {
  const open = cell && !isOver(cell);
  view.bar.hidden = !open || cell.state !== "running";
  if (cell?.state === "running") view.bar.style.setProperty("--done", cell.total ? (cell.step ?? 0) / cell.total : 0);
  view.bar.classList.toggle("unknown", Boolean(open) && !cell.total);
  const wrong = cell && (cell.state === "failed" || cell.state === "dead");
  view.words.textContent = !cell || cell.media ? "" : wrong ? (cell.error ?? cell.state) : stateWords(cell);
  view.words.title = wrong ? view.words.textContent : "";
}

function showMedia(view, cell, width) {
  const version = cell?.media ? `${cell.id} ${cell.version}` : "";
  if (view.shown === version) return;
  clearMedia(view);
  view.shown = version;
  if (!version) return;
  const still = h("img", { alt: "", decoding: "async", draggable: false });
  view.still = still;
  still.addEventListener("load", () => view.element.classList.add("loaded"), { once: true });
  still.addEventListener("error", () => missing(view, still));
  still.src = stillAddress(cell, width * devicePixelRatio);
  view.shot.append(still);
  // While somebody scrolls past, the still is enough.
  if (cell.video) view.idle = setTimeout(() => startClip(view, cell), 250);
}

// A still that is gone (the file was deleted) is said, not shown as a broken picture; a server that is away comes back.
async function missing(view, still) {
  const problem = await ask(still.src).then(() => null, (found) => found);
  if (view.still !== still) return;
  if (problem?.status >= 400 && problem.status < 500) {
    view.words.textContent = "the file is gone";
    view.words.title = problem.message;
  } else {
    setTimeout(() => view.still === still && (still.src = still.src), STILL_AGAIN_MS);
  }
}

function startClip(view, cell) {
  if (view.video || clips >= MAX_CLIPS) return;
  clips += 1;
  const video = h("video", { muted: true, loop: true, playsInline: true, preload: "auto", disablePictureInPicture: true, tabIndex: -1 });
  view.video = video;
  video.addEventListener("seeked", () => video.classList.add("ready"), { once: true });
  video.addEventListener("playing", () => video.classList.add("ready"), { once: true });
  video.src = mediaAddress(cell);
  view.shot.append(video);
  add(video, cell.fps);
}

export function clearMedia(view) {
  clearTimeout(view.idle);
  if (view.video) {
    clips -= 1;
    remove(view.video);
  }
  view.video = null;
  view.still = null;
  view.shown = "";
  view.element.classList.remove("loaded");
  view.shot.replaceChildren();
}
