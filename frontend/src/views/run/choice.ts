// What the reader chose to see of a run, read from the address and written back to it.
import type { Statistic, Tensor } from "../../api.ts";
import type { Range, ScaleKind } from "../../chart/scale.ts";
import { pinOf, rangeOf } from "../../heat/choice.ts";
import { pairs, side } from "../../names.ts";

export type Show = "wb" | "w" | "b";
export type Scale = "auto" | "log" | "linear";

export interface Choice {
  tensors: Tensor[]; // in the order of the run
  statistics: Statistic[]; // in the order of the catalogue
  show: Show;
  scale: Scale;
  shared: boolean; // one range of values for all charts of a statistic
  steps: Range | null; // zoom; null = all
  pinned: number | null;
  metric: string | null; // null = the loss
  table: boolean;
}

export const DEFAULT_STATISTICS = ["parameter.rms", "gradient.rms", "update.ratio"];

export function read(query: URLSearchParams, tensors: readonly Tensor[], catalogue: readonly Statistic[]): Choice {
  const named = new Set(query.getAll("tensor"));
  const show = one(query.get("show"), ["wb", "w", "b"], "wb");
  const wanted = named.size ? tensors.filter((t) => named.has(fullName(t, tensors))) : (pairs(tensors)[0]?.members ?? []);
  const statistics = new Set(query.has("stat") ? query.getAll("stat") : DEFAULT_STATISTICS);
  return {
    tensors: inPairs(wanted).filter((t) => show === "wb" || side(t) === "other" || side(t) === (show === "w" ? "weight" : "bias")),
    statistics: catalogue.filter((s) => statistics.has(s.name)),
    show,
    scale: one(query.get("scale"), ["auto", "log", "linear"], "auto"),
    shared: query.get("y") === "shared",
    steps: rangeOf(query.get("steps"), 1),
    pinned: pinOf(query.get("at"))?.step ?? null,
    metric: query.get("line"),
    table: query.get("table") === "1",
  };
}

/** Several models in one run may share names: then the model stands before it, as the readers take it. */
export function fullName(tensor: Tensor, all: readonly Tensor[]): string {
  return all.some((other) => other.model !== all[0]?.model) ? `${tensor.model}:${tensor.name}` : tensor.name;
}

/** How a statistic is drawn: as it is made for, unless the reader said otherwise. Signed values have no logarithm. */
export function kindOf(statistic: Statistic, scale: Scale): ScaleKind {
  if (statistic.scale === "signed") return "linear";
  return scale === "auto" ? (statistic.scale === "log" ? "log" : "linear") : scale;
}

/** Zoom around the middle, or move: both in whole steps, inside what is recorded. null = all. */
export function zoomed(shown: Range, full: Range, factor: number, shift: number): Range | null {
  const length = Math.max(1, (shown[1] - shown[0]) * factor);
  const middle = (shown[0] + shown[1]) / 2 + shift * (shown[1] - shown[0]);
  let low = Math.round(middle - length / 2);
  let high = Math.round(middle + length / 2);
  if (low < full[0]) [low, high] = [full[0], Math.round(full[0] + length)];
  if (high > full[1]) [low, high] = [Math.max(full[0], Math.round(full[1] - length)), full[1]];
  const almost = factor > 1 && high - low >= 0.98 * (full[1] - full[0]); // whole numbers of steps: a step is soon lost on the way out
  return almost || (low <= full[0] && high >= full[1]) ? null : [low, high];
}

function inPairs(tensors: readonly Tensor[]): Tensor[] {
  return pairs(tensors).flatMap((pair) => pair.members);
}

function one<T extends string>(value: string | null, known: readonly T[], otherwise: T): T {
  return known.find((k) => k === value) ?? otherwise;
}
