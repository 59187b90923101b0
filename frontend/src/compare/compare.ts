// Several runs beside each other, as the server tells it.
import { bytes, json, type RunFacts, type Window } from "../api.ts";
import { cutHeat } from "../heat/cut.ts";
import { decode, type Heat } from "../heat/heat.ts";
import { frozen, question } from "../state/frozen.ts";

export type Value = string | number | boolean | null;

export interface Parting {
  kind: "never" | "start" | "step" | "numbers" | "nothing in common";
  step: number;
  tensors: string[];
  of: number; // tensors that both have
  gradients: boolean; // did they differ, too?
}

export interface Comparison {
  runs: RunFacts[];
  differ: { name: string; values: Value[] }[];
  equal: { name: string; value: Value }[];
  results: { name: string; values: Value[] }[];
  logged: string[];
  tensors: string[];
  alone: string[][];
  parting: Parting | null;
  apart?: { known: boolean; loss: [step: number, mean: number] | null; tensors: [name: string, step: number, factor: number][] }; // beyond noise
  said: { title: string; text: string } | null; // where they part, in words
}

export interface Faces {
  edges: number[];
  linear: boolean;
  counts: number[][]; // one list per run
  steps: number[];
}

export const LETTERS = "ABCDEFGH";

export function comparisonOf(runs: readonly string[], signal?: AbortSignal): Promise<Comparison> {
  return json("compare", { run: runs }, signal) as Promise<Comparison>;
}

export async function differenceOf(runs: readonly string[], stat: string, show: string, fold: string, window: Window, signal?: AbortSignal): Promise<Heat & { alone: string[] }> {
  const heat = decode(await bytes("difference", { run: runs.slice(0, 2), stat, show, fold, ...window }, signal)) as Heat & { alone: string[] };
  return frozen() ? { ...heat, ...cutHeat(heat, { show, ...window }) } : heat;
}

/** In a report only some pictures and tensors were kept. */
export function isKept(what: "difference" | "faces", runs: readonly string[], of: Record<string, string>): boolean {
  const held = frozen();
  return !held || question(what, { run: runs, ...of }) in held.answers;
}

export function facesOf(runs: readonly string[], tensor: string, step: number | null, signal?: AbortSignal): Promise<Faces> {
  return json("faces", { run: runs, tensor, ...(step === null ? {} : { step }) }, signal) as Promise<Faces>;
}

/** How b stands to a: ×2, 1 of 10, the same; nothing where they are no numbers. */
export function against(a: Value, b: Value): string {
  if (typeof a !== "number" || typeof b !== "number") return "";
  if (a === b) return "the same";
  if (a > 0 && b > 0) {
    const factor = b / a;
    return (factor < 1 ? "÷" : "×") + Number((factor < 1 ? 1 / factor : factor).toPrecision(3)).toLocaleString("en");
  }
  return "";
}
