// What waits, what runs, and who works.

import { $, closesOnBackdrop, fill, h, icon, oneAtATime, open, soon, toast } from "./dom.js";
import { ask, samplePath, send } from "./server.js";
import { bytes } from "./words.js";

const dialog = $("queue");
closesOnBackdrop(dialog);

const refresh = oneAtATime(read);
export const refreshQueue = soon(refresh, () => 300);

// Steps move no count: they are worth a look at the queue only while it is open.
export function heardOf(event) {
  if (event.type !== "progress" || dialog.open) refreshQueue();
}

async function read() {
  let state;
  try {
    state = await ask("v1/queue?limit=100");
  } catch (error) {
    $("queue-count").textContent = "no connection";
    if (dialog.open) dialog.replaceChildren(heading(), h("p", { className: "problem" }, error.message));
    return;
  }
  const waiting = state.lanes.reduce((sum, lane) => sum + lane.waiting, 0) + state.delayed;
  const running = state.lanes.reduce((sum, lane) => sum + lane.running, 0);
  const alone = state.workers.length === 0;
  const told = [running && `${running} running`, waiting && `${waiting} queued`, alone && "no worker"].filter(Boolean);
  $("queue-count").textContent = told.join(" · ") || "idle";
  $("queue-open").dataset.workers = alone ? "none" : "some";
  if (dialog.open) show(state);
}

export function openQueue() {
  dialog.replaceChildren(heading());
  open(dialog);
  refresh();
}

function heading() {
  return h("div", { className: "bar-top" }, h("h2", {}, "Queue"), h("span", { className: "grow" }), h("button", { type: "button", className: "icon plain", title: "Close (Esc)", "aria-label": "Close", onclick: () => dialog.close() }, icon("close")));
}

function show(state) {
  fill(
    dialog,
    heading(),
    h("h3", {}, "Workers"),
    state.workers.length ? h("ul", {}, ...state.workers.map(worker)) : h("p", { className: "problem" }, "No worker is alive: what is queued waits. Start one with `rushes worker` or `rushes up`."),
    h("h3", {}, "Samples"),
    state.samples.length ? h("ul", {}, ...state.samples.map(sample)) : h("p", { className: "quiet" }, "Nothing waits."),
    state.delayed ? h("p", { className: "quiet" }, `${state.delayed} wait for another attempt.`) : null,
    ...state.lanes.map((lane) => h("p", { className: "quiet" }, `${lane.model}, ${lane.priority}: ${lane.running} running, ${lane.waiting} queued`)),
  );
}

function worker(info) {
  const doing = info.state === "sampling" ? [info.run, info.stage, info.total && info.total !== "0" ? `${info.step}/${info.total}` : ""].filter(Boolean).join(" · ") : info.state;
  const memory = info.memory_total ? `${bytes(Number(info.memory_used))} of ${bytes(Number(info.memory_total))} in use` : null;
  return h("li", {}, h("span", {}, h("strong", {}, info.device ?? ""), " ", info.name), h("small", {}, [doing, memory].filter(Boolean).join(" · ")));
}

function sample(found) {
  const how = found.cancelling ? "cancelling" : found.state === "running" ? [found.stage || "starting", found.total ? `${found.step ?? 0}/${found.total}` : ""].join(" ") : "queued";
  const cancel = h("button", { type: "button", className: "danger", disabled: found.cancelling, onclick: () => stop(found, cancel) }, "Cancel");
  return h(
    "li",
    { "data-state": found.state },
    h("span", {}, h("b", {}, found.base ? "base" : `step ${found.checkpoint_step}`), " ", found.prompt),
    h("small", {}, `${found.run} · ${how}`),
    cancel,
  );
}

async function stop(found, button) {
  button.disabled = true;
  try {
    await send("DELETE", samplePath(found.id));
  } catch (error) {
    toast(error.message);
  }
  refreshQueue();
}
