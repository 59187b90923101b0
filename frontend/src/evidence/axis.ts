// The axis of a small evidence chart: logarithmic where values span decades, and room for what is no number.
import { decades, roundMarks, rounded, type Range, type ScaleKind } from "../chart/scale.ts";
import { power, short, whole } from "../numbers.ts";

export interface Axis {
  kind: ScaleKind;
  range: Range;
  marks: number[];
  place: (value: number) => number | null; // 0 at the low end, 1 at the high one; null = it has none
  text: (mark: number) => string;
}

const DECADES = 30; // values that span more than this factor, all above zero, stand on a log axis

export function axisOf(values: readonly number[], limit: number | null, marks = 4): Axis {
  const finite = [...values, ...(limit === null ? [] : [limit])].filter(Number.isFinite);
  const above = finite.filter((v) => v > 0);
  const kind: ScaleKind = above.length > 0 && finite.every((v) => v >= 0) && Math.max(...above) / Math.min(...above) > DECADES ? "log" : "linear";
  const used = kind === "log" ? above : finite;
  const range = rounded(used.length ? [Math.min(...used), Math.max(...used)] : null, kind);
  const to = (v: number): number => (kind === "log" ? Math.log(v) : v);
  return {
    kind,
    range,
    marks: kind === "log" ? decades(range[0], range[1], marks) : roundMarks(range[0], range[1], marks),
    place: (value) => (!Number.isFinite(value) || (kind === "log" && value <= 0) ? null : (to(value) - to(range[0])) / (to(range[1]) - to(range[0]))),
    text: (mark) => {
      if (kind !== "log") return mark === 0 ? "0" : short(mark, 2);
      const exponent = Math.round(Math.log10(mark));
      return Math.abs(Math.log10(mark) - exponent) > 1e-6 ? short(mark, 1) : exponent >= -2 && exponent <= 3 ? (exponent < 0 ? String(Number(`1e${exponent}`)) : whole(10 ** exponent)) : power(exponent);
    },
  };
}
