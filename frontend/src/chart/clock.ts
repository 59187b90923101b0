// An axis of time: where a step lies on it, and back. The server tells the seconds of some steps; between them a step's time
// lies on the straight line.
import type { Line } from "../api.ts";
import { roundMarks, stepMarks } from "./scale.ts";
import { whole } from "../numbers.ts";

export type Clock = Line; // its mean: seconds of training at the end of a step

const GAPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400]; // seconds between marks

const EDGE = 0.04; // of the axis at its end that has no room for "4 min 30 s"

/** The seconds at a step, between those that were told; of a step beyond them the nearest. */
export function secondsAt(clock: Clock | null, step: number): number {
  return clock ? between(clock.first, clock.mean, step) : NaN;
}

/** The step at that time; where the clock stood still the last of them. */
export function stepAt(clock: Clock | null, seconds: number): number {
  return clock ? between(clock.mean, clock.first, seconds) : NaN;
}

/** The times between which a chart is shown, as the address has them: 1.5-20. */
export function secondsOf(text: string | null): [number, number] | null {
  const found = /^(\d{1,12}(?:\.\d{1,9})?)-(\d{1,12}(?:\.\d{1,9})?)$/.exec(text ?? "");
  if (!found) return null;
  const [low, high] = [Number(found[1]), Number(found[2])];
  return high > low ? [low, high] : null;
}

/** Where a step stands on the axis: itself, or its time. */
export function placing(clock: Clock | null): (step: number) => number {
  return clock && clock.first.length ? (step) => secondsAt(clock, step) : (step) => step;
}

function between(from: Float64Array, to: Float64Array, value: number): number {
  if (from.length === 0) return NaN;
  let [low, high] = [0, from.length - 1];
  if (value >= from[high]!) return to[high]!;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (from[middle]! <= value) low = middle;
    else high = middle;
  }
  const span = from[high]! - from[low]!;
  const share = span > 0 ? Math.max(0, Math.min(1, (value - from[low]!) / span)) : 0;
  return to[low]! + share * (to[high]! - to[low]!);
}

/** Marks of the axis: whole steps, or times at which people look at a clock. */
export function axisMarks(low: number, high: number, atMost: number, isTime: boolean): number[] {
  if (!isTime) return stepMarks(low, high, atMost);
  const raw = (high - low) / Math.max(1, atMost);
  const gap = GAPS.find((one) => one >= 0.75 * raw);
  const end = high - EDGE * (high - low);
  if (raw < 1 || gap === undefined) return roundMarks(low, high, atMost).filter((mark) => mark <= end);
  const marks: number[] = [];
  for (let i = Math.ceil(low / gap - 1e-9); i * gap <= end; i++) marks.push(i * gap);
  return marks;
}

/** What is written at them: the parts that tell neighbours apart. */
export function axisLabels(marks: readonly number[], isTime: boolean): string[] {
  const gap = marks.length > 1 ? marks[1]! - marks[0]! : (marks[0] ?? 1) || 1;
  return marks.map((mark) => (isTime ? timeText(mark, gap) : whole(mark)));
}

function timeText(seconds: number, gap: number): string {
  if (seconds === 0) return "0";
  if (gap < 0.9999) return `${seconds.toFixed(Math.ceil(-Math.log10(gap) - 1e-9))} s`;
  const [hours, minutes, rest] = [Math.floor(seconds / 3600), Math.floor((seconds % 3600) / 60), Math.round(seconds % 60)];
  const parts = [[hours, "h"], [minutes, "min"], [rest, "s"]] as const;
  const from = parts.findIndex(([value]) => value > 0);
  const to = gap % 3600 === 0 && hours ? 0 : gap % 60 === 0 && (hours || minutes) ? 1 : 2;
  return parts.slice(from, Math.max(from, to) + 1).map(([value, unit], i) => `${i ? String(value).padStart(2, "0") : value} ${unit}`).join(" ");
}
