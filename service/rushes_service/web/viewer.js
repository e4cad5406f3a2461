// One sample, large: the training slider below it scrubs its prompt over the checkpoints, its receipt is beside it.

import { at, go } from "./address.js";
import { details } from "./details.js";
import { $, h, icon, open, setIcon } from "./dom.js";
import { cellAt, columnOf, grid, rowOf, stackAt } from "./model.js";
import { add, isPlaying, onPlayback, remove, setPlaying } from "./playback.js";
import { mediaAddress, stillAddress } from "./server.js";
import { shownColumns, shownRows } from "./sheet.js";
import { columnNote, columnTitle, isDraft, stateWords } from "./words.js";

const SETTLE_MS = 140; // while the slider moves, stills are enough

const dialog = $("viewer");
let parts = null;
let shownCell = null;
let settle = 0;

export const viewed = () => (dialog.open ? shownCell : null);

// Bring the dialog in line with the address.
export function syncViewer(actions) {
  const cell = grid.cells.get(at("sample"));
  if (!cell) {
    if (dialog.open) dialog.close();
    return;
  }
  if (!dialog.open) {
    build(actions);
    open(dialog, () => {
      leave();
      if (at("sample")) go({ sample: "" });
    });
  }
  show(cell, actions);
}

function build(actions) {
  parts = {
    title: h("h2"),
    stage: h("div", { className: "stage" }),
    slider: h("input", { type: "range", min: 0, step: 1, "aria-label": "Training steps" }),
    strip: h("div", { className: "strip" }),
    aside: h("aside"),
    play: h("button", { className: "icon plain", type: "button", title: "Play or pause (space)", onclick: () => setPlaying(!isPlaying()) }, icon("pause")),
    star: h("button", { className: "icon plain toggle", type: "button", title: "Favourite (f)", onclick: () => actions.favourite(shownCell) }, icon("star")),
  };
  parts.slider.addEventListener("input", () => scrub(Number(parts.slider.value)));
  dialog.replaceChildren(
    h(
      "section",
      { className: "look" },
      h(
        "div",
        { className: "bar-top" },
        parts.title,
        h("span", { className: "grow" }),
        parts.play,
        parts.star,
        h("button", { type: "button", title: "Compare with the base model (c)", onclick: () => actions.compare(shownCell) }, icon("compare"), "Compare"),
        h("button", { type: "button", title: "Blind ranking of the checkpoints", onclick: () => actions.rank() }, "Rank"),
        h("button", { type: "button", title: "Sample again with changes (r)", onclick: () => actions.resample(shownCell) }, "Re-sample…"),
        h("button", { className: "icon plain", type: "button", title: "Close (Esc)", "aria-label": "Close", onclick: () => dialog.close() }, icon("close")),
      ),
      parts.stage,
      h("div", { className: "scrub" }, parts.slider, parts.strip),
    ),
    parts.aside,
  );
}

function lane(cell) {
  const row = rowOf(cell);
  const columns = shownColumns().includes(columnOf(cell)) ? shownColumns() : grid.columns;
  return columns.map((column) => ({ column, cell: cellAt(row, column) })).filter((entry) => entry.cell);
}

function show(cell, actions) {
  const row = rowOf(cell);
  const column = columnOf(cell);
  const steps = lane(cell);
  const index = steps.findIndex((entry) => entry.column === column);
  const changed = shownCell !== cell || parts.stage.dataset.version !== stageVersion(cell);
  shownCell = cell;
  parts.title.replaceChildren(columnTitle(column), " ", h("small", {}, [columnNote(column), column.name, isDraft(cell) ? "draft" : null].filter(Boolean).join(" · ")));
  parts.slider.max = Math.max(0, steps.length - 1);
  parts.slider.value = Math.max(0, index);
  parts.star.setAttribute("aria-pressed", String(Boolean(cell.favourite)));
  showStrip(steps, index);
  if (changed) showStage(cell, row);
  parts.aside.replaceChildren(details(cell, row, column, stackAt(row, column), actions));
}

const stageVersion = (cell) => `${cell.id} ${cell.version} ${cell.media}`;

function showStage(cell, row) {
  clearStage();
  parts.stage.dataset.version = stageVersion(cell);
  parts.stage.style.setProperty("--shape", (cell.width ?? row.width) / (cell.height ?? row.height));
  if (!cell.media) {
    parts.stage.append(h("p", { className: "words" }, cell.error ?? stateWords(cell)));
    return;
  }
  const frame = h("div", { className: "frame" }, h("img", { src: stillAddress(cell, 640), alt: row.prompt }));
  parts.stage.append(frame);
  clearTimeout(settle);
  settle = setTimeout(() => {
    if (!cell.video) {
      frame.firstChild.src = mediaAddress(cell);
      return;
    }
    const video = h("video", { muted: true, loop: true, playsInline: true, preload: "auto", ariaLabel: row.prompt });
    video.addEventListener("seeked", () => video.classList.add("ready"), { once: true });
    video.addEventListener("playing", () => video.classList.add("ready"), { once: true });
    video.src = mediaAddress(cell);
    frame.append(video);
    add(video, cell.fps);
  }, SETTLE_MS);
}

function clearStage() {
  clearTimeout(settle);
  for (const video of parts.stage.querySelectorAll("video")) remove(video);
  parts.stage.replaceChildren();
  delete parts.stage.dataset.version;
}

function leave() {
  if (parts) clearStage();
  shownCell = null;
}

function showStrip(steps, index) {
  const known = parts.strip.dataset.of;
  const signature = steps.map((entry) => `${entry.cell.id}${entry.cell.version ?? ""}`).join();
  if (known !== signature) {
    parts.strip.dataset.of = signature;
    parts.strip.replaceChildren(
      ...steps.map(({ column, cell }, place) =>
        h(
          "button",
          { type: "button", className: column.base ? "base" : "", title: columnTitle(column), onclick: () => scrub(place) },
          cell.media ? h("img", { src: stillAddress(cell, 160), alt: "", loading: "lazy", draggable: false }) : h("i"),
          h("small", {}, column.base ? "base" : column.swept ? columnTitle(column) : String(column.step ?? 0)),
        ),
      ),
    );
  }
  [...parts.strip.children].forEach((button, place) => button.setAttribute("aria-current", String(place === index)));
  const current = parts.strip.children[index];
  if (current) parts.strip.scrollTo({ left: current.offsetLeft - (parts.strip.clientWidth - current.clientWidth) / 2, behavior: "instant" });
}

function scrub(place) {
  const entry = lane(shownCell)[place];
  if (entry) go({ sample: entry.cell.id });
}

// Along the training with left and right, to another prompt with up and down.
export function step(down, right) {
  if (right) return scrub(lane(shownCell).findIndex((entry) => entry.column.key === shownCell.column) + right);
  const rows = shownRows();
  const next = rows[rows.indexOf(rowOf(shownCell)) + down];
  const cell = next && cellAt(next, columnOf(shownCell));
  if (cell) go({ sample: cell.id });
}

onPlayback(() => parts && setIcon(parts.play, isPlaying() ? "pause" : "play"));
