// Small helpers over the DOM. Text from the server goes in as text nodes and properties, never as HTML.

export const $ = (id) => document.getElementById(id);

// An element with properties, `data-*`, `aria-*` and `on*` handlers, and children (text or nodes; null is left out).
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && !name.includes("-") && name !== "list") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Puts children in the place of those an element has; null is left out.
export function fill(element, ...children) {
  element.replaceChildren(...children.filter((child) => child !== null && child !== undefined && child !== false));
}

const SVG = "http://www.w3.org/2000/svg";

// One of the symbols of index.html.
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

export function setIcon(button, name) {
  button.querySelector("use").setAttribute("href", `#i-${name}`);
}

export function clamp(value, lowest, highest) {
  return Math.min(highest, Math.max(lowest, value));
}

// `work` once per animation frame, however often it is asked for.
export function perFrame(work) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      work();
    });
  };
}

// `work` after `wait()` milliseconds, however often it is asked for until then. Unlike with `debounce`, those who ask
// without a pause do not put it off for ever.
export function soon(work, wait) {
  let timer = 0;
  return () => {
    timer ||= setTimeout(() => {
      timer = 0;
      work();
    }, wait());
  };
}

// `work`, never twice at a time: asked for while it runs, it runs once more when it is done, so that an older answer
// never comes after a newer one. The promise is of the last run.
export function oneAtATime(work) {
  let running = null;
  let wanted = false;
  const run = async () => {
    let result;
    try {
      while (wanted) {
        wanted = false;
        result = await work();
      }
    } finally {
      running = null;
    }
    return result;
  };
  return () => {
    wanted = true;
    running ??= run();
    return running;
  };
}

export function debounce(work, wait) {
  let timer = 0;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...args), wait);
  };
}

let toastTimer = 0;

export function toast(text) {
  $("toast").textContent = text;
  $("toast").hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => ($("toast").hidden = true), 4000);
}

// Light, dark, or as the system: as this browser remembers it.
export function setTheme() {
  document.documentElement.dataset.theme = localStorage.getItem("theme") ?? "";
}

export function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

// A label with its control.
export function field(label, control, hint) {
  return h("label", { className: "field" }, h("span", {}, label), control, hint ? h("small", {}, hint) : null);
}

// Opens a dialog over the page and calls `closed` when it goes, however that happens.
export function open(dialog, closed) {
  dialog.onclose = closed ?? null;
  if (dialog.open) return;
  dialog.showModal();
  if (dialog.classList.contains("form")) return;
  // Else the first button would be marked, which nobody chose.
  dialog.tabIndex = -1;
  dialog.focus();
}

// A click beside a dialog closes it.
export function closesOnBackdrop(dialog) {
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
}
