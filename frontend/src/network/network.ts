// The modules as executed, as the server tells them.
import { json } from "../api.ts";
import type { Table } from "../chart/export.ts";

type Numeric = number | string | null;

export interface NetNode {
  model: string;
  path: string;
  kind: string;
  shape: number[];
  gives: number[];
  count: number; // values of parameters
  folded: number; // modules that it stands for
  value: Numeric;
  nonfinite: boolean;
  forward: number | null; // gains of this layer and what follows it without parameters
  backward: number | null;
}

export interface Network {
  step: number;
  steps: number[];
  spread_step: number | null;
  statistic: string;
  scale: string;
  domain: [number, number] | null;
  nodes: NetNode[];
  folds: boolean;
  kinds: [string, number][];
  values: number;
  biases: number;
  forward: { median: number | null; all: number | null };
  backward: { median: number | null; all: number | null };
}

export interface NetworkWish {
  stat: string;
  step: number | null;
  fold: string;
  open: readonly string[];
}

export function networkOf(run: string, wish: NetworkWish, signal?: AbortSignal): Promise<Network> {
  const { step, ...rest } = wish;
  return json("network", { run, ...rest, ...(step === null ? {} : { step }) }, signal) as Promise<Network>;
}

/** Node by node, with both gains. */
export function spineTable(of: Network): Table {
  const rows = of.nodes.map((node) => [node.model, node.path, node.kind, node.folded, node.count, node.gives.join("x"), node.value === null ? null : Number(node.value), node.nonfinite ? "NaN or Inf" : "", node.forward, node.backward]);
  return { columns: ["model", "module", "kind", "modules in it", "parameters", "gives", of.statistic, "state", "forward gain", "backward gain"], rows };
}

/** ×1.2, ÷7.1: what one layer makes of the signal. */
export function gain(value: number): string {
  const size = value < 1 ? 1 / value : value;
  const text = size < 9.95 ? size.toFixed(1) : size < 1000 ? String(Math.round(size)) : size.toExponential(1).replace("e+", "e");
  return (value < 1 && text !== "1.0" ? "÷" : "×") + text;
}

/** Where a gain lies on the axis from ÷100 to ×100; beyond it at the edge. */
export function placeOfGain(value: number): number {
  return Math.max(0, Math.min(1, (Math.log10(value) + 2) / 4));
}

/** A sentence on the way of the signal; empty where nothing is known. */
export function told(of: Network): { title: string; text: string } {
  const [forward, backward] = [of.forward.median, of.backward.median];
  if (forward === null && backward === null) return { title: "Gains are not known at this step", text: "They come from what units gave and from dL/dh, which are weighed at some steps." };
  const far = (value: number | null): boolean => value !== null && (value < 0.5 || value > 2);
  const one = (word: string, value: number | null): string => (value === null ? "" : `${word} a layer ${kept(value)}, at the median. `);
  return {
    title: far(backward) ? `Backward, each layer ${kept(backward!)}` : far(forward) ? `Forward, each layer ${kept(forward!)}` : "The signal gets through",
    text: `${one("Forward, of the differences between inputs,", forward)}${one("On the way back, of the loss's gradient (dL/dh),", backward)}A network that learns well keeps both: two straight lines in the grey band.`,
  };
}

/** keeps 1/7.2, or multiplies by 4.4 */
function kept(value: number): string {
  const text = gain(value).slice(1);
  return text === "1.0" ? "keeps all" : value < 1 ? `keeps 1/${text}` : `multiplies by ${text}`;
}
