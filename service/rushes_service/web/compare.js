// Two samples on top of each other: a wipe, their difference, one beside the other, or one after the other.

import { at, go } from "./address.js";
import { $, clamp, fill, h, icon, open } from "./dom.js";
import { cellAt, columnOf, grid, rowOf } from "./model.js";
import { add, remove } from "./playback.js";
import { mediaAddress } from "./server.js";
import { columnNote, columnTitle, isDraft } from "./words.js";

const MODES = { wipe: "Wipe", side: "Side by side", difference: "Difference", blink: "Blink" };
const BLINK_MS = 500;
const MEASURE_MS = 400;
const MEASURED_WIDTH = 192; // pixels; enough for a mean

const dialog = $("compare");
let parts = null;
let wipe = 0.5;
let gain = 4;
let timers = [];

export const comparing = () => dialog.open;

export function syncCompare() {
  const a = grid.cells.get(at("a"));
  const b = grid.cells.get(at("b"));
  if (!a?.media || !b?.media) {
    if (dialog.open) dialog.close();
    return;
  }
  clear();
  build(a, b, MODES[at("mode")] ? at("mode") : "wipe");
  if (!dialog.open) {
    open(dialog, () => {
      clear();
      if (at("a")) go({ a: "", b: "", mode: "" });
    });
  }
}

function clear() {
  timers.forEach(clearInterval);
  timers = [];
  for (const video of dialog.querySelectorAll("video")) remove(video);
}

function build(a, b, mode) {
  const stage = h("div", { className: `stage mode-${mode}` });
  stage.style.setProperty("--shape", (a.width ?? 1) / (a.height ?? 1));
  stage.style.setProperty("--gain", gain);
  parts = { stage, number: h("output", { title: "Mean difference of the frame that is shown, of 255" }) };
  const layers = [a, b].map((cell, index) => h("figure", { className: index ? "b" : "a" }, medium(cell), h("figcaption", {}, `${"AB"[index]} · ${named(cell)}`)));
  stage.append(...layers);
  if (mode === "wipe") stage.append(handle());
  setWipe(wipe);
  fill(
    dialog,
    h(
      "div",
      { className: "bar-top" },
      chooser("A", a, (id) => go({ a: id })),
      h("button", { type: "button", className: "icon plain", title: "Swap (x)", "aria-label": "Swap", onclick: swap }, "⇄"),
      chooser("B", b, (id) => go({ b: id })),
      h("span", { className: "grow" }),
      parts.number,
      mode === "difference" ? gainSlider() : null,
      h("div", { className: "modes", role: "group", "aria-label": "How to compare" }, ...Object.entries(MODES).map(([key, text]) => modeButton(key, text, mode))),
      h("button", { className: "icon plain", type: "button", title: "Close (Esc)", "aria-label": "Close", onclick: () => dialog.close() }, icon("close")),
    ),
    stage,
    h("p", { className: "text" }, rowOf(a)?.prompt ?? "", rowOf(b) === rowOf(a) ? "" : ` / ${rowOf(b)?.prompt ?? ""}`),
  );
  if (mode === "blink") timers.push(setInterval(() => stage.classList.toggle("second"), BLINK_MS));
  timers.push(setInterval(measureDifference, MEASURE_MS));
}

const named = (cell) => [columnTitle(columnOf(cell)), columnNote(columnOf(cell)), isDraft(cell) ? "draft" : null].filter(Boolean).join(" · ");

function medium(cell) {
  if (!cell.video) return h("img", { src: mediaAddress(cell), alt: named(cell), draggable: false });
  const video = h("video", { muted: true, loop: true, playsInline: true, preload: "auto", className: "ready" });
  video.src = mediaAddress(cell);
  add(video, cell.fps);
  return video;
}

function modeButton(key, text, mode) {
  return h("button", { type: "button", "aria-pressed": String(key === mode), onclick: () => go({ mode: key }) }, text);
}

function chooser(letter, cell, choose) {
  const row = rowOf(cell);
  const others = grid.columns.map((column) => cellAt(row, column)).filter((other) => other?.media);
  if (!others.includes(cell)) others.unshift(cell);
  const select = h("select", { "aria-label": letter, onchange: () => choose(select.value) }, ...others.map((other) => h("option", { value: other.id }, `${letter}: ${named(other)}`)));
  select.value = cell.id;
  return select;
}

export function swap() {
  go({ a: at("b"), b: at("a") });
}

// B to the next checkpoint of its prompt.
export function stepB(right) {
  const b = grid.cells.get(at("b"));
  const others = grid.columns.map((column) => cellAt(rowOf(b), column)).filter((other) => other?.media);
  const next = others[others.indexOf(b) + right];
  if (next) go({ b: next.id });
}

function handle() {
  const bar = h("div", { className: "handle", role: "slider", tabIndex: 0, "aria-label": "Wipe", "aria-valuemin": 0, "aria-valuemax": 100 });
  bar.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -0.02, ArrowRight: 0.02 }[event.key];
    if (!by) return;
    event.stopPropagation();
    setWipe(wipe + by);
  });
  const { stage } = parts;
  const follow = (event) => {
    const box = stage.querySelector("figure").getBoundingClientRect();
    setWipe((event.clientX - box.left) / box.width);
  };
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    follow(event);
    stage.addEventListener("pointermove", follow);
  });
  stage.addEventListener("pointerup", () => stage.removeEventListener("pointermove", follow));
  return bar;
}

function setWipe(value) {
  wipe = clamp(value, 0, 1);
  parts.stage.style.setProperty("--wipe", `${wipe * 100}%`);
  parts.stage.querySelector(".handle")?.setAttribute("aria-valuenow", Math.round(wipe * 100));
}

function gainSlider() {
  const slider = h("input", { type: "range", min: 1, max: 16, step: 1, value: gain, title: "Brightness of the difference" });
  slider.addEventListener("input", () => {
    gain = Number(slider.value);
    parts.stage.style.setProperty("--gain", gain);
  });
  return slider;
}

// The mean difference of the two frames that are shown, on a small canvas.
const canvases = [0, 1].map(() => document.createElement("canvas"));

function measureDifference() {
  const media = [...parts.stage.querySelectorAll("img, video")];
  const ready = media.length === 2 && media.every((element) => (element.tagName === "IMG" ? element.complete : element.readyState >= 2));
  if (!ready || document.hidden) return;
  const [a, b] = media.map((element, index) => pixels(canvases[index], element));
  if (a.length !== b.length) return;
  let sum = 0;
  for (let index = 0; index < a.length; index += 4) {
    sum += Math.abs(a[index] - b[index]) + Math.abs(a[index + 1] - b[index + 1]) + Math.abs(a[index + 2] - b[index + 2]);
  }
  parts.number.value = `Δ ${(sum / (a.length * 0.75)).toFixed(1)}`;
}

function pixels(canvas, element) {
  const width = element.naturalWidth || element.videoWidth;
  const height = element.naturalHeight || element.videoHeight;
  canvas.width = Math.min(MEASURED_WIDTH, width);
  canvas.height = Math.max(1, Math.round((canvas.width * height) / width));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(element, 0, 0, canvas.width, canvas.height);
  return context.getImageData(0, 0, canvas.width, canvas.height).data;
}
