// The runs there are, and what can be said about one.

import { at, go } from "./address.js";
import { chart, measures } from "./curves.js";
import { $, closesOnBackdrop, field, h, open, toast } from "./dom.js";
import { grid } from "./model.js";
import { ask, runPath, send } from "./server.js";
import { ago } from "./words.js";

const dialog = $("info");
closesOnBackdrop(dialog);

let runs = [];

// Read the list of runs; returns the one to show, or null.
export async function readRuns() {
  const listed = await ask("v1/runs");
  runs = listed.runs;
  let wanted = runs.find((run) => run.name === at("run"));
  if (!wanted && at("run") && listed.next) {
    wanted = await olderRun(at("run"));
    if (wanted) runs.push(wanted);
  }
  const chosen = wanted ?? runs.find((run) => !run.archived) ?? runs[0] ?? null;
  const options = (list) => list.map((run) => h("option", { value: run.name, title: run.name }, run.title || run.name));
  const archived = runs.filter((run) => run.archived);
  $("run").replaceChildren(...options(runs.filter((run) => !run.archived)), ...(archived.length ? [h("optgroup", { label: "Archived" }, ...options(archived))] : []));
  $("run").hidden = runs.length === 0;
  $("about").hidden = runs.length === 0;
  if (chosen) $("run").value = chosen.name;
  if (chosen && at("run") && !wanted && grid.run !== chosen.name) toast(`No samples of ${at("run")} are kept: this is another run.`);
  document.title = chosen ? `${chosen.title || chosen.name} · Rushes` : "Rushes";
  return chosen?.name ?? null;
}

// A run that the list has no room for, null if there is none of this name.
async function olderRun(name) {
  try {
    return await ask(runPath(name));
  } catch (problem) {
    if (problem.status === 404) return null;
    throw problem;
  }
}

export const isKnown = (name) => runs.some((run) => run.name === name);

$("run").addEventListener("change", () => go({ run: $("run").value, q: "", show: "", strength: "", sample: "", a: "", b: "" }, { push: true }));

export function openInfo(reload) {
  const run = runs.find((found) => found.name === grid.run);
  if (!run) return;
  const title = h("input", { name: "title", value: run.title ?? "", placeholder: run.name, maxLength: 200 });
  const note = h("textarea", { name: "note", rows: 3, value: run.note ?? "" });
  const archived = h("input", { type: "checkbox", checked: run.archived });
  const save = async () => {
    try {
      await send("PATCH", runPath(run.name), { title: title.value || null, note: note.value || null, archived: archived.checked });
      dialog.close();
      await reload();
    } catch (error) {
      toast(error.message);
    }
  };
  const stop = async () => {
    try {
      await send("POST", `${runPath(run.name)}/cancel`);
      dialog.close();
    } catch (error) {
      toast(error.message);
    }
  };
  dialog.replaceChildren(
    h("h2", {}, run.title || run.name),
    h("p", { className: "quiet" }, `${run.samples} samples · last submission ${ago(run.last_submitted_at)}`),
    field("Title", title),
    field("Note", note),
    h("label", { className: "check" }, archived, " Archived"),
    ...measures().map(chart).filter(Boolean),
    h("p", { className: "quiet" }, "Keep this comparison, without a server:"),
    h("pre", {}, `rushes export ${quoted(run.name)} --html out/\nrushes grid ${quoted(run.name)} --png sheet.png`),
    h(
      "div",
      { className: "actions" },
      h("button", { type: "button", className: "primary", onclick: save }, "Save"),
      h("a", { className: "button", href: `rank#${new URLSearchParams({ run: run.name })}` }, "Blind ranking"),
      h("button", { type: "button", className: "danger", onclick: stop }, "Cancel all that waits"),
      h("button", { type: "button", className: "plain", onclick: () => dialog.close() }, "Close"),
    ),
  );
  open(dialog);
}

const quoted = (name) => (/^[\w.-]+$/.test(name) ? name : `'${name.replaceAll("'", "'\\''")}'`);
