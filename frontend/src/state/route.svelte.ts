// The address is the state of the view: what is chosen, how it is drawn, which steps. Defaults are left out of it.
// A view is a path (/, /run/NAME, /run/NAME/layer/PATH, /rules/ID) and named parameters, some of them repeated.
import { busy } from "./busy.ts";
import { frozen } from "./frozen.ts";

export interface Place {
  view: "runs" | "run" | "rules" | "compare" | "lab" | "nowhere";
  run: string;
  tab: string; // of a run; empty = at a glance
  rest: string; // what stands after it: a layer, a finding, a rule
  query: URLSearchParams;
}

// A page written into one file lives at the file's own address: its state stands behind the #. In a frame (a notebook) the
// address belongs to the page around it, and the state is kept here.
const held = frozen();
const framed = held !== null && parent !== window;
let inner = "";

function here(): { pathname: string; search: string } {
  if (!held) return location;
  const text = (framed ? inner : location.hash.slice(1)) || startOf(held.runs);
  const at = text.indexOf("?");
  return { pathname: at < 0 ? text : text.slice(0, at), search: at < 0 ? "" : text.slice(at) };
}

/** A report opens on its run, or on all of them side by side; while one of them grows, on their list. */
function startOf(runs: readonly string[]): string {
  return runs.length === 1 ? addressOfRun(runs[0]!) : held?.grows ? "/" : addressOfComparison(runs);
}

function write(address: string, push: boolean): void {
  if (framed) inner = address;
  else {
    if (push) remember();
    history[push ? "pushState" : "replaceState"](push ? null : history.state, "", held ? `#${address}` : address);
  }
}

let place = $state.raw<Place>(read(here()));

addEventListener("popstate", (event) => {
  place = read(here());
  scrollBack((event.state as { y?: number } | null)?.y ?? 0);
});

// Where a page was when it was left is where Back finds it again: the browser's own way comes before the page has its height.
history.scrollRestoration = "manual";
// The place is held until the page has all that it asks for: what comes later makes it longer, or for a moment shorter.
const [QUIET_MS, PATIENCE_MS] = [400, 3000]; // without a question under way: the page is whole; it will not be long enough any more
let scrolling = 0;

function scrollBack(y: number): void {
  const mine = ++scrolling;
  let since = performance.now();
  const again = (): void => {
    if (mine !== scrolling) return;
    if (Math.abs(scrollY - y) > 1) scrollTo(0, y);
    if (busy.now) since = performance.now();
    if (performance.now() - since < (Math.abs(scrollY - y) > 1 ? PATIENCE_MS : QUIET_MS)) requestAnimationFrame(again);
  };
  requestAnimationFrame(again);
}
for (const hand of ["wheel", "pointerdown", "keydown"]) addEventListener(hand, () => scrolling++, { passive: true }); // who scrolls is let

function remember(): void {
  history.replaceState({ ...(history.state as object | null), y: scrollY }, "");
}
addEventListener("pagehide", remember);
const left = (history.state as { y?: number } | null)?.y ?? 0;
if (!framed && left > 0) scrollBack(left);

export const route = {
  get place(): Place {
    return place;
  },
};

export function read(from: { pathname: string; search: string }): Place {
  const query = new URLSearchParams(from.search);
  const nowhere: Place = { view: "nowhere", run: "", tab: "", rest: "", query };
  let parts: string[];
  try {
    parts = from.pathname.split("/").slice(1).map(decodeURIComponent);
  } catch {
    return nowhere;
  }
  const [view, first = "", tab = "", ...rest] = parts;
  if (view === "" && parts.length === 1) return { ...nowhere, view: "runs" };
  if (view === "run" && first) return { view: "run", run: first, tab, rest: rest.join("/"), query };
  if (view === "rules" && !tab) return { ...nowhere, view: "rules", rest: first };
  if ((view === "compare" || view === "lab") && parts.length === 1) return { ...nowhere, view };
  return nowhere;
}

/** A run's name may hold slashes: it is one part of the path. */
export function addressOfRun(name: string, tab = "", rest = ""): string {
  return "/run/" + encodeURIComponent(name) + (tab ? `/${tab}` : "") + (rest ? `/${encodeURIComponent(rest)}` : "");
}

export function addressOfComparison(runs: readonly string[]): string {
  return `/compare?${new URLSearchParams(runs.map((name) => ["run", name]))}`;
}

export function go(address: string): void {
  const before = here().pathname;
  write(address, true);
  place = read(here());
  if (here().pathname !== before) (scrolling++, scrollTo(0, 0));
}

/**
 * Change parameters: null removes one, a list repeats it. `push` makes a step that Back undoes (a choice, the end of a
 * drag); without it the address only follows (typing, dragging).
 */
export function change(parameters: Record<string, string | readonly string[] | null>, push = true): void {
  const now = here();
  const query = new URLSearchParams(now.search);
  for (const [name, value] of Object.entries(parameters)) {
    query.delete(name);
    for (const one of value === null ? [] : typeof value === "string" ? [value] : value) query.append(name, one);
  }
  const text = query.toString();
  const address = now.pathname + (text ? `?${text}` : "");
  if (address === now.pathname + now.search) return;
  write(address, push);
  place = read(here());
}

/** The address with some parameters of this one, for a link to another tab. */
export function keeping(address: string, names: readonly string[], query = place.query): string {
  const kept = new URLSearchParams();
  for (const name of names) for (const value of query.getAll(name)) kept.append(name, value);
  const text = kept.toString();
  return address + (text ? `?${text}` : "");
}

/** A click on a link of ours changes the view without loading the page again. */
export function follow(event: MouseEvent): void {
  if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const link = (event.target as Element | null)?.closest("a");
  if (!link || link.getAttribute("href")?.startsWith("/") === false || (!held && link.origin !== location.origin) || link.target || link.hasAttribute("download")) return;
  event.preventDefault();
  go(link.pathname + link.search);
}
