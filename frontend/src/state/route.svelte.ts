// The address is the state of the view: what is chosen, how it is drawn, which steps. Defaults are left out of it.
// A view is a path (/, /run/NAME) and named parameters, some of them repeated.

export interface Place {
  view: "runs" | "run" | "nowhere";
  run: string;
  query: URLSearchParams;
}

let place = $state.raw<Place>(read(location));

addEventListener("popstate", () => {
  place = read(location);
});

export const route = {
  get place(): Place {
    return place;
  },
};

export function read(from: { pathname: string; search: string }): Place {
  const query = new URLSearchParams(from.search);
  if (from.pathname === "/") return { view: "runs", run: "", query };
  const found = /^\/run\/(.+)$/.exec(from.pathname);
  if (!found?.[1]) return { view: "nowhere", run: "", query };
  try {
    return { view: "run", run: found[1].split("/").map(decodeURIComponent).join("/"), query };
  } catch {
    return { view: "nowhere", run: "", query };
  }
}

export function addressOfRun(name: string): string {
  return "/run/" + name.split("/").map(encodeURIComponent).join("/");
}

export function go(address: string): void {
  history.pushState(null, "", address);
  place = read(location);
  scrollTo(0, 0);
}

/**
 * Change parameters: null removes one, a list repeats it. `push` makes a step that Back undoes (a choice, the end of a
 * drag); without it the address only follows (typing, dragging).
 */
export function change(parameters: Record<string, string | readonly string[] | null>, push = true): void {
  const query = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(parameters)) {
    query.delete(name);
    for (const one of value === null ? [] : typeof value === "string" ? [value] : value) query.append(name, one);
  }
  const text = query.toString();
  const address = location.pathname + (text ? `?${text}` : "");
  if (address === location.pathname + location.search) return;
  history[push ? "pushState" : "replaceState"](null, "", address);
  place = read(location);
}

/** A click on a link of ours changes the view without loading the page again. */
export function follow(event: MouseEvent): void {
  if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const link = (event.target as Element | null)?.closest("a");
  if (!link || link.origin !== location.origin || link.target || link.hasAttribute("download")) return;
  event.preventDefault();
  go(link.pathname + link.search);
}
