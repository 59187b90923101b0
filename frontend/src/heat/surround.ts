// What stands around the cells: names and numbers of rows, brackets of findings, the step axis, flags.
import { glyph, hair, token, write } from "../chart/canvas.ts";
import { axisLabels, axisMarks } from "../chart/clock.ts";
import type { Pen } from "../chart/pen.ts";
import { brief, cut } from "../names.ts";
import { whole } from "../numbers.ts";
import { merged, type Flag } from "./flags.ts";
import { NUMBERS, TOP, type Geometry } from "./geometry.ts";
import { ABSENT, flowOf, IDENTICAL, labelOf, letterOf, NONFINITE, written, ZERO, type Heat } from "./heat.ts";
import { labelled } from "./layout.ts";

const SPREAD = 5; // px, between the cells and the numbers

export interface Bracket {
  rows: Set<number>;
  severity: string;
}

/** Where an attempt began, and up to which step earlier ones had been. */
export interface Again {
  attempt: number;
  first: number;
  last: number;
}

export const inkOf = (severity: string): string => token(severity === "error" || severity === "warning" ? severity : "note");

/** Names at the left, W and b beside the cells, and at the right the number of one column. */
export function paintLabels(pen: Pen, at: Geometry, scroll: number, column: number): void {
  const { rows, layout, isNarrow, longestName } = at;
  const letters = at.left - (isNarrow ? 26 : 38);
  const isSeen = (y: number): boolean => y > TOP - 10 && y < TOP + at.visible + 10;
  for (const i of labelled(layout, rows, layout.height > at.visible ? 20 : 13)) {
    const row = rows[i]!;
    const y = at.middleOf(i, scroll);
    if (!isSeen(y)) continue;
    write(pen, brief(labelOf(row, at.isOfSeveral), longestName), at.mini, y, { mono: true, size: 12, colour: token("ink") });
    if (!isNarrow) write(pen, cut(flowOf(row), 12), letters - 8, y, { align: "right", colour: token("ink-3") });
  }
  let free = -Infinity;
  rows.forEach((row, i) => {
    const y = at.middleOf(i, scroll);
    if (!isSeen(y)) return;
    if (layout.places[i]!.height >= 6 && letterOf(row)) {
      write(pen, letterOf(row), letters + 6, y, { align: "center", size: row.bias ? 9 : 11, weight: 600, colour: token(row.bias ? "bias" : "weight") });
    }
    if (at.right < NUMBERS || y < free) return;
    write(pen, textOf(at.heat, at.from + i, column), at.width, y, { align: "right", size: row.bias ? 9.5 : 11, colour: token(row.bias ? "ink-3" : "ink-2") });
    free = y + 9;
  });
}

function textOf(heat: Heat, row: number, column: number): string {
  const at = row * heat.first.length + column;
  const kind = heat.mask[at];
  if (kind === ABSENT || kind === undefined) return "–";
  if (kind === IDENTICAL) return "same";
  return kind === NONFINITE ? "NaN, Inf" : kind === ZERO ? "0" : written(heat.value[at]!, heat.scale, 2);
}

/** Beside a folded row, of one column, the colours of its greatest (above) and its least member: how far they are apart. */
export function paintSpreads(pen: Pen, at: Geometry, scroll: number, column: number, colourOf: (value: number) => string | null): void {
  const { heat, rows, layout } = at;
  if (!heat.least || !heat.greatest) return;
  rows.forEach((row, i) => {
    const [y, { height }] = [at.topOf(i, scroll), layout.places[i]!];
    if (!row.folded || y + height < TOP || y > TOP + at.visible) return;
    const cell = (at.from + i) * heat.first.length + column;
    const [high, low] = [colourOf(heat.greatest![cell]!), colourOf(heat.least![cell]!)];
    if (high === null || low === null) return;
    const half = height / 2;
    for (const [ink, top] of [[high, y], [low, y + half]] as const) {
      pen.fillStyle = ink;
      pen.fillRect(at.left + at.plotWidth + 2, top, SPREAD, half);
    }
  });
}

/** Neighbouring rows that a finding names have one bracket. */
export function paintBrackets(pen: Pen, at: Geometry, scroll: number, brackets: readonly Bracket[]): void {
  brackets.forEach((bracket, order) => {
    const x = at.left - 9 - (at.isNarrow ? 0 : 6 * Math.min(order, 1));
    let begin = -1;
    for (let i = 0; i <= at.rows.length; i++) {
      const isIn = i < at.rows.length && bracket.rows.has(at.from + i);
      if (isIn && begin < 0) begin = i;
      if (isIn || begin < 0) continue;
      const top = at.topOf(begin, scroll);
      const end = at.topOf(i - 1, scroll) + at.layout.places[i - 1]!.height;
      pen.fillStyle = inkOf(bracket.severity);
      pen.fillRect(x, top, 3, Math.max(3, end - top));
      if (end - top > 9) glyph(pen, bracket.severity, x + 1.5, top + 4, 8);
      begin = -1;
    }
  });
}

/** Steps (or the time of training) below the cells, and above the numbers at the right the step that they are of. */
export function paintAxis(pen: Pen, at: Geometry, numbersOf: number): void {
  const { heat, left, plotWidth } = at;
  const y = TOP + at.visible;
  hair(pen, left, y, left + plotWidth, y, token("line-2"));
  const isTime = at.clock !== null;
  const [low, high] = isTime ? at.seconds : [heat.first[0] ?? 0, heat.last.at(-1) ?? 0];
  write(pen, isTime ? "time" : "step", left - 8, y + 11, { align: "right" });
  const marks = axisMarks(low, high, Math.max(1, plotWidth / (isTime ? 110 : 100)), isTime);
  const labels = axisLabels(marks, isTime);
  for (const [i, mark] of marks.entries()) {
    const x = isTime ? left + ((mark - low) / (high - low)) * plotWidth : at.xOfStep(mark);
    if (x === null) continue;
    hair(pen, x, y, x, y + 4, token("line-2"));
    const atEnd = x > left + plotWidth - 24 && plotWidth > 60;
    write(pen, labels[i]!, atEnd ? left + plotWidth : x, y + 11, { align: atEnd ? "right" : x < left + 4 ? "left" : "center" });
  }
  if (at.right >= NUMBERS && heat.first.length > 0) write(pen, `step ${whole(numbersOf)}`, at.width, 9, { align: "right" });
}

/** Steps that were trained twice have a bar above their cells; a dotted line where the later attempt began. */
export function paintAgain(pen: Pen, at: Geometry, again: readonly Again[]): void {
  for (const { first, last } of again) {
    const x = at.xOfStep(first);
    if (x !== null) hair(pen, x, TOP - 6, x, TOP + at.visible, token("ink"), [1, 3]);
    const [from, to] = [x ?? at.left, at.xOfStep(Math.min(last + 1, at.heat.last.at(-1) ?? 0)) ?? at.left];
    if (last < first || to <= from || last < (at.heat.first[0] ?? 0)) continue;
    pen.fillStyle = token("ink-3");
    pen.fillRect(from, TOP - 3, to - from, 2);
  }
}

/** How many more stay; the words before them lose their end. */
function fitting(text: string, more: string, letters: number): string {
  if (text.length + more.length <= letters) return text + more;
  const short = more && letters > more.length + 12 ? more : more.replace(/ and (\d+) more/, " +$1");
  return `${text.slice(0, Math.max(1, letters - short.length - 1)).trimEnd()}…${short}`;
}

export function paintFlags(pen: Pen, at: Geometry, flags: readonly Flag[]): void {
  const { left, plotWidth } = at;
  const placed = merged(flags, (step) => at.xOfStep(step));
  let before = left;
  placed.forEach((flag, i) => {
    hair(pen, flag.x, 4, flag.x, TOP + at.visible, inkOf(flag.severity), flag.dotted ? [2, 3] : []);
    glyph(pen, flag.severity, flag.x + 0.5, 9);
    const room = (placed[i + 1]?.x ?? left + plotWidth + (at.right < NUMBERS ? 0 : 4)) - flag.x - 20;
    const behind = flag.x - Math.max(before, left) - 20; // where nothing stands to the left
    const more = flag.count > 1 ? ` and ${flag.count - 1} more` : "";
    const text = flag.text + more;
    const fitted = (room: number): string => fitting(flag.text, more, Math.floor(room / 5.6));
    const isLeft = room < text.length * 5.2 && behind > Math.max(room, 60);
    if (isLeft) write(pen, fitted(behind), flag.x - 9, 9, { colour: token("ink-2"), align: "right" });
    else if (room > 60) write(pen, fitted(room), flag.x + 9, 9, { colour: token("ink-2") });
    before = isLeft || room <= 60 ? flag.x + 6 : flag.x + 9 + Math.min(room, text.length * 5.6);
  });
}
