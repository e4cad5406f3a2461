// Keys. The same ones wherever they make sense.

import { $, closesOnBackdrop, h, open } from "./dom.js";
import { comparing, stepB, swap } from "./compare.js";
import { isPlaying, nudge, setPlaying } from "./playback.js";
import { focused, moveFocus, zoomBy } from "./sheet.js";
import { step, viewed } from "./viewer.js";

const KEYS = [
  ["← ↑ → ↓", "from sample to sample; in the large view: along the training, to another prompt"],
  ["Enter", "look at it, large"],
  ["Space", "play or pause all clips"],
  [", .", "one frame back, one frame on"],
  ["c", "compare: mark A, then B; in the large view: with the base model"],
  ["f", "favourite"],
  ["r", "sample again, with changes"],
  ["x", "in a comparison: swap A and B"],
  ["/", "search prompts"],
  ["+ −", "larger, smaller"],
  ["q", "queue and workers"],
  ["v", "vote: blind ranking of the checkpoints"],
  ["Esc", "close"],
];

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

let byTab = false; // how the focus came where it is

closesOnBackdrop($("help"));

function openHelp() {
  const rows = KEYS.map(([key, text]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, text)]);
  $("help").replaceChildren(h("h2", {}, "Keys"), h("dl", { className: "keys" }, ...rows.flat()));
  open($("help"));
}

export function listen(actions) {
  $("keys").addEventListener("click", openHelp);
  document.addEventListener("pointerdown", () => (byTab = false), { capture: true });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Tab") byTab = true;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches("input:not([type=range]), textarea, select");
    if (typing) {
      if (event.key === "Escape" && event.target.id === "search") event.target.blur();
      return;
    }
    if (handle(event, actions)) event.preventDefault();
  });
}

function handle(event, actions) {
  const { key } = event;
  // Who has gone to a button by Tab presses it by its own keys, and moves a slider by the arrows. A button that was
  // clicked keeps the focus, but space goes on playing and pausing.
  if (byTab && (key === " " || key === "Enter") && event.target.matches("button, a, summary")) return false;
  if (ARROWS[key] && event.target.matches("#zoom, #compare input")) return false;
  if (document.querySelector("dialog.form[open], dialog.side[open]")) return false;
  const cell = viewed() ?? focused()?.cell;
  if (ARROWS[key]) return arrow(...ARROWS[key]);
  if (key === " ") return setPlaying(!isPlaying()), true;
  if (key === "," || key === ".") return nudge(key === "," ? -1 : 1), true;
  if (key === "x" && comparing()) return swap(), true;
  if (comparing()) return false;
  if (key === "c" && cell) return actions.compare(cell), true;
  if (key === "f" && cell) return actions.favourite(cell), true;
  if (key === "r" && cell) return actions.resample(cell), true;
  if (viewed()) return false;
  if (key === "Enter" && focused()) return actions.open(focused()), true;
  if (key === "/") return $("search").focus(), true;
  if (key === "+" || key === "=") return zoomBy(1.2), true;
  if (key === "-") return zoomBy(1 / 1.2), true;
  if (key === "q") return actions.queue(), true;
  if (key === "v") return actions.rank(), true;
  if (key === "?") return openHelp(), true;
  if (key === "Escape") return actions.unmark(), true;
  return false;
}

function arrow(down, right) {
  if (comparing()) stepB(right || down);
  else if (viewed()) step(down, right);
  else moveFocus(down, right);
  return true;
}
