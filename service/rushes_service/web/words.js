// How things are called on the page.

export function columnTitle(column) {
  if (column.base) return "base model";
  // A sweep has one step: what differs is the strength.
  if (column.swept) return `× ${column.strength ?? 1}`;
  return `step ${column.step ?? 0}`;
}

export function columnNote(column) {
  const strength = column.strength ?? 1;
  return [
    column.base ? "no LoRA" : (column.label ?? null),
    column.epoch === undefined || column.epoch === null ? null : `epoch ${column.epoch}`,
    column.swept ? `step ${column.step ?? 0}` : null,
    !column.base && !column.swept && strength !== 1 ? `× ${strength}` : null,
    ...(column.loras ?? []).map((name) => `+ ${name}`),
  ]
    .filter(Boolean)
    .join(" · ");
}

export function rowFacts(row) {
  return [
    `${row.width}×${row.height} · ${(row.frame_count ?? 1) > 1 ? `${row.frame_count} frames` : "still"}`,
    `${row.seed === undefined || row.seed === null ? "seeds differ" : `seed ${row.seed}`}${isDraft(row) ? " · draft" : ""}`,
  ];
}

// Of a row, or of a cell.
export const isDraft = (shown) => shown.draft !== null && shown.draft !== undefined;

export const draftNote = (shown) => `threshold ${shown.draft}: approximate, not to judge a LoRA by`;

export const OTHER_NOISE = "noise from different hardware";

export function otherNoiseTitle(origins) {
  return `${origins.join(", ")}: the same seed is other noise on each kind of hardware. Noise from the CPU (--rushes_noise cpu) is the same everywhere.`;
}

const OPTION_NAMES = {
  sample_steps: "steps",
  guidance_scale: "guidance",
  cfg_scale: "CFG",
  discrete_flow_shift: "flow shift",
  negative_prompt: "negative prompt",
  image_path: "start image",
  end_image_path: "end image",
  control_video_path: "control video",
  control_image_path: "control images",
  one_frame: "one frame",
};

export function optionEntries(options) {
  return Object.entries(options ?? {})
    .filter(([, value]) => value !== null && !(Array.isArray(value) && value.length === 0))
    .map(([name, value]) => [OPTION_NAMES[name] ?? name.replaceAll("_", " "), Array.isArray(value) ? value.join(", ") : String(value)]);
}

const STAGES = { load: "loading the model", lora: "merging the LoRA", encode: "encoding", denoise: "denoising", decode: "decoding", write: "writing" };

export function stateWords(cell) {
  if (cell.cancelling && !isOver(cell)) return "cancelling";
  if (cell.state === "running") {
    const stage = STAGES[cell.stage] ?? cell.stage ?? "";
    return cell.total ? `${stage || "running"} ${cell.step ?? 0}/${cell.total}` : stage || "starting";
  }
  return cell.state;
}

export const isOver = (cell) => cell.state !== "queued" && cell.state !== "running";
export const isWrong = (cell) => cell.state === "failed" || cell.state === "dead" || (cell.health ?? []).length > 0;

export const HEALTH = {
  black: "all black",
  constant: "one flat colour",
  saturated: "most values are clipped",
  still: "nothing moves",
  drifted: "a control that has left its drift limit",
};

export function ago(seconds) {
  const passed = Date.now() / 1000 - seconds;
  if (passed < 90) return "just now";
  if (passed < 5400) return `${Math.round(passed / 60)} min ago`;
  if (passed < 129600) return `${Math.round(passed / 3600)} h ago`;
  return new Date(seconds * 1000).toLocaleDateString();
}

export function bytes(count) {
  const units = ["B", "kB", "MB", "GB"];
  let value = count;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${value.toFixed(unit && value < 100 ? 1 : 0)} ${units[unit]}`;
}
