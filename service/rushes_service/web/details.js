// What is known about a sample: its prompt, how it was made, the LoRA's numbers, and what can be done with it.

import { go } from "./address.js";
import { h, icon, toast } from "./dom.js";
import { ask, mediaAddress, samplePath } from "./server.js";
import { HEALTH, bytes, draftNote, isDraft, isOver, optionEntries, stateWords } from "./words.js";

const TRAINING_KEYS = ["ss_learning_rate", "ss_unet_lr", "ss_network_dim", "ss_network_alpha", "ss_optimizer", "ss_lr_scheduler", "ss_num_train_images", "ss_epoch", "ss_steps", "ss_base_model_version"];

const receipts = new Map(); // sample and version -> promise
const loras = new Map();

function remembered(known, key, path) {
  if (!known.has(key)) known.set(key, ask(path).catch((error) => ({ problem: error.message })));
  return known.get(key);
}

export function details(cell, row, column, stack, actions) {
  const body = h("div", { className: "facts" });
  const receipt = h("div");
  const lora = h("div");
  body.append(
    h("p", { className: "text" }, row.prompt),
    ...warnings(cell),
    facts([
      ["state", cell.state === "done" ? null : stateWords(cell)],
      ["draft", isDraft(cell) ? draftNote(cell) : null],
      ["seed", cell.seed],
      ["strength", column.base ? "base model" : (column.strength ?? 1)],
      ["size", cell.width ? `${cell.width}×${cell.height}` : `${row.width}×${row.height}`],
      ["frames", (cell.frame_count ?? 1) > 1 ? `${cell.frame_count} at ${cell.fps ?? "?"} fps` : null],
      ["drift", cell.drift === null || cell.drift === undefined ? null : `${cell.drift.toFixed(2)} in latents${cell.drift_pixels === undefined || cell.drift_pixels === null ? "" : `, ${cell.drift_pixels.toFixed(1)} levels in pixels`}`],
      ["drift limit", row.drift_limit],
      ...Object.entries(cell.scores ?? {}).map(([name, value]) => [name, value.toFixed(3)]),
      ...optionEntries(row.options),
    ]),
    buttons(cell, row, column, actions),
    ...takes(cell, stack),
    receipt,
    lora,
  );
  if (cell.media) fill(receipt, remembered(receipts, `${cell.id} ${cell.version}`, `${samplePath(cell.id)}/receipt`), showReceipt);
  if (!column.base) fill(lora, remembered(loras, cell.column, `${samplePath(cell.id)}/lora`), showLora);
  return body;
}

function warnings(cell) {
  const flags = (cell.health ?? []).map((flag) => `Looks wrong: ${HEALTH[flag] ?? flag}.`);
  const error = cell.error && !cell.media ? [cell.error] : [];
  return [...flags, ...error].map((text) => h("p", { className: "problem" }, icon("warn"), " ", text));
}

function facts(entries) {
  const shown = entries.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h("dl", {}, ...shown.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))]));
}

function buttons(cell, row, column, actions) {
  const button = (text, onclick, className = "") => h("button", { type: "button", className, onclick }, text);
  return h(
    "div",
    { className: "actions" },
    button("Sample all checkpoints with this prompt", () => actions.sampleAll(cell)),
    column.base ? null : button("Sweep the strength", () => actions.sweep(cell)),
    isOver(cell) ? null : button("Cancel", () => actions.cancel(cell), "danger"),
    isOver(cell) && cell.state !== "done" ? button("Try again", () => actions.retry(cell)) : null,
    cell.media ? h("a", { className: "button", href: mediaAddress(cell), download: "" }, "Download") : null,
    button("Copy prompt", () => copy(row.prompt)),
  );
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast("Copied.");
  } catch {
    toast("This browser lets pages copy over https or localhost only.");
  }
}

function takes(cell, stack) {
  if (stack.length < 2) return [];
  const list = h(
    "div",
    { className: "takes-list" },
    h("h3", {}, `${stack.length} samples here`),
    ...stack.map((take) =>
      h("button", { type: "button", "aria-current": String(take === cell), onclick: () => go({ sample: take.id }) }, `seed ${take.seed ?? "?"}`, take.state === "done" ? null : ` (${take.state})`),
    ),
  );
  return [list];
}

async function fill(place, promise, show) {
  const found = await promise;
  place.replaceChildren(...(found.problem ? [h("p", { className: "quiet" }, found.problem)] : show(found)));
}

function showReceipt(receipt) {
  const parameters = receipt.parameters ?? {};
  const seconds = Object.entries(receipt.seconds ?? {}).map(([stage, value]) => `${stage} ${value.toFixed(value < 10 ? 2 : 1)} s`);
  const memory = receipt.peak_memory?.bytes;
  return [
    h("h3", {}, "How it was made"),
    facts([
      ["steps", parameters.sample_steps],
      ["CFG", parameters.cfg_scale === 1 ? "off" : parameters.cfg_scale],
      ["guidance", parameters.guidance_scale],
      ["flow shift", parameters.discrete_flow_shift],
      ["scheduler", receipt.scheduler],
      ["precision", receipt.dtype],
      ["LoRA", receipt.lora ? `${receipt.lora.modules ?? "?"} modules, rank ${(receipt.lora.ranks ?? []).join(", ")}` : null],
      ["matched", receipt.lora ? `${receipt.lora.matched ?? "?"} keys, ${receipt.lora.unmatched ?? 0} not` : null],
      ["time", seconds.join(", ")],
      ["memory", memory ? `${bytes(memory)} at most` : null],
      ["worker", receipt.worker],
    ]),
    ...(receipt.warnings ?? []).map((text) => h("p", { className: "quiet" }, text)),
    h(
      "details",
      {},
      h("summary", {}, "Receipt"),
      h("pre", {}, JSON.stringify(receipt, null, 2)),
      h("button", { type: "button", onclick: () => copy(JSON.stringify(receipt, null, 2)) }, "Copy"),
    ),
  ];
}

function showLora(lora) {
  const trained = TRAINING_KEYS.filter((key) => lora.metadata[key] && lora.metadata[key] !== "None");
  const others = Object.entries(lora.metadata).filter(([key]) => !trained.includes(key));
  return [
    h("h3", {}, "The LoRA"),
    facts([
      ["file", lora.file],
      ["size", `${bytes(lora.bytes)}, ${lora.parameters.toLocaleString("en")} parameters`],
      ["rank", lora.ranks.join(", ")],
      ["precision", lora.dtypes.join(", ")],
      ...trained.map((key) => [key.replace("ss_", "").replaceAll("_", " "), lora.metadata[key]]),
    ]),
    others.length ? h("details", {}, h("summary", {}, "Metadata"), facts(others)) : null,
  ].filter(Boolean);
}

