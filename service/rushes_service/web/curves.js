// Curves over the checkpoints of a run: drift from the base model, and scores. Small beside a row, large for the run.

import { h } from "./dom.js";
import { cellAt, grid } from "./model.js";
import { isDraft } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";

function shape(tag, values, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(values)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// What a curve may show: name, and the value of a cell.
export function measures() {
  const names = new Set([...grid.cells.values()].flatMap((cell) => Object.keys(cell.scores ?? {})));
  const found = [["drift", "Drift from the base model, in standard deviations of its latents", (cell) => cell.drift]];
  found.push(["drift_pixels", "Drift from the base model, in 8-bit levels of its pixels", (cell) => cell.drift_pixels]);
  for (const name of names) found.push([name, `Score: ${name}`, (cell) => cell.scores?.[name]]);
  return found.map(([name, title, read]) => ({ name, title, read }));
}

// Points of a row: column, and value. The base model does not drift.
function points(row, measure) {
  return grid.columns
    .map((column) => {
      const cell = cellAt(row, column);
      const known = cell ? measure.read(cell) : null;
      return { column, cell, value: column.base && measure.name.startsWith("drift") ? 0 : known };
    })
    .filter((point) => point.value !== null && point.value !== undefined);
}

const isControl = (row) => row.drift_limit !== null && row.drift_limit !== undefined;

const FIRST = { name: "drift", title: "drift", read: (cell) => cell.drift };

// The drift of one row, as high as a line of text; null where there is none.
export function sparkline(row) {
  const found = points(row, FIRST);
  if (found.filter((point) => !point.column.base).length < 1 || found.length < 2) return null;
  const highest = Math.max(...grid.rows.flatMap((other) => points(other, FIRST).map((point) => point.value)), row.drift_limit ?? 0, 1e-6);
  const x = (index) => (100 * index) / (found.length - 1);
  const y = (value) => 17 - (15 * value) / highest;
  const last = found[found.length - 1];
  const over = isControl(row) && found.some((point) => point.value > row.drift_limit);
  const svg = shape("svg", { class: `spark${isControl(row) ? " control" : ""}${over ? " over" : ""}`, viewBox: "0 0 100 18", preserveAspectRatio: "none", role: "img", "aria-label": `drift ${last.value.toFixed(2)}` });
  if (isControl(row)) svg.append(shape("line", { class: "limit", x1: 0, x2: 100, y1: y(row.drift_limit), y2: y(row.drift_limit) }));
  svg.append(shape("polyline", { points: found.map((point, index) => `${x(index)},${y(point.value)}`).join(" ") }));
  return h("span", { className: "drift", title: `Drift from the base model, by checkpoint: ${found.map((point) => point.value.toFixed(2)).join(", ")}${isControl(row) ? `; control, limit ${row.drift_limit}` : ""}` }, svg, h("b", {}, last.value.toFixed(2)), isControl(row) ? h("em", {}, "control") : null);
}

// All rows of one measure in one picture; null where nothing was measured.
export function chart(measure) {
  const lines = grid.rows.map((row) => ({ row, found: points(row, measure) })).filter((line) => line.found.some((point) => !point.column.base));
  if (!lines.length) return null;
  const columns = grid.columns.filter((column) => lines.some((line) => line.found.some((point) => point.column === column)));
  const values = lines.flatMap((line) => line.found.map((point) => point.value));
  const low = measure.name.startsWith("drift") ? 0 : Math.min(...values);
  const high = Math.max(...values, low + 1e-6);
  const x = (column) => 34 + (columns.indexOf(column) * 452) / Math.max(1, columns.length - 1);
  const y = (value) => 150 - (140 * (value - low)) / (high - low);
  const svg = shape("svg", { class: "chart", viewBox: "0 0 500 172", role: "img", "aria-label": measure.title });
  for (const value of [low, (low + high) / 2, high]) {
    svg.append(shape("line", { class: "grid", x1: 34, x2: 486, y1: y(value), y2: y(value) }), shape("text", { x: 30, y: y(value) + 3, "text-anchor": "end" }, value.toFixed(high - low < 5 ? 2 : 0)));
  }
  for (const column of [columns[0], columns[columns.length - 1]]) {
    const label = column.base ? "base" : column.swept ? `\u00d7 ${column.strength ?? 1}` : String(column.step ?? 0);
    svg.append(shape("text", { x: x(column), y: 166, "text-anchor": column === columns[0] ? "start" : "end" }, label));
  }
  for (const { row, found } of lines) {
    const title = shape("title", {}, `${isDraft(row) ? "draft of " : ""}${row.prompt}: ${found.map((point) => point.value.toFixed(2)).join(", ")}`);
    svg.append(shape("polyline", { class: isControl(row) ? "control" : "", points: found.map((point) => `${x(point.column)},${y(point.value)}`).join(" ") }, title));
  }
  const controls = lines.some((line) => isControl(line.row));
  return h("figure", { className: "curves" }, h("h3", {}, measure.title), svg, controls ? h("p", { className: "quiet" }, "Dashed: controls, which should stay low.") : null);
}
