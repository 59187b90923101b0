import { untrack } from "svelte";

/** While a component lives: calls `tell` whenever the run has another number of steps than when it was last looked at. */
export function whenGrown(steps: () => number, tell: () => unknown): void {
  let before = -1;
  $effect(() => {
    const now = steps();
    untrack(() => {
      if (before >= 0 && now !== before) tell();
      before = now;
    });
  });
}
