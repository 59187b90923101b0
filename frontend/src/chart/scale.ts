// Where numbers lie on an axis. Ranges only; no statistics are made here.
import type { Line } from "../api.ts";

export type ScaleKind = "log" | "linear";
const NARROW = 30; // values within this factor get a range of their own instead of whole decades

export type Range = [low: number, high: number];

/** Smallest and largest finite value that is drawn; null where there is none. Log axes hold positive values only. */
export function extent(lines: readonly Line[], kind: ScaleKind): Range | null {
  let low = Infinity;
  let high = -Infinity;
  for (const line of lines) {
    for (const values of [line.min, line.max, line.mean]) {
      for (const value of values) {
        if (!Number.isFinite(value) || (kind === "log" && value <= 0)) continue;
        if (value < low) low = value;
        if (value > high) high = value;
      }
    }
  }
  return low <= high ? [low, high] : null;
}

/** A range with air around it: rounded out to whole decades, or 6 % on both sides. */
export function rounded(range: Range | null, kind: ScaleKind): Range {
  if (kind === "log") {
    const [low, high] = range ?? [1e-3, 1];
    if (range && high / low < NARROW) return [outward(low * 0.999, Math.floor), outward(high * 1.001, Math.ceil)];
    const from = Math.floor(Math.log10(low) + 1e-9);
    const to = Math.ceil(Math.log10(high) - 1e-9);
    return [Number(`1e${from}`), Number(`1e${to > from ? to : from + 1}`)];
  }
  const [low, high] = range ?? [0, 1];
  if (low === high) return low === 0 ? [-1, 1] : [Math.min(0, low * 2), Math.max(0, low * 2)];
  const air = (high - low) * 0.06;
  return [low >= 0 && low < (high - low) * 0.35 ? 0 : low - air, high <= 0 && -high < (high - low) * 0.35 ? 0 : high + air];
}

/** Marks of a linear axis at round numbers. */
export function roundMarks(low: number, high: number, atMost: number): number[] {
  const raw = (high - low) / Math.max(1, atMost);
  if (!(raw > 0) || !Number.isFinite(raw)) return [low];
  const magnitude = 10 ** Math.floor(Math.log10(raw));
  const gap = ([1, 2, 2.5, 5, 10].find((k) => k * magnitude >= raw * (1 - 1e-9)) ?? 10) * magnitude;
  const marks: number[] = [];
  for (let i = Math.ceil(low / gap - 1e-9); i * gap <= high + gap * 1e-6; i++) marks.push(Number((i * gap).toPrecision(12)));
  return marks;
}

/** As roundMarks, but never so few that the axis cannot be read: a third mark is worth a little crowding. */
export function readableMarks(low: number, high: number, atMost: number): number[] {
  for (let more = 0; more < 3; more++) {
    const marks = roundMarks(low, high, atMost + more);
    if (marks.length > 2) return marks;
  }
  return roundMarks(low, high, atMost + 2);
}

/** Marks of a log axis: whole decades, every so many that they fit; on a short axis numbers between them. Never one alone. */
export function decades(low: number, high: number, atMost: number): number[] {
  const every = Math.max(1, Math.ceil((exponentAbove(high) - exponentBelow(low)) / Math.max(1, atMost)));
  const isShort = high / low < NARROW;
  const ways: [number, number[]][] = isShort ? [[1, [1, 2, 5]], [1, [1, 5]], [1, [1]]] : [[every, [1]], [1, [1]]];
  const found = ways.map(([apart, digits]) => logMarks(low, high, apart, digits));
  return found.find((marks) => marks.length >= 2 && (!isShort || marks.length <= atMost + 2)) ?? logMarks(low, high, 1, [1, 2, 5]);
}

const exponentBelow = (value: number): number => Math.floor(Math.log10(value) + 1e-9);
const exponentAbove = (value: number): number => Math.ceil(Math.log10(value) - 1e-9);

function logMarks(low: number, high: number, every: number, digits: readonly number[]): number[] {
  const marks: number[] = [];
  for (let e = exponentBelow(low); e <= exponentAbove(high); e += every) for (const digit of digits) marks.push(Number(`${digit}e${e}`));
  return marks.filter((mark) => mark >= low * (1 - 1e-9) && mark <= high * (1 + 1e-9));
}

/** The nearest of 1, 2, 5 times a power of ten, outward. */
function outward(value: number, round: (x: number) => number): number {
  const exponent = Math.floor(Math.log10(value));
  const lead = value / 10 ** exponent;
  const steps = [1, 2, 5, 10];
  const found = round === Math.floor ? steps.filter((s) => s <= lead * (1 + 1e-9)).at(-1) : steps.find((s) => s >= lead * (1 - 1e-9));
  return Number(`${found ?? 1}e${exponent}`);
}

/** Marks on the step axis: whole steps only. */
export function stepMarks(low: number, high: number, atMost: number): number[] {
  const marks = roundMarks(low, high, atMost);
  if (marks.every(Number.isInteger)) return marks;
  // 2.5 steps apart: the next whole distance
  return roundMarks(low, high, (high - low) / (marks.length > 1 && marks[1]! - marks[0]! > 1 ? 5 : 1));
}

/**
 * The first steps left out of the range, where they alone would take more than half of it (a loss that starts at 40 and
 * is at 2 soon). null where they would not.
 */
export function withoutStart(line: Line, kind: ScaleKind): Range | null {
  const count = line.mean.length;
  const skip = Math.max(1, Math.ceil(count * 0.02));
  if (count < 50) return null;
  const rest = extent([{ ...line, mean: line.mean.subarray(skip), min: line.min.subarray(skip), max: line.max.subarray(skip) }], kind);
  const whole = extent([line], kind);
  if (!rest || !whole) return null;
  const length = (range: Range): number => (kind === "log" ? Math.log(range[1] / range[0]) : range[1] - range[0]);
  return length(whole) > 2 * length(rest) ? rest : null;
}
