// What lies over the cells: the pinned step, the cell under the pointer, the box of a drag.
import { token } from "../chart/canvas.ts";
import { TOP, type Cell, type Geometry } from "./geometry.ts";

export interface Box {
  x0: number;
  y0: number;
  x1: number;
  y1: number;
}

export function paintPin(pen: CanvasRenderingContext2D, at: Geometry, scroll: number, pinned: { name: string; step: number }): void {
  const x = at.xOfStep(pinned.step)!;
  pen.fillStyle = token("ink");
  pen.fillRect(Math.floor(x), TOP, 1, at.visible);
  const row = at.rows.findIndex((one) => one.name === pinned.name);
  if (row >= 0) outline(pen, x - 4, at.topOf(row, scroll) - 1.5, 9, at.layout.places[row]!.height + 3);
}

/** The step that is pointed at in another chart. */
export function paintStep(pen: CanvasRenderingContext2D, at: Geometry, step: number): void {
  const x = at.xOfStep(step);
  if (x === null) return;
  pen.fillStyle = token("surface");
  pen.fillRect(Math.floor(x) - 1, TOP, 3, at.visible);
  pen.fillStyle = token("ink-3");
  pen.fillRect(Math.floor(x), TOP, 1, at.visible);
}

export function paintCursor(pen: CanvasRenderingContext2D, at: Geometry, scroll: number, cursor: Cell): void {
  const x0 = at.xOf(cursor.column);
  const x1 = Math.max(x0 + 2, at.xOf(cursor.column + 1));
  const [y, { height }] = [at.topOf(cursor.row, scroll), at.layout.places[cursor.row]!];
  pen.globalAlpha = 0.8;
  pen.fillStyle = token("surface");
  pen.fillRect(Math.floor((x0 + x1) / 2), TOP, 1, at.visible);
  pen.globalAlpha = 1;
  if (y + height >= TOP && y <= TOP + at.visible) outline(pen, x0 - 3, y - 1.5, x1 - x0 + 6, height + 3);
}

export function paintBox(pen: CanvasRenderingContext2D, box: Box): void {
  const [x, y] = [Math.min(box.x0, box.x1), Math.min(box.y0, box.y1)];
  const [across, down] = [Math.abs(box.x1 - box.x0), Math.abs(box.y1 - box.y0)];
  pen.fillStyle = token("weight-soft");
  pen.strokeStyle = token("accent");
  pen.lineWidth = 1;
  pen.fillRect(x, y, across, down);
  pen.strokeRect(x + 0.5, y + 0.5, across, down);
}

function outline(pen: CanvasRenderingContext2D, x: number, y: number, across: number, down: number): void {
  for (const [ink, thick] of [["surface", 4], ["ink", 1.5]] as const) {
    pen.strokeStyle = token(ink);
    pen.lineWidth = thick;
    pen.strokeRect(x, y, across, down);
  }
}
