// The axis of values under ridges and densities.
import { roundMarks } from "../chart/scale.ts";
import { short } from "../numbers.ts";

export interface Label {
  at: number; // 0 to 1 along the axis
  text: string;
}

/** Round numbers on an axis of equal bins; on one of powers of two some of the edges themselves, the ends and zero. */
export function labelsOf(edges: readonly number[], linear: boolean, most: number): Label[] {
  const [low, high] = [edges[0]!, edges.at(-1)!];
  if (linear) return roundMarks(low, high, most).map((mark) => ({ at: (mark - low) / (high - low), text: mark === 0 ? "0" : short(mark, 2) }));
  const last = edges.length - 1;
  const zero = edges.findIndex((edge) => edge === 0);
  const places = new Set([0, last]);
  if (zero > 0 && zero < last) places.add(zero);
  const gap = last / Math.max(1, most);
  for (let i = 0; i <= last; i += Math.max(1, Math.round(gap))) if ([...places].every((p) => Math.abs(p - i) >= gap * 0.9)) places.add(i);
  return [...places].sort((a, b) => a - b).map((i) => ({ at: i / last, text: textOf(edges[i]!) }));
}

function textOf(edge: number): string {
  return edge === 0 ? "0" : Math.abs(edge) >= 0.01 && Math.abs(edge) < 1000 ? String(Number(edge.toPrecision(2))).replace("-", "−") : short(edge, 1);
}
