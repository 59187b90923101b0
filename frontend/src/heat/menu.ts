// The statistics of the picture, the ones asked for most first.
import type { Statistic } from "../api.ts";

export interface Entry {
  name: string;
  title: string;
  plain: string;
}

const FIRST: Entry[] = [
  { name: "gradient.rms", title: "gradient · rms", plain: "How strongly the loss reacts to each tensor." },
  { name: "update.ratio", title: "update / weight", plain: "Which share of its size one step changes." },
  { name: "parameter.rms", title: "weight · rms", plain: "The typical size of the values." },
  { name: "gradient.zero_fraction", title: "gradient · zeros", plain: "Share of gradients that are exactly zero." },
  { name: "units.dead_fraction", title: "dead units", plain: "Share of ReLU units that were above zero for no input." },
  { name: "gradient.nonfinite_count", title: "gradient · NaN and Inf", plain: "How many gradients are no numbers." },
  { name: "activation.rms", title: "activation · rms", plain: "The typical size of what modules give." },
  { name: "activation_gradient.rms", title: "dL/dh · rms", plain: "How strongly the loss reacts to what modules give." },
];

export const DEFAULT_STATISTIC = FIRST[0]!.name;

/** The usual ones, then the rest of the catalogue. */
export function entries(catalogue: readonly Statistic[]): { usual: Entry[]; others: Entry[] } {
  const usual = new Set(FIRST.map((entry) => entry.name));
  const others = catalogue.filter((s) => !usual.has(s.name)).map((s) => ({ name: s.name, title: `${s.quantity} · ${s.statistic}`, plain: s.plain }));
  return { usual: FIRST, others };
}

export function titleOf(name: string, catalogue: readonly Statistic[]): string {
  const { usual, others } = entries(catalogue);
  return [...usual, ...others].find((entry) => entry.name === name)?.title ?? name;
}
