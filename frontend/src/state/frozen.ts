// A page that was written into one file has its answers in it, and no server to ask. Each is zlib in base64. In a notebook the
// page around it sends more of them while the run grows.
import type { Parameters } from "../api.ts";

interface Frozen {
  runs: string[];
  answers: Record<string, string>; // by question
  grows?: boolean; // they come from the page around, and are renewed
}

let content: Frozen | null | undefined;
const listeners = new Set<() => void>();
let arrived: Promise<void> = Promise.resolve();

/** What the file holds; null on a page that has a server. */
export function frozen(): Frozen | null {
  if (content === undefined) {
    const place = typeof document === "undefined" ? null : document.getElementById("frozen");
    content = place ? (JSON.parse(place.textContent ?? "{}") as Frozen) : null;
    if (content?.grows) arrived = listen(content);
  }
  return content;
}

/** Calls `tell` whenever answers were renewed; what comes back stops it. */
export function renewed(tell: () => void): () => void {
  listeners.add(tell);
  return () => void listeners.delete(tell);
}

/** Takes the answers that the page around sends, after it was told that there is somebody to take them. */
function listen(held: Frozen): Promise<void> {
  return new Promise((resolve) => {
    addEventListener("message", (event: MessageEvent<{ weighbridge?: Record<string, string> }>) => {
      if (event.source !== parent || !event.data?.weighbridge) return;
      Object.assign(held.answers, event.data.weighbridge); // none: a sign of life
      if (held.runs.every((run) => question("run", { run }) in held.answers)) resolve();
      for (const tell of listeners) tell();
    });
    parent.postMessage({ weighbridge: "ready" }, "*");
  });
}

/** Only what names the answer: how it is cut and drawn, the page decides itself. */
const CUTTING = new Set(["buckets", "start", "stop", "domain", "show", "fold", "open"]);

export function question(what: string, parameters: Parameters): string {
  const named: [string, string][] = [];
  for (const [name, value] of Object.entries(parameters)) {
    if (value === undefined || CUTTING.has(name)) continue;
    for (const one of Array.isArray(value) ? (value as readonly string[]) : [String(value)]) named.push([name, one]);
  }
  named.sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0));
  return `${what}?${new URLSearchParams(named)}`;
}

/** The answer that was put in; null where none was. */
export async function answerOf(what: string, parameters: Parameters): Promise<Response | null> {
  const held = frozen();
  await arrived;
  const text = held?.answers[question(what, parameters)];
  if (text === undefined) return null;
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate")));
}
