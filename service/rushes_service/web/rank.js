// Blind ranking: two samples of one prompt and seed, side by side, until the order of the checkpoints is known.

import { $, fill, h, notice, setTheme, toast } from "./dom.js";
import { add, isPlaying, nudge, remove, setPlaying } from "./playback.js";
import { ask, mediaAddress, samplePath, send } from "./server.js";

const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "equal", ArrowDown: "bad", e: "equal", b: "bad", s: "skip" };
const runs = new URLSearchParams(location.hash.slice(1)).getAll("run");
const query = new URLSearchParams(runs.map((run) => ["run", run])).toString();

let pair = null;
let asked = 0; // requests for a pair
let busy = false; // a vote is on its way: another key must not count for the same pair

const voter = () => $("voter").value.trim();

// The pair

async function next() {
  const mine = (asked += 1);
  let found;
  try {
    found = await ask(`v1/ranking/pair?${query}&voter=${encodeURIComponent(voter())}`);
  } catch (problem) {
    if (mine !== asked) return;
    pair = null;
    clearPair();
    notice(problem.message);
    enable();
    return;
  }
  if (mine !== asked) return; // the voter has changed meanwhile
  pair = found;
  notice("");
  showPair();
}

function clearPair() {
  for (const video of $("pair").querySelectorAll("video")) remove(video);
  fill($("pair"));
}

function showPair() {
  clearPair();
  const { left, right, prompt, voted, needed } = pair;
  $("progress").max = Math.max(needed, 1);
  $("progress").value = Math.min(voted, needed);
  $("count").value = voted < needed ? `${voted} of about ${needed}` : `${voted} votes`;
  if (left) {
    fill($("pair"), side("left", left), side("right", right), h("p", { className: "text" }, prompt));
  } else {
    fill($("pair"), h("div", { className: "done" }, h("h2", {}, "Every pair is voted on."), h("p", { className: "quiet" }, "Open the ranking, or let somebody else vote: votes of several people add up.")));
    if ($("table").hidden) toggleTable();
  }
  enable();
}

function side(choice, picture) {
  const element = h("button", { type: "button", className: `side ${choice}`, "aria-label": `${choice} is better`, onclick: () => vote(choice) });
  element.dataset.sample = picture.id;
  element.style.setProperty("--shape", (picture.width ?? 1) / (picture.height ?? 1));
  const cell = { id: picture.id, version: "" };
  if (!picture.video) {
    element.append(h("img", { src: mediaAddress(cell), alt: `sample on the ${choice}`, draggable: false }));
    return element;
  }
  const video = h("video", { muted: true, loop: true, playsInline: true, preload: "auto", ariaLabel: `sample on the ${choice}` });
  video.src = mediaAddress(cell);
  element.append(video);
  add(video, picture.fps);
  return element;
}

function enable() {
  for (const button of $("choices").querySelectorAll("[data-choice]")) button.disabled = !pair?.left;
  $("undo").disabled = !pair?.last;
}

// Votes

async function vote(choice) {
  if (busy || !pair?.left) return;
  if (!voter()) {
    toast("Say who votes: votes of several people are told apart.");
    $("voter").focus();
    return;
  }
  busy = true;
  $("pair").querySelector(`.${choice}`)?.classList.add("chosen");
  try {
    await send("POST", "v1/ranking/votes", { runs, voter: voter(), left: pair.left.id, right: pair.right.id, choice });
    await next();
    if (!$("table").hidden) await showTable();
  } catch (problem) {
    toast(problem.message);
  } finally {
    busy = false;
  }
}

async function undo() {
  if (busy || !pair?.last) return;
  busy = true;
  try {
    await send("DELETE", `v1/ranking/votes/${pair.last}?${query}`);
    toast("The last vote is withdrawn.");
    await next();
    if (!$("table").hidden) await showTable();
  } catch (problem) {
    toast(problem.message);
  } finally {
    busy = false;
  }
}

// The ranking, on demand: whoever sees it while voting is no longer blind.

async function toggleTable() {
  $("table").hidden = !$("table").hidden;
  $("reveal").setAttribute("aria-expanded", String(!$("table").hidden));
  $("reveal").textContent = $("table").hidden ? "Ranking" : "Hide ranking";
  if (!$("table").hidden) await showTable();
}

async function showTable() {
  let ranking;
  try {
    ranking = await ask(`v1/ranking?${query}`);
  } catch (problem) {
    fill($("table"), h("p", { className: "problem" }, problem.message));
    return;
  }
  const low = Math.min(0, ...ranking.places.map((place) => place.low));
  const high = Math.max(0, ...ranking.places.map((place) => place.high));
  const head = ["", "checkpoint", "strength, 95 % interval", "score", "votes", "won", "best"];
  const narrow = [false, false, false, true, true, false, true];
  fill(
    $("table"),
    h("h2", {}, verdict(ranking)),
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, ...head.map((text, index) => h("th", { className: narrow[index] ? "wide" : "" }, text)))),
      h("tbody", {}, ...ranking.places.map((place, index) => line(place, index, low, high))),
    ),
    ranking.left_out ? h("p", { className: "quiet" }, `${ranking.left_out} checkpoints are left out: too many to rank.`) : null,
    h("p", { className: "quiet" }, ranking.voters.length ? `Voters: ${ranking.voters.map((found) => `${found.name} (${found.votes})`).join(", ")}.` : "No votes yet."),
    ...keep(ranking),
    h(
      "div",
      { className: "links" },
      h("a", { className: "button", href: `v1/ranking/votes?${query}&format=csv`, download: "votes.csv" }, "Votes as CSV"),
      h("a", { className: "button", href: `v1/ranking/votes?${query}&format=json`, download: "votes.json" }, "Votes as JSON"),
    ),
  );
}

function verdict(ranking) {
  const [first] = ranking.places;
  if (!first || !ranking.votes) return "No votes yet";
  const sure = Math.round(100 * first.best);
  return sure >= 95 ? `${titled(first)} is the best (${sure} %)` : `${titled(first)} leads; better than every other with at least ${sure} %`;
}

const titled = (place) => (runs.length > 1 ? `${place.run}: ${place.title}` : place.title);

function line(place, index, low, high) {
  return h(
    "tr",
    { className: place.base ? "base" : "" },
    h("td", {}, String(index + 1)),
    h("td", { title: place.path ?? "" }, titled(place)),
    h("td", { className: "scale" }, scale(place, low, high)),
    h("td", { className: "wide" }, place.score.toFixed(2)),
    h("td", { className: "wide" }, String(place.votes), place.bad ? ` (${place.bad} bad)` : ""),
    h("td", {}, place.votes ? `${Math.round((100 * place.wins) / place.votes)} %` : ""),
    h("td", { className: "wide" }, `${Math.round(100 * place.best)} %`),
  );
}

const SVG = "http://www.w3.org/2000/svg";

function shape(tag, values) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(values)) element.setAttribute(name, value);
  return element;
}

function scale(place, low, high) {
  const at = (value) => `${(100 * (value - low)) / (high - low || 1)}%`;
  const svg = shape("svg", { role: "img", "aria-label": `${place.score.toFixed(2)}, between ${place.low.toFixed(2)} and ${place.high.toFixed(2)}` });
  svg.append(
    shape("line", { class: "zero", x1: at(0), x2: at(0), y1: "0", y2: "100%" }),
    shape("line", { x1: at(place.low), x2: at(place.high), y1: "50%", y2: "50%" }),
    shape("circle", { cx: at(place.score), cy: "50%", r: "5" }),
  );
  return svg;
}

// "Keep this one": the file of the best checkpoint, and how to go on with it.
function keep(ranking) {
  const best = ranking.places.find((place) => !place.base && place.path);
  if (!best || !ranking.votes) return [];
  const lines = `rushes submit --architecture ${best.architecture || "..."}${best.model ? ` --rushes_model ${quoted(best.model)}` : ""} \\\n    --weights ${quoted(best.path)} --step ${best.step} \\\n    --sample_prompts prompts.txt --output_dir ${quoted(best.output_dir || ".")}`;
  return [
    h("div", { className: "keep" }, h("h3", {}, `Keep ${titled(best)}`), h("p", { className: "quiet" }, best.path), h("a", { className: "button", href: `${samplePath(best.sample)}/checkpoint`, download: "" }, "Download"), h("pre", {}, lines)),
  ];
}

const quoted = (text) => (/^[\w./:@=+-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

// Controls

for (const button of $("choices").querySelectorAll("[data-choice]")) button.addEventListener("click", () => vote(button.dataset.choice));
$("undo").addEventListener("click", undo);
$("reveal").addEventListener("click", toggleTable);
$("voter").addEventListener("change", () => {
  localStorage.setItem("voter", voter());
  if (voter()) next();
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.matches("input")) {
    if (event.key === "Enter") event.target.blur();
    return;
  }
  const { key } = event;
  if (KEYS[key]) vote(KEYS[key]);
  else if (key === "u" || key === "Backspace") undo();
  else if (key === "r") toggleTable();
  else if (key === " ") setPlaying(!isPlaying());
  else if (key === "," || key === ".") nudge(key === "," ? -1 : 1);
  else if (key === "Escape") location.href = $("back").href;
  else return;
  event.preventDefault();
});
window.addEventListener("hashchange", () => location.reload());

setTheme();
$("back").href = runs.length ? `./#${new URLSearchParams({ run: runs[0] })}` : "./";
$("run-name").textContent = runs.join(" + ");
document.title = `${runs.join(" + ")} · Blind ranking`;
$("voter").value = localStorage.getItem("voter") ?? "";
if (!runs.length) notice("No run is named: open this page from the sheet of a run.");
else if (voter()) next();
else {
  notice("Who votes? Write a name above: votes of several people add up and can be told apart.");
  $("voter").focus();
}
