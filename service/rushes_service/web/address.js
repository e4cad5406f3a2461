// What is shown is in the address, after the #: every view can be shared, kept, and gone back to.

const KNOWN = ["run", "q", "show", "thin", "strength", "zoom", "sample", "a", "b", "mode"];
const listeners = new Set();
let current = read();

function read() {
  const found = new URLSearchParams(location.hash.slice(1));
  return Object.fromEntries(KNOWN.filter((name) => found.get(name)).map((name) => [name, found.get(name)]));
}

function write(values) {
  const query = new URLSearchParams();
  for (const name of KNOWN) if (values[name]) query.set(name, values[name]);
  return `#${query}`;
}

export const at = (name) => current[name] ?? "";

// Change some values. `push` makes a step that the back button undoes; else the address is corrected in place.
export function go(changes, { push = false, quiet = false } = {}) {
  const next = { ...current, ...changes };
  for (const name of Object.keys(next)) if (!next[name]) delete next[name];
  const before = write(current);
  const after = write(next);
  if (before === after) return;
  current = next;
  history[push ? "pushState" : "replaceState"](null, "", after);
  if (!quiet) tell();
}

export function onAddress(listener) {
  listeners.add(listener);
}

function tell() {
  for (const listener of listeners) listener();
}

window.addEventListener("popstate", () => {
  current = read();
  tell();
});
