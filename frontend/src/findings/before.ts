// What is known of the time before the first update, as the server tells it.
import { json } from "../api.ts";
import { keyOf, type Finding } from "./findings.ts";

/** A mean with its 95 % interval over so many units. */
export interface Measured {
  mean: number;
  low: number;
  high: number;
  units: number;
  unit: string; // "sample", "batch"
}

export interface Verdict {
  word: string;
  reason: string;
  bytes: number;
  knows_states: boolean; // of the optimizer
  worth?: Measured | null; // loss without it minus loss with it
  taken_over?: Measured | null; // the same, the weights making up for it as far as they can
  ratio?: number | null;
}

export interface BeforeRow {
  path: string;
  kind: string;
  shape: number[];
  gives: number[];
  values: number;
  weight_mean: number | null;
  weight_std: number | null;
  update_ratio: number | null;
  output_rms: number | null;
  back_rms: number | null;
  forward: number | null;
  backward: number | null;
  dead: number | null;
  saturated: number | null;
  bias: string | null;
  bias_std: number | null;
  verdict: Verdict | null;
}

export interface Before {
  loss: { first: number | null; guess: number | null; kind: string; samples: number | null; error: number | null };
  layers: BeforeRow[];
  has_graph: boolean;
  inspected: boolean;
  biases: boolean;
  findings: Finding[]; // of an attached inspection
  ask: { inspect: string; biases: string };
}

export async function beforeOf(run: string, signal?: AbortSignal): Promise<Before> {
  const told = (await json("before", { run }, signal)) as Before;
  const number = (value: number | null): number | null => (value === null ? null : Number(value)); // NaN and infinity travel as words
  const layers = told.layers.map((row) => ({ ...row, update_ratio: number(row.update_ratio), output_rms: number(row.output_rms), weight_std: number(row.weight_std) }));
  const loss = { ...told.loss, first: number(told.loss.first) };
  return { ...told, loss, layers, findings: told.findings.map((one) => ({ ...one, key: keyOf(one) })) };
}

const FIRST_STEPS = 20; // in which outputs are weighed at each step: what is told later, training has shown

/** What speaks against starting: there at the first step or before it, by the run or by what was attached; the gravest first. */
export function atStart(own: readonly Finding[], attached: readonly Finding[]): Finding[] {
  const early = [...attached, ...own].filter((one) => one.first_step <= 0 && one.told_step < FIRST_STEPS);
  const found = new Map(early.map((one) => [one.key, one]));
  const rank = { error: 0, warning: 1, note: 2 };
  return [...found.values()].sort((a, b) => rank[a.severity] - rank[b.severity]);
}

/** The sentence on top. */
export function headline(found: readonly Finding[], isKnown: boolean): string {
  const grave = found.filter((one) => one.severity !== "note").length;
  if (grave) return grave === 1 ? "One thing speaks against starting" : `${grave} things speak against starting`;
  return isKnown ? "Nothing speaks against starting." : "The rules have not looked yet";
}
