// One layer at one step, as the server tells it.
import { bytes, json, unpacked, type Tensor, type Window } from "../api.ts";
import type { Verdict } from "../findings/before.ts";

export interface LayerFacts {
  model: string;
  path: string;
  kind: string;
  parameters: Tensor[];
  outputs: Tensor[];
}

type Numeric = number | string | null; // NaN and infinity travel as words

/** Of the units shown, in their order. */
export interface UnitValues {
  step: number;
  kernel: [rows: number, columns: number] | null; // of a convolution
  weight: Numeric[][] | null; // one row per unit: a number for each input shown, or a kernel for each input channel shown
  bias: Numeric[] | null;
  gradient_rms: Numeric[] | null;
  gradient_range: [number, number] | null; // of all units
  edge: number; // the largest size of a value of all units
}

/** Which part of a large layer is shown. */
export interface Shown {
  units: number[]; // their numbers
  count: number;
  first: number; // place in the order
  most: number;
  inputs: [from: number, to: number];
  input_count: number;
  most_inputs: number;
}

export interface NotKept {
  name: string;
  count: number;
  limit: number; // elements that are kept unless the plan says otherwise
  line: string; // of code that would keep them; empty where none does
}

/** What the loss does without a bias, and how that is known. */
export interface Worth {
  bias: string | null;
  verdict: Verdict | null;
  step: number | null; // at which it was measured
  ask: string; // the line of code that finds it out
}

export interface Units {
  step: number;
  n: number; // numbers seen of each unit
  of: string; // the output that was counted
  kind: string;
  cut_at_zero: boolean; // units of this kind can die
  fires: Numeric[];
  mean: Numeric[];
  spread: Numeric[];
  slope: Numeric[] | null; // mean slope of tanh or sigmoid
  max: Numeric[];
}

export interface LayerAt {
  layer: LayerFacts;
  before: string | null;
  after: string | null;
  step: number;
  last: number; // step of the run
  value_steps: number[];
  shown: Shown;
  values: UnitValues | null;
  units: Units | null; // of the units shown; without numbers where the values are of others
  not_kept: NotKept | null;
  marks: { dead: number[]; rare: number[]; saturated: number[]; constant: number[]; alike: number[][] };
  bias_share: { step: number; share: Numeric; cosine: Numeric } | null;
  strip: { path: string; model: string; value: Numeric }[];
}

export interface Spread {
  steps: number[];
  edges: number[];
  linear: boolean;
  counts: Float32Array; // [steps, bins]
}

export interface Bundle {
  steps: number[];
  elements: number;
  values: Float32Array; // [steps, elements]
}

export type Sort = "unit" | "active" | "bias";

/** Which part of the units is looked at: their order, the first of them and the first of their inputs. */
export interface UnitWish {
  sort: Sort;
  unit: number;
  input: number;
}

export function layerAt(run: string, path: string, step: number | null, wish: UnitWish, signal?: AbortSignal): Promise<LayerAt> {
  const part = { ...(wish.sort === "unit" ? {} : { sort: wish.sort }), ...(wish.unit ? { unit: wish.unit } : {}), ...(wish.input ? { input: wish.input } : {}) };
  return json("layer", { run, path: path || ".", ...(step === null ? {} : { step }), ...part }, signal) as Promise<LayerAt>;
}

export function worthOf(run: string, path: string, signal?: AbortSignal): Promise<Worth> {
  return json("worth", { run, path: path || "." }, signal) as Promise<Worth>;
}

export async function spreadOf(run: string, tensor: string, quantity: string, window: Window, signal?: AbortSignal): Promise<Spread> {
  const { about, columns } = unpacked<Omit<Spread, "counts">>(await bytes("spread", { run, tensor, quantity, ...window }, signal));
  return { ...about, counts: columns("counts") as Float32Array };
}

export async function linesOf(run: string, tensor: string, quantity: string, window: Window, signal?: AbortSignal): Promise<Bundle> {
  const { about, columns } = unpacked<Omit<Bundle, "values">>(await bytes("lines", { run, tensor, quantity, ...window }, signal));
  return { ...about, values: columns("values") as Float32Array };
}

/** How a layer's shape is written: 32 → 16, or what its first tensor has. */
export function shapeOf(layer: LayerFacts): string {
  const first = layer.parameters[0];
  if (!first) return layer.outputs[0] ? layer.outputs[0].shape.join(" × ") : "";
  return first.shape.length === 2 && first.role === "weight" ? `${first.shape[1]} → ${first.shape[0]}` : first.shape.join(" × ");
}
