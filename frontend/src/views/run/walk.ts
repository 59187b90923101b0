// w s zoom, a d pan, 0 all: the same on every tab of a run.
import type { Range } from "../../chart/scale.ts";
import { change } from "../../state/route.svelte.ts";
import { zoomed } from "./choice.ts";

export function walker(shown: () => Range, full: () => Range): Record<string, () => void> {
  const zoom = (factor: number, shift: number): void => {
    const to = zoomed(shown(), full(), factor, shift);
    change({ steps: to ? `${to[0]}-${to[1]}` : null });
  };
  return {
    w: () => zoom(0.5, 0),
    s: () => zoom(2, 0),
    a: () => zoom(1, -0.25),
    d: () => zoom(1, 0.25),
    "0": () => change({ steps: null, rows: null }),
  };
}
