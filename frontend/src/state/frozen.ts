// A page that was written into one file has its answers in it, and no server to ask. Each is zlib in base64.
import type { Parameters } from "../api.ts";

interface Frozen {
  runs: string[];
  answers: Record<string, string>; // by question
}

let content: Frozen | null | undefined;

/** What the file holds; null on a page that has a server. */
export function frozen(): Frozen | null {
  if (content === undefined) {
    const place = typeof document === "undefined" ? null : document.getElementById("frozen");
    content = place ? (JSON.parse(place.textContent ?? "{}") as Frozen) : null;
  }
  return content;
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
  const text = held?.answers[question(what, parameters)];
  if (text === undefined) return null;
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate")));
}
