// The events of the server. A connection that is lost comes back where it stopped; what cannot be told any more
// is read again.

import { $ } from "./dom.js";

const NAMES = ["queued", "started", "progress", "retry", "done", "failed", "cancelling", "cancelled", "superseded", "dead", "handed_back", "marked", "imported", "drifted", "scored"];
const COME_BACK_MS = 2000;

let position = null;
let source = null;

// Follow events after `from`. `hear(event)` gets each; `again()` is called when some may have been missed.
export function follow(from, hear, again) {
  position = from ?? position;
  source?.close();
  const query = position ? `?after=${encodeURIComponent(position)}` : "";
  source = new EventSource(`v1/events${query}`);
  const mine = source;
  source.onopen = () => show("live");
  source.onerror = () => {
    show("away");
    // A browser gives up for good when the answer is not a stream (Redis away, say); then we come back ourselves.
    if (mine.readyState === EventSource.CLOSED && mine === source) setTimeout(() => mine === source && follow(null, hear, again), COME_BACK_MS);
  };
  const remember = (event) => (position = event.lastEventId || position);
  source.addEventListener("ready", (event) => {
    // Opened at no place in particular: what happened between the last look and now is in no event.
    if (!position) again();
    remember(event);
    show("live");
  });
  source.addEventListener("reset", (event) => {
    remember(event);
    again();
  });
  for (const name of NAMES) {
    source.addEventListener(name, (event) => {
      remember(event);
      hear({ ...JSON.parse(event.data), at: event.lastEventId });
    });
  }
}

function show(state) {
  $("link").dataset.state = state;
  $("link").title = state === "live" ? "live" : "the connection is lost; coming back";
  document.body.dataset.link = state;
}
