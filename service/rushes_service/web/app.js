// Lists the samples of one run and keeps the list true by server-sent events.
// Whatever comes from the server is put in as text (textContent) or as a property, never as HTML.

const PAGE_SIZE = 60;
const COME_BACK_MS = 3000;
const EVENTS = ["queued", "started", "progress", "retry", "done", "failed", "cancelling", "cancelled", "superseded", "dead", "handed_back"];

const $ = (id) => document.getElementById(id);
const cards = new Map(); // sample id -> its <article>
let run = null;
let cursor = null;
let position = null; // id of the last event seen
let pending = new Set(); // samples whose record is to be read again

async function ask(path) {
  const response = await fetch(path, { headers: { Accept: "application/json" } });
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.detail ?? `the server answered ${response.status}`);
  return body;
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

function clone(id) {
  return $(id).content.firstElementChild.cloneNode(true);
}

// Runs

async function showRuns() {
  const runs = (await ask("v1/runs")).runs;
  const wanted = decodeURIComponent(location.hash.slice(1));
  const chosen = runs.includes(wanted) ? wanted : (runs[0] ?? null);
  $("runs").replaceChildren(
    ...runs.map((name) => {
      const link = document.createElement("a");
      link.href = `#${encodeURIComponent(name)}`;
      link.textContent = name;
      if (name === chosen) link.setAttribute("aria-current", "page");
      return link;
    }),
  );
  if (chosen === null) {
    notice("No samples yet.\nThey appear here as soon as a training run submits its first checkpoint.");
  }
  return chosen;
}

async function showRun() {
  try {
    run = await showRuns();
    document.title = run ? `${run} · Rushes` : "Rushes";
    cards.clear();
    $("samples").replaceChildren();
    cursor = null;
    if (run !== null) await showMore();
  } catch (error) {
    notice(error.message);
  }
}

async function showMore() {
  const query = new URLSearchParams({ run, limit: PAGE_SIZE });
  if (cursor) query.set("cursor", cursor);
  const asked = run;
  const page = await ask(`v1/samples?${query}`);
  if (asked !== run) return;
  notice("");
  page.samples.forEach(show);
  cursor = page.next ?? null;
  $("more").hidden = cursor === null;
}

// Samples

function show(sample) {
  // A record that this version cannot read has no job: it is listed all the same.
  sample.job ??= { prompt: { prompt: "(a job that this version cannot read)" } };
  let card = cards.get(sample.id);
  if (!card) {
    card = clone("card");
    cards.set(sample.id, card);
    card.dataset.order = sample.job.prompt_index ?? 0;
    insert(gridOf(sample), card, (other) => Number(other.dataset.order) > Number(card.dataset.order));
  }
  const { prompt } = sample.job;
  card.dataset.state = sample.state;
  card.querySelector(".prompt").textContent = prompt.prompt;
  card.querySelector(".prompt").title = prompt.prompt;
  card.querySelector(".state").textContent = sample.cancelling ? "cancelling" : sample.state;
  card.querySelector(".values").textContent = facts(sample);
  showFrame(card, sample);
}

function facts(sample) {
  const { prompt } = sample.job;
  const result = sample.result ?? {};
  const seed = result.seed ?? prompt.seed;
  const strength = prompt.lora_multiplier ?? 1;
  const parts = [
    seed === null || seed === undefined ? null : `seed ${seed}`,
    strength === 1 ? null : `× ${strength}`,
    result.width ? `${result.width}×${result.height}` : null,
    result.frame_count > 1 ? `${result.frame_count} frames` : null,
  ];
  return parts.filter(Boolean).join(" · ");
}

function showFrame(card, sample) {
  const frame = card.querySelector(".frame");
  const { prompt } = sample.job;
  const { width, height, error } = sample.result ?? {};
  frame.style.setProperty("--shape", (width ?? prompt.width ?? 1) / (height ?? prompt.height ?? prompt.width ?? 1));
  const file = sample.media?.replace(/^\//, "");
  const version = file && `${file}?${sample.finished_at ?? ""}`;
  if (frame.dataset.file !== (version ?? "")) {
    frame.dataset.file = version ?? "";
    frame.querySelector("img, video")?.remove();
    if (version) frame.prepend(media(version, sample.result.media_type, prompt.prompt));
  }
  const reason = card.querySelector(".reason");
  reason.textContent = version ? "" : (error?.message ?? "");
  reason.hidden = !reason.textContent;
  progress(card, sample.state === "running" ? sample : null);
}

function media(address, type, description) {
  const video = type === "video/mp4";
  const element = document.createElement(video ? "video" : "img");
  if (video) {
    Object.assign(element, { muted: true, loop: true, autoplay: true, playsInline: true, preload: "metadata" });
    element.setAttribute("aria-label", description);
    element.addEventListener("click", () => (element.paused ? element.play() : element.pause()));
  } else {
    Object.assign(element, { loading: "lazy", alt: description });
  }
  element.src = address;
  return element;
}

function progress(card, of) {
  const bar = card.querySelector("progress");
  bar.hidden = of === null;
  if (of === null) return;
  if (of.total) Object.assign(bar, { max: of.total, value: of.step });
  else bar.removeAttribute("value");
  card.dataset.state = "running";
  card.querySelector(".state").textContent = of.total ? `${of.stage ?? "running"} ${of.step}/${of.total}` : (of.stage ?? "running");
}

function gridOf(sample) {
  const { step, epoch, checkpoint } = sample.job;
  const key = String(step ?? 0);
  const known = [...$("samples").children].find((section) => section.dataset.step === key);
  if (known) return known.querySelector(".grid");
  const section = clone("section");
  section.dataset.step = key;
  section.querySelector(".step").textContent = checkpoint ? `Step ${key}` : `Step ${key}, base model`;
  const name = (checkpoint?.source ?? checkpoint?.path ?? "").split("/").pop();
  section.querySelector(".checkpoint").textContent = [epoch == null ? "" : `epoch ${epoch}`, name].filter(Boolean).join(" · ");
  insert($("samples"), section, (other) => Number(other.dataset.step) < Number(key));
  return section.querySelector(".grid");
}

function insert(parent, element, isAfter) {
  parent.insertBefore(element, [...parent.children].find(isAfter) ?? null);
}

// Events

function follow() {
  const query = position ? `?after=${encodeURIComponent(position)}` : "";
  const source = new EventSource(`v1/events${query}`);
  source.onopen = () => link("live", "live");
  source.onerror = () => {
    link("away", "reconnecting");
    // A browser gives up for good when the answer is not a stream (Redis away, say); then we come back ourselves.
    if (source.readyState === EventSource.CLOSED) setTimeout(follow, COME_BACK_MS);
  };
  const remember = (event) => (position = event.lastEventId || position);
  source.addEventListener("ready", (event) => {
    remember(event);
    if (!$("notice").hidden) showRun(); // what could not be read before can be now
  });
  source.addEventListener("reset", (event) => {
    remember(event);
    showRun();
  });
  for (const name of EVENTS) {
    source.addEventListener(name, (event) => {
      remember(event);
      hear(JSON.parse(event.data));
    });
  }
}

function link(state, text) {
  $("link").dataset.state = state;
  $("link").textContent = text;
}

function hear(event) {
  if (run === null) {
    showRun();
    return;
  }
  if (event.run !== run) {
    if (![...$("runs").children].some((item) => item.textContent === event.run)) showRuns().catch(() => {});
    return;
  }
  const card = cards.get(event.id);
  if (event.type === "progress" && card) progress(card, event.data);
  else readAgain(event.id);
}

// Many events of one sample, or of a whole submission, become one reading each.
function readAgain(id) {
  if (pending.size === 0) setTimeout(readPending, 100);
  pending.add(id);
}

async function readPending() {
  const ids = pending;
  pending = new Set();
  for (const id of ids) {
    const sample = await ask(`v1/samples/${encodeURIComponent(id)}`).catch(() => null);
    if (sample && sample.run === run) show(sample);
  }
}

window.addEventListener("hashchange", showRun);
$("more").addEventListener("click", () => showMore().catch((error) => notice(error.message)));
follow();
showRun();
