// Where everything is on the plane, in pixels: computed, never measured, so that 200 x 20 cells cost what is seen.

import { clamp } from "./dom.js";

export const GAP = 6;
const HEAD = 46; // height of the column heads
export const SIDE = 208; // width of the prompts
const STRIP = 40; // height of a prompt above its row, on narrow screens
const LEAST_ROW = 74;
export const NARROW = 640;
const OVERSCAN = 1; // rows and columns drawn beyond what is seen

export function measure(rows, columns, cellWidth, viewWidth) {
  const narrow = viewWidth < NARROW;
  const base = columns[0]?.base ? columns[0] : null;
  const pinned = Boolean(base) && !narrow && columns.length > 1;
  const side = narrow ? 0 : SIDE;
  const strip = narrow ? STRIP : 0;
  const left = side + (pinned ? cellWidth + 2 * GAP : 0);
  const moving = pinned ? columns.slice(1) : columns;
  const tops = [];
  const heights = [];
  let y = GAP;
  for (const row of rows) {
    const shape = clamp((row.height || 1) / (row.width || 1), 0.3, 2);
    const height = Math.max(Math.round(cellWidth * shape), narrow ? 48 : LEAST_ROW);
    tops.push(y + strip);
    heights.push(height);
    y += strip + height + GAP * (narrow ? 2 : 1);
  }
  return {
    narrow,
    pinned,
    base: pinned ? base : null,
    side,
    strip,
    left,
    head: HEAD,
    moving,
    tops,
    heights,
    cellWidth,
    width: left + moving.length * (cellWidth + GAP) + GAP,
    height: HEAD + y + GAP,
  };
}

export const columnX = (layout, index) => layout.left + GAP + index * (layout.cellWidth + GAP);

// Indices [first, last] of moving columns and of rows that are in view, or nearly.
export function visible(layout, view) {
  const step = layout.cellWidth + GAP;
  const firstColumn = Math.floor((view.left - GAP) / step) - OVERSCAN;
  const lastColumn = Math.ceil((view.left + view.width - layout.left) / step) + OVERSCAN;
  const firstRow = rowAt(layout, view.top) - OVERSCAN;
  const lastRow = rowAt(layout, view.top + view.height - layout.head) + OVERSCAN;
  return {
    columns: [clamp(firstColumn, 0, layout.moving.length), clamp(lastColumn, -1, layout.moving.length - 1)],
    rows: [clamp(firstRow, 0, layout.tops.length), clamp(lastRow, -1, layout.tops.length - 1)],
  };
}

// The last row that begins above `y`.
function rowAt(layout, y) {
  let low = 0;
  let high = layout.tops.length - 1;
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (layout.tops[middle] - layout.strip <= y) low = middle;
    else high = middle - 1;
  }
  return low;
}

// The scroll position that brings a cell into view without moving more than it must; null if it is in view.
export function scrollTo(layout, view, rowIndex, movingIndex) {
  const top = layout.tops[rowIndex] - layout.strip;
  const bottom = layout.tops[rowIndex] + layout.heights[rowIndex] + GAP;
  const place = { left: view.left, top: view.top };
  const room = view.height - layout.head;
  if (top < view.top) place.top = top - GAP;
  else if (bottom > view.top + room) place.top = Math.min(top - GAP, bottom - room);
  if (movingIndex >= 0) {
    const x = columnX(layout, movingIndex);
    if (x - layout.left - GAP < view.left) place.left = x - layout.left - GAP;
    else if (x + layout.cellWidth + GAP > view.left + view.width) place.left = x + layout.cellWidth + GAP - view.width;
  }
  return place;
}
