// All rows as a strip at the left edge, where there are many: which part of the depth is seen, where something is not finite, and
// what findings name.
import { token } from "../chart/canvas.ts";
import { TOP, type Geometry } from "./geometry.ts";
import { NONFINITE, type Heat } from "./heat.ts";
import { inkOf, type Bracket } from "./surround.ts";

const STRIP = 8; // px of the colours; beside them stand the marks
const MARK = 3;

/** The rows in which anything is not finite. */
export function troubled(heat: Heat): number[] {
  const wide = heat.first.length;
  return heat.rows.flatMap((_, row) => (heat.mask.subarray(row * wide, (row + 1) * wide).includes(NONFINITE) ? [row] : []));
}

export function paintMinimap(
  pen: CanvasRenderingContext2D, at: Geometry, scroll: number, picture: OffscreenCanvas | null, column: number, bad: readonly number[], brackets: readonly Bracket[],
): void {
  const { heat, rows, from, visible } = at;
  const each = visible / heat.rows.length;
  const place = (row: number): number => TOP + row * each;
  pen.fillStyle = token("sunken");
  pen.fillRect(0, TOP, STRIP, visible);
  if (picture) pen.drawImage(picture, Math.max(0, column), 0, 1, heat.rows.length, 0, TOP, STRIP, visible);
  pen.fillStyle = token("trouble");
  for (const row of bad) pen.fillRect(0, place(row), MARK, Math.max(1.5, each));
  for (const bracket of brackets) {
    pen.fillStyle = inkOf(bracket.severity);
    for (const row of bracket.rows) pen.fillRect(STRIP + 1, place(row), MARK, Math.max(2, each));
  }
  const first = from + Math.max(0, at.rowAt(TOP, scroll));
  const last = from + Math.max(0, at.rowAt(TOP + Math.min(visible, at.layout.height - 0.01), scroll));
  if (rows.length === heat.rows.length && last - first + 1 >= rows.length) return; // all of them are seen
  pen.strokeStyle = token("ink");
  pen.lineWidth = 1.5;
  pen.strokeRect(0.75, Math.floor(place(first)) + 0.75, STRIP + MARK, Math.max(6, (last - first + 1) * each) - 1.5);
}

/** The row of the whole picture at this height of the strip. */
export function rowOfMinimap(at: Geometry, y: number): number {
  const count = at.heat.rows.length;
  return Math.max(0, Math.min(count - 1, Math.floor(((y - TOP) / at.visible) * count)));
}
