// The settings of one time chart: a mean line, a band from least to greatest, a step axis. uPlot draws; the colours
// are the page's tokens, read when a chart is made, so a change of theme makes it anew.
import uPlot from "uplot";

import type { Line } from "../api.ts";
import { power, ticks } from "../numbers.ts";
import { axisLabels, axisMarks, placing, type Clock } from "./clock.ts";
import { widest } from "./canvas.ts";
import { drawFootMarks, middle } from "./marks.ts";
import type { Pen } from "./pen.ts";
import { decades, readableMarks, type Range, type ScaleKind } from "./scale.ts";

const BESIDE = 12; // px between the numbers at the left and both edges
export const AXIS_WIDTH = 50; // at the left; more where a number is longer
export const FOOT = 22;
const FOOT_BARE = 6;
export const PADDING = { top: 8, right: 18 };

export interface Look {
  width: number;
  height: number;
  kind: ScaleKind;
  colour: "weight" | "bias" | "other";
  unit?: string; // behind the numbers at the left
  foot: boolean; // step numbers below; charts that stand above another one do without
}

/** A band within the band: two quantiles, each with the numbers between which it lies for sure. */
export interface Inner {
  names: [low: string, high: string];
  low: Line;
  high: Line;
}

/** A number to measure a line by, such as the loss of guessing. */
export interface Level {
  value: number;
  name: string;
}

export interface Readers {
  level: () => Level | null;
  isBare: () => boolean;
  line: () => Line;
  clock: () => Clock | null; // then x is time
  inner: () => Inner | null;
  older: () => readonly Line[];
  begins: () => readonly number[];
  yRange: () => Range;
  pinned: () => number | null;
  hovered: (index: number | null, left: number, top: number) => void;
  zoomed: (from: number, to: number) => void;
}

/** px that the numbers at the left take. */
export function axisWidth(labels: readonly string[]): number {
  return Math.max(AXIS_WIDTH, Math.ceil(widest(labels)) + BESIDE);
}

export function settings(look: Look, of: Readers): uPlot.Options {
  const css = getComputedStyle(document.documentElement);
  const token = (name: string): string => css.getPropertyValue(`--${name}`).trim();
  const ink = look.colour === "other" ? token("ink-2") : token(look.colour);
  const soft = look.colour === "other" ? token("ink-3") + "26" : token(`${look.colour}-soft`);
  const font = `11px ${token("sans")}`;
  const few = Math.max(2, Math.floor(look.height / 36));
  const bare: uPlot.Series = { stroke: "transparent", width: 0, points: { show: false } };
  return {
    width: look.width,
    height: look.height,
    padding: [PADDING.top, PADDING.right, 0, 0],
    legend: { show: false },
    scales: {
      x: { time: false, range: (_, low, high) => [low, high] },
      y: { distr: look.kind === "log" ? 3 : 1, range: () => of.yRange() },
    },
    series: [
      {},
      { stroke: ink, width: 1.5, gaps: (plot, _, first, last, atNulls) => gaps(plot, of.line(), first, last, atNulls), points: { show: (plot, at) => lonely(plot, at), size: 6, fill: ink, stroke: ink } },
      bare,
      bare,
    ],
    bands: [{ series: [3, 2], fill: soft }],
    axes: [
      {
        font,
        stroke: token("ink-3"),
        size: look.foot ? FOOT : FOOT_BARE,
        gap: 4,
        grid: { show: false },
        ticks: { show: look.foot, stroke: token("line-2"), width: 1, size: 4 },
        border: { show: true, stroke: token("line-2"), width: 1 },
        splits: (plot, _, low, high) => axisMarks(low, high, Math.max(2, plot.width / (of.clock() ? 110 : 90)), of.clock() !== null),
        values: (_, marks) => (look.foot ? axisLabels(marks, of.clock() !== null) : marks.map(() => "")),
      },
      {
        font,
        stroke: token("ink-3"),
        size: (_, labels) => axisWidth(labels ?? []),
        gap: 6,
        grid: { stroke: token("line"), width: 1 },
        ticks: { show: false },
        splits: (_, __, low, high) => of.isBare() ? [low] : (look.kind === "log" ? decades(low, high, few) : readableMarks(low, high, few)),
        values: (_, marks) => of.isBare() ? marks.map(() => "") : (look.kind === "log" ? logLabels(marks) : ticks(marks)).map((text) => (text ? text + (look.unit ?? "") : text)),
        filter: (_, marks) => marks,
      },
    ],
    cursor: {
      y: false,
      lock: false,
      drag: { x: true, y: false, setScale: false, dist: 4 },
      points: { show: false },
    },
    hooks: {
      drawAxes: [(plot) => drawInner(plot, of.inner(), of.clock(), soft)],
      draw: [
        (plot) => {
          if (look.foot) nameAxis(plot, of.clock() ? "time" : "step", font, token("ink-3"));
          drawOlder(plot, of.older(), of.begins(), of.clock(), look.kind, token("ink-3"));
          if (!of.isBare()) drawLevel(plot, of.level(), of.yRange(), token("ink"));
          drawFootMarks(plot, of.line(), placing(of.clock()), look.kind, token("trouble"), token("ink-3"), token("surface"));
          drawPin(plot, of.pinned(), of.clock(), token("ink"));
        },
      ],
      setCursor: [
        (plot) => {
          const { left, top, idx } = plot.cursor;
          of.hovered(left !== undefined && left >= 0 ? (idx ?? null) : null, left ?? 0, top ?? 0);
        },
      ],
      setSelect: [
        (plot) => {
          const { left, width } = plot.select;
          if (width < 4) return;
          of.zoomed(plot.posToVal(left, "x"), plot.posToVal(left + width, "x"));
          plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        },
      ],
    },
  };
}

/** All plain (0.01, 0.2) or all as powers (10⁻⁴, 5×10⁻⁶): the marks of one axis are written one way. */
export function logLabels(marks: (number | null)[]): string[] {
  const plain = marks.every((mark) => mark === null || (mark >= 0.999e-3 && mark < 1e4));
  return marks.map((mark) => {
    if (mark === null) return "";
    if (plain) return String(mark);
    const exponent = Math.floor(Math.log10(mark) + 1e-9);
    const lead = Math.round(mark / 10 ** exponent);
    if (exponent === 0 || (exponent === 1 && lead === 1)) return String(lead * 10 ** exponent);
    return lead === 1 ? power(exponent) : `${lead}×${power(exponent)}`;
  });
}

export type Places = (number | null)[];

/** Columns as uPlot takes them: null is a gap. */
export function columns(line: Line, kind: ScaleKind, clock: Clock | null = null): [number[], Places, Places, Places] {
  const place = (value: number): number | null => (Number.isFinite(value) && (kind === "linear" || value > 0) ? value : null);
  const at = placing(clock);
  const x = Array.from(line.first, (_, i) => at(middle(line, i)));
  const mean = Array.from(line.mean, place);
  // the band of a bucket whose least value has no place on a log axis begins at its mean
  const low = Array.from(line.min, (value, i) => place(value) ?? mean[i] ?? null);
  const high = Array.from(line.max, (value, i) => place(value) ?? mean[i] ?? null);
  return [x, mean, low, high];
}

/**
 * Where the line is broken, in pixels: at values that have no place, and where much more than the usual distance lies
 * between two recorded steps. A tensor whose optimizer steps at every fifth step still has an unbroken line.
 */
function gaps(plot: uPlot, line: Line, first: number, last: number, atNulls: [number, number][]): [number, number][] {
  const x = plot.data[0];
  const steps = Array.from(line.first, (_, i) => middle(line, i)); // whatever the axis shows
  const usual = x.length > 2 ? (steps[x.length - 1]! - steps[0]!) / (x.length - 1) : Infinity;
  const found = [...atNulls];
  for (let i = Math.max(first, 1); i <= last; i++) {
    if (steps[i]! - steps[i - 1]! > 8 * usual) found.push([plot.valToPos(x[i - 1]!, "x", true), plot.valToPos(x[i]!, "x", true)]);
  }
  return found.sort((a, b) => a[0] - b[0]);
}

/** Dots instead of a line, where a value has no neighbour: the first step of a run, a value between gaps. */
function lonely(plot: uPlot, at: number): boolean {
  const values = plot.data[at] ?? [];
  let alone = 0;
  let all = 0;
  for (let i = 0; i < values.length; i++) {
    if (values[i] === null) continue;
    all++;
    if ((values[i - 1] ?? null) === null && (values[i + 1] ?? null) === null) alone++;
  }
  return all > 0 && alone === all && all <= 50;
}

function drawInner(plot: uPlot, inner: Inner | null, clock: Clock | null, ink: string): void {
  if (!inner || inner.low.mean.length === 0) return;
  const { ctx, bbox } = plot;
  const at = placing(clock);
  const [x, y] = [(step: number): number => plot.valToPos(at(step), "x", true), (value: number): number => plot.valToPos(value, "y", true)];
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  ctx.fillStyle = ink;
  outlineInner(ctx, inner, x, y);
  ctx.fill();
  ctx.restore();
}

/** The shape between both quantiles. */
export function outlineInner(pen: Pick<Pen, "beginPath" | "lineTo" | "closePath">, { low, high }: Inner, x: (step: number) => number, y: (value: number) => number): void {
  pen.beginPath();
  for (let i = 0; i < high.mean.length; i++) pen.lineTo(x(middle(high, i)), y(high.mean[i]!));
  for (let i = low.mean.length - 1; i >= 0; i--) pen.lineTo(x(middle(low, i)), y(low.mean[i]!));
  pen.closePath();
}

/** What the numbers below are; nothing where the first of them stands there. */
function nameAxis({ ctx, bbox }: uPlot, name: string, font: string, ink: string): void {
  const ratio = devicePixelRatio || 1;
  ctx.save();
  ctx.font = font.replace(/^\d+/, (size) => String(Number(size) * ratio));
  ctx.fillStyle = ink;
  ctx.textAlign = "right";
  ctx.textBaseline = "top";
  ctx.fillText(name, bbox.left - 12 * ratio, bbox.top + bbox.height + 8 * ratio);
  ctx.restore();
}

function drawLevel(plot: uPlot, level: Level | null, [low, high]: Range, ink: string): void {
  if (!level || !(level.value > low && level.value < high)) return;
  const { ctx, bbox } = plot;
  const ratio = devicePixelRatio || 1;
  const y = Math.round(plot.valToPos(level.value, "y", true)) + 0.5;
  ctx.save();
  ctx.strokeStyle = ink;
  ctx.lineWidth = ratio;
  ctx.setLineDash([5 * ratio, 4 * ratio]);
  ctx.beginPath();
  ctx.moveTo(bbox.left, y);
  ctx.lineTo(bbox.left + bbox.width, y);
  ctx.stroke();
  ctx.restore();
}

/** What an earlier attempt had before its steps were taken again, dashed; a dotted line where each attempt begins. */
function drawOlder(plot: uPlot, older: readonly Line[], begins: readonly number[], clock: Clock | null, kind: ScaleKind, ink: string): void {
  const { ctx, bbox } = plot;
  const ratio = devicePixelRatio || 1;
  const at = placing(clock);
  const [x, y] = [(step: number): number => plot.valToPos(at(step), "x", true), (value: number): number => plot.valToPos(value, "y", true)];
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  ctx.strokeStyle = ink;
  ctx.lineWidth = ratio;
  ctx.setLineDash([4 * ratio, 3 * ratio]);
  for (const line of older) {
    traceLine(ctx, line, kind, x, y);
    ctx.stroke();
  }
  ctx.setLineDash([ratio, 3 * ratio]);
  for (const step of begins) {
    ctx.beginPath();
    ctx.moveTo(Math.round(x(step)) + 0.5, bbox.top);
    ctx.lineTo(Math.round(x(step)) + 0.5, bbox.top + bbox.height);
    ctx.stroke();
  }
  ctx.restore();
}

/** The path of a line's means; what has no place breaks it. */
export function traceLine(pen: Pick<Pen, "beginPath" | "moveTo" | "lineTo">, line: Line, kind: ScaleKind, x: (step: number) => number, y: (value: number) => number): void {
  const [at, mean] = columns(line, kind);
  pen.beginPath();
  mean.forEach((value, i) => {
    if (value === null) return;
    if ((mean[i - 1] ?? null) === null) pen.moveTo(x(at[i]!), y(value));
    else pen.lineTo(x(at[i]!), y(value));
  });
}

function drawPin(plot: uPlot, step: number | null, clock: Clock | null, ink: string): void {
  if (step === null) return;
  const x = plot.valToPos(placing(clock)(step), "x", true);
  const { ctx, bbox } = plot;
  if (x < bbox.left || x > bbox.left + bbox.width) return;
  ctx.save();
  ctx.strokeStyle = ink;
  ctx.lineWidth = devicePixelRatio || 1;
  ctx.beginPath();
  ctx.moveTo(x, bbox.top);
  ctx.lineTo(x, bbox.top + bbox.height);
  ctx.stroke();
  ctx.restore();
}
