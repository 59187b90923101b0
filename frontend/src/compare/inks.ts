// How runs are told apart: A blue and round, B orange and a diamond; the others by dash, letter and a quieter ink.
import { token } from "../chart/canvas.ts";

export interface Ink {
  colour: string;
  dash: number[];
}

const DASHES = [[], [], [6, 3], [2, 3], [8, 3, 2, 3], [1, 2], [10, 4], [4, 2, 1, 2]];

export function inkOf(place: number): Ink {
  return { colour: token(place === 0 ? "run-a" : place === 1 ? "run-b" : "ink-2"), dash: DASHES[place] ?? [] };
}
