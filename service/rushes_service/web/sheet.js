// The sheet: prompts down, checkpoints across, the base model pinned as column zero. Only what is in view is drawn.

import { at, go } from "./address.js";
import { clearMedia, makeCell, showCell } from "./cell.js";
import { sparkline } from "./curves.js";
import { $, clamp, h, perFrame } from "./dom.js";
import { GAP, NARROW, SIDE, columnX, measure, scrollTo, visible } from "./layout.js";
import { cellAt, filtered, grid, matches, noiseOrigins, stackAt } from "./model.js";
import { OTHER_NOISE, columnNote, columnTitle, isOver, otherNoiseTitle, rowFacts } from "./words.js";

const NARROW_CELL = 148; // two and a bit on a phone
const COLUMNS_IN_VIEW = 6;
const FACTS = 38; // height of the two lines below a prompt
const NOTE = 19; // and of a line more
const CURVE = 20; // height of the curve of its drift
const LINE = 17.6; // and of one line of it
const SMALLEST = 88;
const LARGEST = 480;

const sheet = $("sheet");
const cells = new Map(); // place -> view
const heads = new Map(); // column key -> element
const sides = new Map(); // row key -> element
let layout = measure([], [], NARROW_CELL, 1000);
let rows = [];
let columns = [];
let focus = null; // {row, column}: indices into rows and columns
let marked = null; // id of the sample that waits for another to be compared with

export const filterNow = () => ({ q: at("q"), show: at("show"), thin: at("thin"), strength: at("strength") });
export const shownRows = () => rows;
export const shownColumns = () => columns;

// As asked for, else so that several checkpoints are in view.
export function cellWidth() {
  if (at("zoom")) return clamp(Number(at("zoom")) || 0, SMALLEST, LARGEST);
  if (sheet.clientWidth < NARROW) return NARROW_CELL;
  return clamp(Math.round((sheet.clientWidth - SIDE) / COLUMNS_IN_VIEW) - GAP, NARROW_CELL, 300);
}

// Work out rows, columns and places anew, then draw.
export function render() {
  ({ rows, columns } = filtered(filterNow()));
  layout = measure(rows, columns, cellWidth(), sheet.clientWidth);
  if (focus) focus = { row: clamp(focus.row, 0, rows.length - 1), column: clamp(focus.column, 0, columns.length - 1) };
  document.body.classList.toggle("narrow", layout.narrow);
  $("search").placeholder = layout.narrow ? "Search" : "Search prompts  /";
  const { style } = $("plane");
  style.width = `${layout.width}px`;
  style.height = `${layout.height}px`;
  $("top").style.height = `${layout.head}px`;
  $("left").style.height = `${layout.height - layout.head}px`;
  for (const id of ["left", "corner"]) $(id).style.width = `${layout.left || layout.side}px`;
  sheet.setAttribute("aria-rowcount", rows.length);
  sheet.setAttribute("aria-colcount", columns.length);
  for (const element of [...heads.values(), ...sides.values()]) element.remove();
  heads.clear();
  sides.clear();
  draw();
}

export const redraw = perFrame(draw);

function draw() {
  const seen = visible(layout, { left: sheet.scrollLeft, top: sheet.scrollTop, width: sheet.clientWidth, height: sheet.clientHeight });
  const wantedCells = new Set();
  const wantedHeads = new Set();
  const wantedSides = new Set();
  const drawColumn = (column, x, parent, headParent, rowIndices) => {
    wantedHeads.add(column.key);
    drawHead(column, x, headParent);
    for (const index of rowIndices) {
      wantedCells.add(`${rows[index].key}\n${column.key}`);
      drawCell(index, column, x, parent);
    }
  };
  const rowIndices = span(seen.rows);
  if (layout.base) drawColumn(layout.base, layout.side, $("left"), $("corner"), rowIndices);
  for (const index of span(seen.columns)) drawColumn(layout.moving[index], columnX(layout, index), $("cells"), $("top"), rowIndices);
  for (const index of rowIndices) {
    wantedSides.add(rows[index].key);
    drawSide(rows[index], index);
  }
  discard(cells, wantedCells, (view) => {
    clearMedia(view);
    view.element.remove();
  });
  discard(heads, wantedHeads, (element) => element.remove());
  discard(sides, wantedSides, (element) => element.remove());
}

const span = ([first, last]) => Array.from({ length: Math.max(0, last - first + 1) }, (_, index) => first + index);

function discard(known, wanted, drop) {
  for (const [key, value] of known) {
    if (wanted.has(key)) continue;
    drop(value);
    known.delete(key);
  }
}

function drawHead(column, x, parent) {
  if (heads.has(column.key)) return;
  const open = grid.rows.filter((row) => stackAt(row, column).some((cell) => !isOver(cell))).length;
  const element = h(
    "div",
    { className: column.base ? "head base" : "head", role: "columnheader", title: column.name || null },
    h("strong", {}, columnTitle(column)),
    h("small", {}, columnNote(column)),
    open ? h("em", {}, `${open} to come`) : null,
  );
  element.style.transform = `translateX(${x}px)`;
  element.style.width = `${layout.cellWidth}px`;
  heads.set(column.key, element);
  parent.append(element);
}

function drawSide(row, index) {
  if (sides.has(row.key)) return;
  const curve = sparkline(row);
  const drawn = noiseOrigins(row);
  const note = drawn.length > 1 ? h("em", { className: "noise", title: otherNoiseTitle(drawn) }, OTHER_NOISE) : null;
  const element = h(
    "div",
    { className: "prompt", role: "rowheader", title: row.prompt },
    h("p", {}, row.prompt || "(no text)"),
    h("small", {}, ...rowFacts(row).map((line) => h("span", {}, line)), note, curve),
  );
  const above = layout.narrow;
  element.style.transform = `translateY(${layout.tops[index] - layout.strip}px)`;
  element.style.height = `${above ? layout.strip : layout.heights[index]}px`;
  element.style.width = above ? `${sheet.clientWidth}px` : `${layout.side}px`;
  // Whole lines only, above the facts.
  element.style.setProperty("--lines", clamp(Math.floor((layout.heights[index] - FACTS - (note ? NOTE : 0) - (curve ? CURVE : 0)) / LINE), 1, 4));
  sides.set(row.key, element);
  $("left").append(element);
}

function drawCell(index, column, x, parent) {
  const row = rows[index];
  const key = `${row.key}\n${column.key}`;
  let view = cells.get(key);
  if (!view) {
    view = makeCell();
    cells.set(key, view);
  }
  if (view.element.parentNode !== parent) parent.append(view.element);
  const top = layout.tops[index] + (parent === $("cells") ? layout.head : 0);
  const box = `${x} ${top} ${layout.cellWidth} ${layout.heights[index]}`;
  if (view.box !== box) {
    view.box = box;
    view.element.style.transform = `translate(${x}px, ${top}px)`;
    view.element.style.width = `${layout.cellWidth}px`;
    view.element.style.height = `${layout.heights[index]}px`;
  }
  const columnIndex = columns.indexOf(column);
  view.element.dataset.row = index;
  view.element.dataset.column = columnIndex;
  view.element.tabIndex = focus && focus.row === index && focus.column === columnIndex ? 0 : -1;
  const stack = stackAt(row, column);
  showCell(view, stack, {
    dimmed: Boolean(stack[0]) && !matches(stack[0], filterNow()),
    mark: stack[0] && stack[0].id === marked ? "A" : "",
    label: `${row.prompt}, ${columnTitle(column)}`,
    width: layout.cellWidth,
  });
}

// A change of one sample: its cell, and the head of its column.
export function changed(cell) {
  sides.get(cell.row)?.remove();
  sides.delete(cell.row);
  heads.get(cell.column)?.remove();
  heads.delete(cell.column);
  redraw();
}

// Focus, for the keyboard.

export function focused() {
  if (!focus || !rows[focus.row] || !columns[focus.column]) return null;
  const row = rows[focus.row];
  const column = columns[focus.column];
  return { row, column, cell: cellAt(row, column) };
}

export function moveFocus(down, right) {
  const start = focus ?? { row: 0, column: 0 };
  setFocus(focus ? start.row + down : 0, focus ? start.column + right : 0);
}

export function setFocus(rowIndex, columnIndex) {
  if (!rows.length || !columns.length) return;
  focus = { row: clamp(rowIndex, 0, rows.length - 1), column: clamp(columnIndex, 0, columns.length - 1) };
  const moving = columns[focus.column] === layout.base ? -1 : focus.column - (layout.base ? 1 : 0);
  const view = { left: sheet.scrollLeft, top: sheet.scrollTop, width: sheet.clientWidth, height: sheet.clientHeight };
  const place = scrollTo(layout, view, focus.row, moving);
  sheet.scrollTo(place);
  draw();
  cells.get(`${rows[focus.row].key}\n${columns[focus.column].key}`)?.element.focus({ preventScroll: true });
}

export function setMarked(id) {
  marked = id;
  redraw();
}

export const markedId = () => marked;

export function zoomBy(factor) {
  go({ zoom: String(clamp(Math.round((cellWidth() * factor) / 4) * 4, SMALLEST, LARGEST)) });
}

// Show the newest checkpoints when a run is opened.
export function scrollToNewest() {
  sheet.scrollTo({ left: layout.width, top: 0 });
  draw();
}

// True when the newest column is in view, so that a new one should come into view too.
export const atNewest = () => sheet.scrollLeft + sheet.clientWidth >= layout.width - layout.cellWidth / 2;

sheet.addEventListener("scroll", redraw, { passive: true });
new ResizeObserver(() => render()).observe(sheet);
