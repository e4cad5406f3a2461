// Asking for samples: one again with changes, all checkpoints with a prompt, or a place of the sheet that is empty.

import { go } from "./address.js";
import { $, closesOnBackdrop, field, h, open, toast } from "./dom.js";
import { columnOf, grid, rowOf } from "./model.js";
import { ask, runPath, samplePath, send } from "./server.js";
import { isDraft } from "./words.js";

const dialog = $("ask");
closesOnBackdrop(dialog);

const DEFAULTS = { sample_steps: "the family's", cfg_scale: "the family's", guidance_scale: "the family's", discrete_flow_shift: "the family's" };

function numberField(name, value, step = "any") {
  return h("input", { type: "number", name, step, value: value ?? "", placeholder: DEFAULTS[name] ?? "", min: name === "strength" ? null : 0 });
}

// A form that sends, shows what was refused at its field, and closes when it was taken.
function form(title, text, fields, submitText, submit) {
  const problem = h("p", { className: "problem", hidden: true });
  const button = h("button", { type: "submit", className: "primary" }, submitText);
  const element = h(
    "form",
    { method: "dialog" },
    h("h2", {}, title),
    text ? h("p", { className: "quiet" }, text) : null,
    ...fields,
    problem,
    h("div", { className: "actions" }, button, h("button", { type: "button", className: "plain", onclick: () => dialog.close() }, "Close")),
  );
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    problem.hidden = true;
    try {
      await submit(Object.fromEntries(new FormData(element)), element);
      dialog.close();
    } catch (error) {
      problem.textContent = error.field ? `${error.field}: ${error.message}` : error.message;
      problem.hidden = false;
    } finally {
      button.disabled = false;
    }
  });
  dialog.replaceChildren(element);
  open(dialog);
}

async function checkpointSelect(current) {
  const select = h("select", { name: "checkpoint" }, h("option", { value: "" }, "the same checkpoint"), h("option", { value: "base" }, "base model"));
  const { checkpoints } = await ask(`${runPath(grid.run)}/checkpoints`).catch(() => ({ checkpoints: [] }));
  for (const known of checkpoints.filter((found) => found.kept)) {
    const name = known.path.split("/").pop();
    const never = known.samples ? "" : ", never sampled";
    select.append(h("option", { value: known.path, "data-step": known.step }, `step ${known.step ?? 0} · ${name}${never}`));
  }
  select.value = current ?? "";
  return select;
}

export async function resample(cell) {
  const row = rowOf(cell);
  const column = columnOf(cell);
  const options = row.options ?? {};
  const checkpoint = await checkpointSelect();
  const upload = h("input", { type: "file", name: "image", accept: "image/png,image/jpeg,image/webp" });
  form(
    "Sample again",
    "Runs before anything that training has queued. What you leave as it is stays as it was.",
    [
      field("Prompt", h("textarea", { name: "prompt", rows: 4, value: row.prompt })),
      field("Negative prompt", h("textarea", { name: "negative_prompt", rows: 2, value: options.negative_prompt ?? "", placeholder: "the family's" })),
      h(
        "div",
        { className: "columns" },
        field("Seed", seedField(cell.seed)),
        field("Strength", numberField("strength", column.base ? 1 : (column.strength ?? 1), 0.05)),
        field("Steps", numberField("sample_steps", options.sample_steps, 1)),
        field("CFG", numberField("cfg_scale", options.cfg_scale)),
        field("Guidance", numberField("guidance_scale", options.guidance_scale)),
        field("Flow shift", numberField("discrete_flow_shift", options.discrete_flow_shift)),
      ),
      field("Checkpoint", checkpoint),
      field("Start image", upload, options.image_path ? `now ${options.image_path.split("/").pop()}` : "for families that take one"),
      h("label", { className: "check" }, h("input", { type: "checkbox", name: "draft", checked: isDraft(row) }), " Draft: faster, approximate, not to judge a LoRA by"),
    ],
    "Sample",
    async (values) => {
      const body = { prompt: changesOf(values, row, cell) };
      const strength = values.strength === "" ? null : Number(values.strength);
      if (strength !== null && strength !== (column.base ? 1 : (column.strength ?? 1))) body.strength = strength;
      if (values.checkpoint) body.checkpoint = values.checkpoint;
      if (Boolean(values.draft) !== isDraft(row)) body.draft = Boolean(values.draft);
      const step = checkpoint.selectedOptions[0]?.dataset.step;
      if (step) body.step = Number(step);
      if (upload.files.length) body.prompt.image_path = await uploaded(upload.files[0]);
      await send("POST", `${samplePath(cell.id)}/resample`, body);
      toast("Queued: it appears in its place when it is done.");
    },
  );
}

function seedField(seed) {
  const input = h("input", { type: "number", name: "seed", min: 0, step: 1, value: seed ?? "", placeholder: "a new one" });
  return h("span", { className: "with-button" }, input, h("button", { type: "button", title: "Draw a new one", onclick: () => (input.value = "") }, "new"));
}

function changesOf(values, row, cell) {
  const changes = {};
  const options = row.options ?? {};
  if (values.prompt !== row.prompt) changes.prompt = values.prompt;
  if (values.negative_prompt !== (options.negative_prompt ?? "")) changes.negative_prompt = values.negative_prompt || null;
  if (values.seed === "" || values.seed !== String(cell.seed)) changes.seed = values.seed === "" ? null : whole(values.seed);
  for (const name of ["sample_steps", "cfg_scale", "guidance_scale", "discrete_flow_shift"]) {
    const before = options[name] === undefined || options[name] === null ? "" : String(options[name]);
    if (values[name] !== before) changes[name] = values[name] === "" ? null : Number(values[name]);
  }
  return changes;
}

async function uploaded(file) {
  const { path } = await ask("v1/uploads", { method: "POST", body: file, headers: { "Content-Type": file.type } });
  return path;
}

// A seed; one that JavaScript would round stays text.
const whole = (text) => (Number.isSafeInteger(Number(text)) ? Number(text) : text);

const numbers = (text, read = Number) => text.split(/[\s,;]+/).filter(Boolean).map(read);

export function sampleAll(cell) {
  const row = rowOf(cell);
  form(
    "Sample all checkpoints with this prompt",
    "Only what is not there yet is made; the base model once.",
    [
      field("Prompt", h("textarea", { name: "prompt", rows: 4, value: row.prompt })),
      h(
        "div",
        { className: "columns" },
        field("Strengths", h("input", { name: "strengths", value: "1" }), "several: 0.5, 0.8, 1"),
        field("Seeds", h("input", { name: "seeds", value: cell.seed ?? "" }), "several: 1, 2, 3"),
      ),
      field("Checkpoints", h("select", { name: "checkpoints" }, h("option", { value: "sampled" }, "those on this page"), h("option", { value: "all" }, "all files in the run's directory"))),
    ],
    "Sample",
    async (values) => {
      const body = { run: grid.run, checkpoints: values.checkpoints, strengths: numbers(values.strengths), seeds: numbers(values.seeds, whole) };
      if (values.prompt === row.prompt) body.samples = [cell.id];
      else body.prompts = [promptLike(row, values.prompt)];
      said(await send("POST", "v1/grids", body));
    },
  );
}

function promptLike(row, text) {
  const options = Object.fromEntries(Object.entries(row.options ?? {}).filter(([, value]) => value !== null));
  return { ...options, prompt: text, width: row.width, height: row.height, frame_count: row.frame_count ?? 1 };
}

function said(answer) {
  const skipped = answer.skipped?.length ? `; ${answer.skipped.length} checkpoints are gone` : "";
  toast(`${answer.samples.length} queued, ${answer.existing} there already${skipped}.`);
}

// One checkpoint at several strengths and seeds, as a run of its own.
export function sweep(cell) {
  form(
    "Sweep the strength",
    "This checkpoint at several strengths, as a sheet of its own with the strengths across; it can be ranked as any run.",
    [
      h(
        "div",
        { className: "columns" },
        field("Strengths", h("input", { name: "strengths", value: "0.4, 0.6, 0.8, 1, 1.2" })),
        field("Seeds", h("input", { type: "number", name: "seeds", value: 1, min: 1, max: 50 }), "of each prompt"),
      ),
      field("Prompts", h("select", { name: "prompts" }, h("option", { value: "all" }, "all of this checkpoint"), h("option", { value: "this" }, "only this one"))),
    ],
    "Sweep",
    async (values) => {
      const answer = await send("POST", `${samplePath(cell.id)}/sweep`, { strengths: numbers(values.strengths), seeds: Number(values.seeds), prompts: values.prompts });
      said(answer);
      go({ run: answer.run, sample: "", q: "", show: "", strength: "" }, { push: true });
    },
  );
}

// Fill one empty place: the row's prompt at the column's checkpoint.
export async function fillPlace(row, column) {
  const like = [...grid.cells.values()].find((cell) => cell.row === row.key);
  try {
    if (column.base) {
      await send("POST", `${samplePath(like.id)}/resample`, { checkpoint: "base" });
    } else {
      const { checkpoints } = await ask(`${runPath(grid.run)}/checkpoints`);
      const known = checkpoints.find((found) => found.fingerprint === column.fingerprint && found.kept);
      if (!known) throw new Error(`${column.name || "the checkpoint"} is gone, so it cannot be sampled again`);
      await send("POST", `${samplePath(like.id)}/resample`, { checkpoint: known.path, step: column.step ?? 0, strength: column.strength ?? 1 });
    }
    toast("Queued.");
  } catch (error) {
    toast(error.message);
  }
}
