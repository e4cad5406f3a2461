// The page: reads the run of the address, draws it, and follows what happens.

import { at, go, onAddress } from "./address.js";
import { fillPlace, resample, sampleAll, sweep } from "./asking.js";
import { syncCompare } from "./compare.js";
import { $, debounce, h, notice, oneAtATime, setIcon, setTheme, soon, toast } from "./dom.js";
import { listen } from "./keyboard.js";
import { follow } from "./live.js";
import { apply, cellAt, clear, columnOf, grid, load, rowOf } from "./model.js";
import { isPlaying, onPlayback, setPlaying } from "./playback.js";
import { heardOf, openQueue, refreshQueue } from "./queue.js";
import { isKnown, openInfo, readRuns } from "./runs.js";
import { samplePath, send } from "./server.js";
import { atNewest, cellWidth, changed, focused, markedId, render, scrollToNewest, setFocus, setMarked } from "./sheet.js";
import { syncViewer, viewed } from "./viewer.js";

const THEMES = ["", "light", "dark"];
const EMPTY = "No samples yet.\nThey appear here as soon as a training run submits its first checkpoint.";

// What people can do with a sample.

async function told(work, said) {
  try {
    await work();
    if (said) toast(said);
  } catch (error) {
    toast(error.message);
  }
}

const actions = {
  open: ({ row, column, cell }) => (cell ? go({ sample: cell.id }, { push: true }) : fillPlace(row, column)),
  favourite: (cell) => told(() => send(cell.favourite ? "DELETE" : "PUT", `${samplePath(cell.id)}/favourite`)),
  cancel: (cell) => told(() => send("DELETE", samplePath(cell.id))),
  retry: (cell) => told(() => send("POST", `${samplePath(cell.id)}/retry`), "Queued again."),
  resample: (cell) => resample(cell),
  sampleAll: (cell) => sampleAll(cell),
  sweep: (cell) => sweep(cell),
  queue: openQueue,
  rank: openRanking,
  unmark: () => setMarked(null),
  compare,
};

function openRanking() {
  if (grid.run) location.href = `rank#${new URLSearchParams({ run: grid.run })}`;
}

// From the large view with the base model; on the sheet mark one, then the other.
function compare(cell) {
  if (!cell.media) return toast("There is nothing to compare yet.");
  const first = grid.cells.get(markedId());
  const base = grid.columns.find((column) => column.base && column !== columnOf(cell));
  if (first && first !== cell) {
    setMarked(null);
    return go({ a: first.id, b: cell.id }, { push: true });
  }
  const other = viewed() && base ? cellAt(rowOf(cell), base) : null;
  if (other?.media) return go({ a: other.id, b: cell.id }, { push: true });
  if (first === cell) return setMarked(null);
  setMarked(cell.id);
  if (viewed()) go({ sample: "" });
  return toast("Marked as A: choose another sample and press c.");
}

// Reading and following

const READ_MS = 250; // what happens within this time is read at once
const COME_BACK_MS = 3000;

let readingTook = 0; // a grid that is long in coming is not asked for all the time

async function read() {
  const begun = performance.now();
  try {
    const run = await readRuns();
    if (run === null) {
      clear();
      notice(EMPTY);
    } else {
      await readGrid(run);
    }
  } catch (error) {
    if (!grid.cells.size) notice(error.message);
    setTimeout(again, COME_BACK_MS);
  }
  readingTook = performance.now() - begun;
}

async function readGrid(run) {
  const fresh = grid.run !== run;
  const newest = fresh || atNewest();
  const whole = await load(run);
  notice("");
  strengths();
  render();
  if (newest) scrollToNewest();
  if (grid.truncated && fresh) toast(`Only the newest ${grid.cells.size} samples are shown.`);
  syncDialogs();
  if (!whole) again();
}

const show = oneAtATime(read);
const again = soon(show, () => Math.max(READ_MS, 2 * readingTook));

async function start() {
  await show();
  follow(grid.position, hear, again);
  refreshQueue();
}

function hear(event) {
  heardOf(event);
  const cell = apply(event);
  if (cell) {
    changed(cell);
    if (viewed() === cell) syncViewer(actions);
  } else if (event.run === grid.run ? cell === null : !isKnown(event.run)) {
    again();
  }
}

function syncDialogs() {
  syncViewer(actions);
  syncCompare();
}

// Controls

function strengths() {
  const found = [...new Set(grid.columns.filter((column) => !column.base).map((column) => String(column.strength ?? 1)))];
  $("strength").hidden = found.length < 2;
  $("strength").replaceChildren(h("option", { value: "" }, "Every strength"), ...found.sort((a, b) => a - b).map((value) => h("option", { value }, `× ${value}`)));
  $("strength").value = at("strength");
}

function showControls() {
  for (const name of ["show", "thin", "strength"]) $(name).value = at(name);
  if (document.activeElement !== $("search")) $("search").value = at("q");
  $("zoom").value = cellWidth();
}

for (const name of ["show", "thin", "strength", "zoom"]) $(name).addEventListener("input", () => go({ [name]: $(name).value }));
$("search").addEventListener("input", debounce(() => go({ q: $("search").value }), 120));
$("play").addEventListener("click", () => setPlaying(!isPlaying()));
$("queue-open").addEventListener("click", openQueue);
$("about").addEventListener("click", () => openInfo(show));
$("rank").addEventListener("click", openRanking);
$("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(localStorage.getItem("theme") ?? "") + 1) % THEMES.length];
  localStorage.setItem("theme", next);
  setTheme();
  toast(next ? `Colours: ${next}.` : "Colours: as the system.");
});

onPlayback(() => {
  setIcon($("play"), isPlaying() ? "pause" : "play");
  $("play").setAttribute("aria-pressed", String(isPlaying()));
});

$("sheet").addEventListener("click", (event) => {
  const element = event.target.closest(".cell");
  if (!element) return;
  setFocus(Number(element.dataset.row), Number(element.dataset.column));
  actions.open(focused());
});

onAddress(() => {
  showControls();
  if (at("run") && at("run") !== grid.run) show();
  else {
    render();
    syncDialogs();
  }
});

setTheme();
showControls();
setPlaying(isPlaying());
listen(actions);
start();
