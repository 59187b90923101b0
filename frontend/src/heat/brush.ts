// A part of the picture that is marked, by a drag or by keys, and what it is zoomed into.
import type { Range } from "../chart/scale.ts";
import { TOP, type Cell, type Geometry } from "./geometry.ts";
import type { Box } from "./overlay.ts";

export interface Zoom {
  steps: Range | null; // null = as they are
  rows: Range | null; // among those that are shown
}

const [LEAST_ACROSS, LEAST_DOWN] = [8, 26]; // px of a drag: less is a hand that is not quite steady

/** Of a drag: along one row it is of steps only, one down a column of rows only. Null: nothing lies in it. */
export function zoomOfBox(at: Geometry, box: Box, scroll: number): Zoom | null {
  const a = at.cellAt({ x: Math.min(box.x0, box.x1), y: Math.min(box.y0, box.y1) }, scroll);
  const b = at.cellAt({ x: Math.max(box.x0, box.x1) - 0.01, y: Math.max(box.y0, box.y1) }, scroll);
  if (!a || !b) return null;
  const { steps, rows } = zoomOfCells(at, a, b);
  return { steps: Math.abs(box.x1 - box.x0) > LEAST_ACROSS ? steps : null, rows: Math.abs(box.y1 - box.y0) > LEAST_DOWN ? rows : null };
}

/** From one cell to another, both of them with it; one column or one row alone is none to zoom into, nor are all rows. */
export function zoomOfCells(at: Geometry, one: Cell, other: Cell): Zoom {
  const [left, right] = [Math.min(one.column, other.column), Math.max(one.column, other.column)];
  const [top, bottom] = [Math.min(one.row, other.row), Math.max(one.row, other.row)];
  return {
    steps: right > left ? [at.heat.first[left]!, at.heat.last[right]!] : null,
    rows: bottom > top && bottom - top + 1 < at.rows.length ? [top, bottom] : null,
  };
}

/** What of the picture lies between two cells, px. */
export function boxOf(at: Geometry, one: Cell, other: Cell, scroll: number): Box {
  const [top, bottom] = [Math.min(one.row, other.row), Math.max(one.row, other.row)];
  const within = (y: number): number => Math.max(TOP, Math.min(TOP + at.visible, y));
  return {
    x0: at.xOf(Math.min(one.column, other.column)),
    x1: at.xOf(Math.max(one.column, other.column) + 1),
    y0: within(at.topOf(top, scroll)),
    y1: within(at.topOf(bottom, scroll) + at.layout.places[bottom]!.height),
  };
}
