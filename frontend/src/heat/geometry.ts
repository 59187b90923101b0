// Where everything of the picture stands, in CSS pixels, and which cell is at a place.
import { placing, stepAt, type Clock } from "../chart/clock.ts";
import { columnOf, flowOf, labelOf, type Heat, type HeatRow } from "./heat.ts";
import { layOut, rowAt, type Layout } from "./layout.ts";

export const TOP = 20; // flags
export const FOOT = 20; // step axis
export const MOST = 640; // px of rows before the panel scrolls of its own
export const NUMBERS = 60; // px at the right that hold a number for each row; with less there are none
const NARROW = 640;
const MINIMAP_FROM = 60; // rows; more of them get a strip that shows all of the depth
const MINIMAP = 20; // px

export interface Spot {
  x: number;
  y: number;
}

export interface Cell {
  row: number;
  column: number;
}

/** The cell under the pointer, by its place in the whole picture, and where the pointer is. */
export type Hovered = Cell & Spot;

export class Geometry {
  readonly isNarrow: boolean;
  readonly longestName: number; // letters
  readonly isOfSeveral: boolean; // models
  readonly layout: Layout;
  readonly visible: number; // px of rows that can be seen at once
  readonly left: number;
  readonly right: number;
  readonly plotWidth: number;
  readonly mini: number; // px of the minimap at the left edge; 0 = there is none
  readonly total: number; // px from flags to axis
  readonly heat: Heat;
  readonly rows: readonly HeatRow[]; // those shown
  readonly from: number; // the first of them
  readonly width: number;
  readonly clock: Clock | null; // then the columns stand where their time is
  private readonly edges: number[] | null; // of the columns, as shares of the width; null: all of one width

  constructor(heat: Heat, rows: readonly HeatRow[], from: number, width: number, clock: Clock | null = null) {
    [this.heat, this.rows, this.from, this.width] = [heat, rows, from, width];
    this.edges = clock ? inTime(heat, clock) : null;
    this.clock = this.edges ? clock : null;
    this.isNarrow = width < NARROW;
    this.longestName = this.isNarrow ? 9 : width > 1000 ? 28 : 20;
    this.isOfSeveral = rows.some((row) => row.model !== rows[0]!.model);
    this.layout = layOut(rows, MOST);
    this.visible = Math.max(24, Math.min(this.layout.height, MOST));
    this.mini = heat.rows.length > MINIMAP_FROM ? MINIMAP : 0;
    this.left = this.mini + this.gutter();
    this.right = this.isNarrow ? 8 : 70;
    this.plotWidth = Math.max(40, Math.min(width - this.left - this.right, heat.first.length === 1 ? 24 : Infinity));
    this.total = TOP + this.visible + FOOT;
  }

  private gutter(): number {
    const longest = Math.max(0, ...this.rows.map((row) => Math.min(labelOf(row, this.isOfSeveral).length, this.longestName)));
    const flow = this.isNarrow ? 0 : Math.max(0, ...this.rows.map((row) => flowOf(row).length));
    return Math.round(longest * 7.3 + Math.min(flow, 12) * 6 + (this.isNarrow ? 36 : 66));
  }

  /** The left edge of a column. */
  xOf(column: number): number {
    return this.left + Math.round((this.edges ? this.edges[column]! : column / this.heat.first.length) * this.plotWidth);
  }

  xOfStep(step: number): number | null {
    const { first, last } = this.heat;
    const column = columnOf(this.heat, step);
    if (column < 0) return null;
    if (this.clock) return this.left + this.shareOf(step) * this.plotWidth;
    const share = (step - first[column]!) / (last[column]! - first[column]! + 1);
    return this.left + ((column + share) / first.length) * this.plotWidth;
  }

  /** The step of a column at this x. */
  stepAt(x: number, column: number): number {
    const { first, last } = this.heat;
    if (this.clock) return Math.max(first[column]!, Math.min(last[column]!, Math.round(stepAt(this.clock, this.secondsAt(x)))));
    const share = ((x - this.left) / this.plotWidth) * first.length - column;
    const steps = last[column]! - first[column]! + 1;
    return first[column]! + Math.max(0, Math.min(steps - 1, Math.floor(share * steps)));
  }

  /** The upper edge of a row. `scroll`: px of rows above what can be seen. */
  topOf(row: number, scroll: number): number {
    return TOP + this.layout.places[row]!.top - scroll;
  }

  middleOf(row: number, scroll: number): number {
    return this.topOf(row, scroll) + this.layout.places[row]!.height / 2;
  }

  rowAt(y: number, scroll: number): number {
    return rowAt(this.layout, y - TOP + scroll);
  }

  cellAt({ x, y }: Spot, scroll: number): Cell | null {
    const { left, plotWidth, visible, heat } = this;
    if (x < left || x >= left + plotWidth || y < TOP || y > TOP + visible) return null;
    const row = this.rowAt(y, scroll);
    const share = (x - left) / plotWidth;
    const column = this.edges ? this.edges.findLastIndex((edge) => edge <= share) : Math.floor(share * heat.first.length);
    return row < 0 || column < 0 ? null : { row, column: Math.min(heat.first.length - 1, column) };
  }

  /** Where a step's time lies between those of the first and the last one. */
  private shareOf(step: number): number {
    const [low, high] = this.seconds;
    return Math.max(0, Math.min(1, (placing(this.clock)(step) - low) / (high - low)));
  }

  /** The time at this x. */
  private secondsAt(x: number): number {
    const [low, high] = this.seconds;
    return low + ((x - this.left) / this.plotWidth) * (high - low);
  }

  /** Of training, at the first and at the last step. */
  get seconds(): [low: number, high: number] {
    const at = placing(this.clock);
    return [at(this.heat.first[0]!), at(this.heat.last.at(-1)!)];
  }

  /** The nearest place among the cells. */
  clamped({ x, y }: Spot): Spot {
    const within = (value: number, low: number, length: number): number => Math.max(low, Math.min(low + length, value));
    return { x: within(x, this.left, this.plotWidth), y: within(y, TOP, this.visible) };
  }
}

/** Where the columns begin and end on an axis of time, from 0 to 1: half way between a column's last step and the next one's
 * first. Null where no time passes: there is nothing to place them by. */
function inTime({ first, last }: Heat, clock: Clock): number[] | null {
  const at = placing(clock);
  const [low, high] = [at(first[0] ?? 0), at(last.at(-1) ?? 0)];
  if (first.length < 2 || !(high > low)) return null;
  const between = first.slice(1).map((step, i) => ((at(last[i]!) + at(step)) / 2 - low) / (high - low));
  return [0, ...between, 1];
}
