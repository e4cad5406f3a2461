// The run that is shown: its rows, columns and cells, kept true by events.

import { ask, runPath } from "./server.js";
import { isOver, isWrong } from "./words.js";

export const grid = {
  run: null,
  position: null,
  truncated: false,
  columns: [],
  rows: [],
  cells: new Map(), // sample id -> cell
  stacks: new Map(), // place -> cells, newest first
};

const place = (row, column) => `${row}\n${column}`;

export const stackAt = (row, column) => grid.stacks.get(place(row.key, column.key)) ?? [];
export const cellAt = (row, column) => stackAt(row, column)[0] ?? null;
// What drew the noise of the samples that a row shows, each kind of hardware once.
export function noiseOrigins(row) {
  // Where every sample has a seed of its own, no two have the same noise anyway.
  if (row.seed === undefined || row.seed === null) return [];
  const shown = grid.columns.map((column) => cellAt(row, column)).filter((cell) => cell && cell.state === "done" && cell.noise);
  return [...new Set(shown.map((cell) => cell.noise))].sort();
}

export const rowOf = (cell) => grid.rows.find((row) => row.key === cell.row);
export const columnOf = (cell) => grid.columns.find((column) => column.key === cell.column);

let meanwhile = null; // events that came while the grid is being read

// Read the grid of a run. Returns false when it has to be read once more. One at a time: see `oneAtATime`.
export async function load(run) {
  const later = (meanwhile = []);
  let found;
  try {
    found = await ask(`${runPath(run)}/grid`);
  } finally {
    meanwhile = null;
  }
  // Cells that stay are the same objects as before: whoever shows one goes on showing it.
  const cells = new Map();
  const stacks = new Map();
  for (const fresh of found.cells) {
    const known = grid.run === run ? grid.cells.get(fresh.id) : null;
    const cell = known ? replace(known, fresh) : fresh;
    cells.set(cell.id, cell);
    const key = place(cell.row, cell.column);
    if (!stacks.has(key)) stacks.set(key, []);
    stacks.get(key).push(cell);
  }
  markSweep(found.columns);
  Object.assign(grid, { run, position: found.position ?? "0-0", truncated: found.truncated ?? false, columns: found.columns, rows: found.rows, cells, stacks });
  // The answer may have been on its way while more happened.
  return later.map(apply).every((cell) => cell !== null);
}

// One checkpoint at several strengths: the columns are told apart by these.
function markSweep(columns) {
  const trained = columns.filter((column) => !column.base);
  if (trained.length < 2 || new Set(trained.map((column) => `${column.step ?? 0} ${column.fingerprint}`)).size > 1) return;
  for (const column of trained) column.swept = true;
}

export function clear() {
  Object.assign(grid, { run: null, position: null, truncated: false, columns: [], rows: [], cells: new Map(), stacks: new Map() });
}

function replace(cell, fresh) {
  for (const name of Object.keys(cell)) delete cell[name];
  return Object.assign(cell, fresh);
}

// Takes in an event. Returns the cell that it changed; null when the grid has to be read again to know its place;
// undefined when it changes nothing here.
export function apply(event) {
  meanwhile?.push(event);
  // What the grid was read after is in it already; the event of a start must not undo an end.
  if (event.run !== grid.run || !isAfter(event.at, grid.position)) return undefined;
  const cell = grid.cells.get(event.id);
  if (!cell) return null;
  const { data } = event;
  switch (event.type) {
    case "queued":
    case "retry":
    case "handed_back":
      return Object.assign(cell, { state: "queued", cancelling: false, stage: "", step: 0, total: 0, media: false, error: null, code: null, health: [] });
    case "started":
      return Object.assign(cell, { state: "running", stage: "", step: 0, total: 0 });
    case "progress":
      return Object.assign(cell, { state: "running", stage: data.stage, step: data.step, total: data.total });
    case "cancelling":
      return Object.assign(cell, { cancelling: true });
    case "scored":
      return Object.assign(cell, { scores: data.scores });
    case "drifted":
      return cell; // the end of the sample has told its drift
    case "marked":
      return Object.assign(cell, { favourite: data.favourite });
    default:
      return Object.assign(cell, ended(event, data));
  }
}

// Ids of events are milliseconds and a number within them.
function isAfter(id, position) {
  const [time, number] = id.split("-").map(Number);
  const [thenTime, thenNumber] = position.split("-").map(Number);
  return time > thenTime || (time === thenTime && number > thenNumber);
}

function ended(event, result) {
  return {
    state: event.type,
    cancelling: false,
    media: Boolean(result.path),
    video: result.media_type === "video/mp4",
    version: event.at.split("-")[0],
    seed: result.seed ?? null,
    width: result.width ?? null,
    height: result.height ?? null,
    frame_count: result.frame_count ?? null,
    fps: result.fps ?? null,
    health: result.health ?? [],
    drift: result.drift?.latents ?? null,
    drift_pixels: result.drift?.pixels ?? null,
    scores: result.scores ?? {},
    noise: result.noise ?? null,
    error: result.error?.message ?? null,
    code: result.error?.code ?? null,
  };
}

const SHOWN = {
  favourite: (cell) => cell.favourite,
  flagged: isWrong,
  running: (cell) => !isOver(cell),
  failed: (cell) => cell.state === "failed" || cell.state === "dead",
  done: (cell) => cell.state === "done",
};

// True when a cell is one of those that were asked for.
export function matches(cell, filter) {
  return !SHOWN[filter.show] || Boolean(SHOWN[filter.show](cell));
}

// Rows and columns that a filter leaves: {q, show, thin, strength}, all text.
export function filtered(filter) {
  const words = filter.q.toLowerCase().split(/\s+/).filter(Boolean);
  let rows = grid.rows.filter((row) => {
    const text = `${row.prompt} ${row.options?.negative_prompt ?? ""} ${row.seed ?? ""}`.toLowerCase();
    return words.every((word) => text.includes(word));
  });
  let columns = grid.columns.filter((column) => column.base || !filter.strength || String(column.strength ?? 1) === filter.strength);
  columns = thinned(columns, filter.thin);
  if (SHOWN[filter.show]) {
    const found = [...grid.cells.values()].filter((cell) => matches(cell, filter));
    const rowKeys = new Set(found.map((cell) => cell.row));
    const columnKeys = new Set(found.map((cell) => cell.column));
    rows = rows.filter((row) => rowKeys.has(row.key));
    columns = columns.filter((column) => column.base || columnKeys.has(column.key));
  }
  return { rows, columns };
}

function thinned(columns, thin) {
  const base = columns.filter((column) => column.base);
  const others = columns.filter((column) => !column.base);
  if (thin.startsWith("new")) return [...base, ...others.slice(-Number(thin.slice(3)))];
  const every = Number(thin) || 1;
  // Counted from the newest, which is the one that is always looked at.
  return [...base, ...others.filter((_, index) => (others.length - 1 - index) % every === 0)];
}
