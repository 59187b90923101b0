// One layer at one step, as the server tells it.
import { bytes, json, unpacked, type Tensor, type Window } from "../api.ts";

export interface LayerFacts {
  model: string;
  path: string;
  kind: string;
  parameters: Tensor[];
  outputs: Tensor[];
}

type Numeric = number | string | null; // NaN and infinity travel as words

export interface UnitValues {
  step: number;
  weight: Numeric[][] | null; // one row per unit
  bias: Numeric[] | null;
  gradient_rms: Numeric[] | null;
  edge: number; // the largest size of a value
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
  values: UnitValues | null;
  units: Units | null;
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

export function layerAt(run: string, path: string, step: number | null, signal?: AbortSignal): Promise<LayerAt> {
  return json("layer", { run, path: path || ".", ...(step === null ? {} : { step }) }, signal) as Promise<LayerAt>;
}

export async function spreadOf(run: string, tensor: string, quantity: string, window: Window, signal?: AbortSignal): Promise<Spread> {
  const { about, columns } = unpacked<Omit<Spread, "counts">>(await bytes("spread", { run, tensor, quantity, ...window }, signal));
  return { ...about, counts: columns("counts") as Float32Array };
}

export async function linesOf(run: string, tensor: string, quantity: string, window: Window, signal?: AbortSignal): Promise<Bundle> {
  const { about, columns } = unpacked<Omit<Bundle, "values">>(await bytes("lines", { run, tensor, quantity, ...window }, signal));
  return { ...about, values: columns("values") as Float32Array };
}

export type Sort = "unit" | "active" | "bias";

/** The units in the order in which they are shown. */
export function order(count: number, sort: Sort, units: Units | null, values: UnitValues | null): number[] {
  const all = Array.from({ length: count }, (_, i) => i);
  const by = sort === "active" ? units?.fires : sort === "bias" ? values?.bias : null;
  if (!by) return all;
  return all.sort((a, b) => Number(by[a] ?? 0) - Number(by[b] ?? 0) || a - b);
}

/** How a layer's shape is written: 32 → 16, or what its first tensor has. */
export function shapeOf(layer: LayerFacts): string {
  const first = layer.parameters[0];
  if (!first) return layer.outputs[0] ? layer.outputs[0].shape.join(" × ") : "";
  return first.shape.length === 2 && first.role === "weight" ? `${first.shape[1]} → ${first.shape[0]}` : first.shape.join(" × ");
}
