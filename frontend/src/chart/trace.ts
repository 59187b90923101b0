// A time chart by a pen, for files: what uPlot shows on the page, at the same places.
import type { Line } from "../api.ts";
import { ticks } from "../numbers.ts";
import { cross, hair, token, write } from "./canvas.ts";
import { axisLabels, axisMarks, placing, type Clock } from "./clock.ts";
import type { Pen } from "./pen.ts";
import { axisWidth, columns, FOOT, logLabels, outlineInner, PADDING, traceLine, type Inner, type Level, type Look, type Places } from "./plot.ts";
import { decades, readableMarks, type Range } from "./scale.ts";

interface Drawn {
  line: Line;
  inner: Inner | null;
  older?: readonly Line[];
  begins?: readonly number[];
  level?: Level | null;
  clock?: Clock | null;
}

export function paintChart(pen: Pen, look: Look, { line, inner, older = [], begins = [], level = null, clock = null }: Drawn, steps: Range, values: Range, pinned: number | null): void {
  const few = Math.max(2, Math.floor(look.height / 36));
  const beside = look.kind === "log" ? decades(values[0], values[1], few) : readableMarks(values[0], values[1], few);
  const labels = (look.kind === "log" ? logLabels(beside) : ticks(beside)).map((text) => (text ? text + (look.unit ?? "") : text));
  const [left, right, top, foot] = [axisWidth(labels), look.width - PADDING.right, PADDING.top, look.height - FOOT];
  const to = (value: number): number => (look.kind === "log" ? Math.log(value) : value);
  const at = placing(clock);
  const [from, until] = [at(steps[0]), at(steps[1])];
  const X = (step: number): number => left + (until > from ? (at(step) - from) / (until - from) : 0.5) * (right - left);
  const Y = (value: number): number => foot - ((to(value) - to(values[0])) / (to(values[1]) - to(values[0]))) * (foot - top);
  axes();
  pen.save();
  pen.beginPath();
  pen.rect(left, top - 2, right - left + 1, foot - top + 2);
  pen.clip();
  const [x, mean, low, high] = columns(line, look.kind);
  const ink = look.colour === "other" ? token("ink-2") : token(look.colour);
  pen.fillStyle = look.colour === "other" ? token("ink-3") + "26" : token(`${look.colour}-soft`);
  for (const [from, until] of stretches(mean)) band(from, until);
  if (inner?.low.mean.length) {
    outlineInner(pen, inner, X, Y);
    pen.fill();
  }
  pen.strokeStyle = pen.fillStyle = ink;
  pen.lineWidth = 1.5;
  for (const [from, until] of stretches(mean)) stretch(from, until);
  pen.strokeStyle = token("ink-3");
  pen.lineWidth = 1;
  pen.setLineDash([4, 3]);
  for (const one of older) {
    traceLine(pen, one, look.kind, X, Y);
    pen.stroke();
  }
  pen.setLineDash([]);
  pen.restore();
  for (const step of begins) if (step >= steps[0] && step <= steps[1]) hair(pen, X(step), top, X(step), foot, token("ink-3"), [1, 3]);
  marks();
  if (level && level.value > values[0] && level.value < values[1]) {
    hair(pen, left, Y(level.value), right, Y(level.value), token("ink"), [5, 4]);
    write(pen, level.name, right, Y(level.value) - 7, { align: "right", colour: token("ink-2") });
  }
  if (pinned !== null && pinned >= steps[0] && pinned <= steps[1]) hair(pen, X(pinned), top, X(pinned), foot, token("ink"));

  function axes(): void {
    beside.forEach((mark, i) => {
      hair(pen, left, Y(mark), right, Y(mark), token("line"));
      write(pen, labels[i]!, left - 6, Y(mark), { align: "right" });
    });
    hair(pen, left, foot, right, foot, token("line-2"));
    const below = axisMarks(from, until, Math.max(2, look.width / (clock ? 110 : 90)), clock !== null);
    const texts = axisLabels(below, clock !== null);
    below.forEach((mark, i) => write(pen, texts[i]!, left + (until > from ? (mark - from) / (until - from) : 0.5) * (right - left), foot + 12, { align: "center" }));
    write(pen, clock ? "time" : "step", left - 12, foot + 12, { align: "right" });
  }

  function band(from: number, until: number): void {
    pen.beginPath();
    for (let i = from; i < until; i++) (i === from ? pen.moveTo : pen.lineTo).call(pen, X(x[i]!), Y(high[i]!));
    for (let i = until - 1; i >= from; i--) pen.lineTo(X(x[i]!), Y(low[i]!));
    pen.closePath();
    pen.fill();
  }

  function stretch(from: number, until: number): void {
    pen.beginPath();
    if (until - from === 1) {
      pen.arc(X(x[from]!), Y(mean[from]!), 3, 0, 7);
      return pen.fill();
    }
    for (let i = from; i < until; i++) (i === from ? pen.moveTo : pen.lineTo).call(pen, X(x[i]!), Y(mean[i]!));
    pen.stroke();
  }

  /** An × where something was NaN or infinite, at the first of each run of such buckets. */
  function marks(): void {
    for (let i = 0; i < line.bad.length; i++) {
      if (line.bad[i]! > 0 && !(line.bad[i - 1]! > 0)) cross(pen, X(x[i]!), foot);
    }
  }
}

/** Places without a gap between them, as [from, until). */
function stretches(of: Places): [number, number][] {
  const found: [number, number][] = [];
  for (let i = 0; i < of.length; i++) {
    if (of[i] === null) continue;
    if (found.at(-1)?.[1] === i) found.at(-1)![1] = i + 1;
    else found.push([i, i + 1]);
  }
  return found;
}
