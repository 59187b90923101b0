// While the page is printed: charts are drawn anew, no wider than a sheet. A picture made for the screen would shrink on paper,
// and its letters with it.
import { flushSync } from "svelte";

const SHEET = 640; // px of an upright A4 or Letter page between its margins
let printing = $state(false);

export const paper = {
  get now(): boolean {
    return printing;
  },
};

/** The width that a chart is drawn at, of that which it has on the screen. */
export function drawnWidth(measured: number): number {
  return printing ? Math.min(measured, SHEET) : measured;
}

/** Printing does not wait: all is drawn before the event is over. */
export function startPaper(): void {
  addEventListener("beforeprint", () => turn(true));
  addEventListener("afterprint", () => turn(false));
}

function turn(to: boolean): void {
  flushSync(() => (printing = to));
  flushSync(); // what has just come into the page has measured itself
}
