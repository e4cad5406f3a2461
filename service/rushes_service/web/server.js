// Requests to the API. Addresses are relative, so that the page also works below a proxy's path.

export class Problem extends Error {
  constructor(body, status) {
    super(body.detail ?? `the server answered ${status}`);
    this.field = body.field ?? null;
    this.status = status;
  }
}

// Whole numbers that JavaScript would round, large seeds say, stay text; the server takes them as such.
const exact = (_key, value, from) => (typeof value === "number" && !Number.isSafeInteger(value) && /^\d+$/.test(from?.source ?? "") ? from.source : value);

export async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { headers: { Accept: "application/json", ...options.headers }, ...options });
  } catch {
    throw new Problem({ detail: "the server cannot be reached" }, 0);
  }
  const body = response.status === 204 ? {} : await response.text().then((text) => JSON.parse(text, exact)).catch(() => ({}));
  if (!response.ok) throw new Problem(body, response.status);
  return body;
}

export function send(method, path, body) {
  const headers = { Accept: "application/json", "Content-Type": "application/json" };
  return ask(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
}

export const runPath = (run) => `v1/runs/${run.split("/").map(encodeURIComponent).join("/")}`;
export const samplePath = (id) => `v1/samples/${encodeURIComponent(id)}`;

export const mediaAddress = (cell) => `${samplePath(cell.id)}/media?v=${encodeURIComponent(cell.version ?? "")}`;

const WIDTHS = [160, 320, 640];

// A still at least as wide as it is shown, in one of the sizes that the server makes.
export function stillAddress(cell, pixels) {
  const width = WIDTHS.find((known) => known >= pixels) ?? WIDTHS[WIDTHS.length - 1];
  return `${samplePath(cell.id)}/thumbnail?width=${width}&v=${encodeURIComponent(cell.version ?? "")}`;
}
