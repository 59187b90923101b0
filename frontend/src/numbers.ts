// How numbers are written on the page: three significant digits, powers of ten outside 10^-3 to 10^5, a real minus
// sign. The number itself is never computed here, and its full precision is one hover or one copy away (`exact`).

const SUPERSCRIPT: Record<string, string> = {
  "-": "⁻", "0": "⁰", "1": "¹", "2": "²", "3": "³", "4": "⁴", "5": "⁵", "6": "⁶", "7": "⁷", "8": "⁸", "9": "⁹",
};

export function power(exponent: number): string {
  return "10" + [...String(exponent)].map((c) => SUPERSCRIPT[c] ?? "").join("");
}

/** 0.0885, −12.5, 4.70×10⁻¹¹, NaN, +Inf; null is "not recorded". */
export function short(value: number | null | undefined, digits = 3): string {
  if (value === null || value === undefined) return "not recorded";
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "+Inf" : "−Inf";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e5) {
    const [mantissa = "", exponent = "0"] = value.toExponential(digits - 1).split("e");
    return minus(mantissa) + "×" + power(Number(exponent));
  }
  const text = value.toPrecision(digits);
  if (!text.includes("e")) return minus(text);
  return whole(value); // more digits before the point than are asked for
}

/** The shortest text that reads back as the same 64-bit number. */
export function exact(value: number | null | undefined): string {
  if (value === null || value === undefined) return "not recorded";
  if (Object.is(value, -0)) return "-0";
  return Number.isFinite(value) ? String(value) : Number.isNaN(value) ? "NaN" : value > 0 ? "+Inf" : "-Inf";
}

/** Steps and counts: 1,184. */
export function whole(value: number): string {
  return minus(Math.round(value).toString().replace(/\B(?=(\d{3})+$)/g, ","));
}

export function size(bytes: number): string {
  if (bytes < 1024) return `${whole(bytes)} B`;
  const [value, unit] = bytes < 1024 ** 2 ? [bytes / 1024, "KiB"] : bytes < 1024 ** 3 ? [bytes / 1024 ** 2, "MiB"] : [bytes / 1024 ** 3, "GiB"];
  return `${value < 9.995 ? value.toFixed(2) : value < 99.95 ? value.toFixed(1) : whole(value)} ${unit}`;
}

/** 7.1 s, 3 min 20 s, 2 h 05 min. */
export function duration(seconds: number): string {
  if (seconds > 0 && seconds < 0.095) return `${short(seconds * 1000, 2)} ms`;
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const all = Math.round(seconds);
  if (all < 3600) return `${Math.floor(all / 60)} min ${String(all % 60).padStart(2, "0")} s`;
  return `${Math.floor(all / 3600)} h ${String(Math.floor((all % 3600) / 60)).padStart(2, "0")} min`;
}

export function share(fraction: number): string {
  return `${(fraction * 100).toFixed(1)} %`;
}

/** 14:02 today, else 3 Nov 14:02, with the year where it is another one. */
export function moment(iso: string, now = new Date()): string {
  const then = new Date(iso);
  if (Number.isNaN(then.getTime())) return iso;
  const clock = `${String(then.getHours()).padStart(2, "0")}:${String(then.getMinutes()).padStart(2, "0")}`;
  if (then.toDateString() === now.toDateString()) return `today ${clock}`;
  const month = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"][then.getMonth()];
  const year = then.getFullYear() === now.getFullYear() ? "" : ` ${then.getFullYear()}`;
  return `${then.getDate()} ${month}${year} ${clock}`;
}

/** Labels of an axis: all with the same decimals, or powers of ten where that is shorter. */
export function ticks(values: readonly (number | null)[]): string[] {
  const shown = values.filter((v): v is number => v !== null);
  const largest = Math.max(0, ...shown.map(Math.abs));
  let gap = Infinity;
  for (let i = 1; i < shown.length; i++) gap = Math.min(gap, Math.abs(shown[i]! - shown[i - 1]!));
  if (largest >= 1e5 || (largest > 0 && largest < 1e-3)) {
    return values.map((v) => (v === null ? "" : v === 0 ? "0" : tidyPower(v)));
  }
  const least = Number.isFinite(gap) && gap > 0 ? Math.max(0, Math.min(8, Math.ceil(-Math.log10(gap) - 1e-9))) : 3;
  const isExact = shown.every((v) => Math.abs(Number(v.toFixed(least)) - v) < gap * 1e-6); // 0.25 is no 0.3
  const decimals = isExact || !Number.isFinite(gap) ? least : Math.min(8, least + 1);
  return values.map((v) => (v === null ? "" : minus(v.toFixed(decimals)).replace(/\B(?<!\.\d*)(?=(\d{3})+(?!\d))/g, ",")));
}

function tidyPower(value: number): string {
  const [mantissa = "", exponent = "0"] = value.toExponential(6).split("e");
  const tidy = String(Number(Number(mantissa).toPrecision(4)));
  return Math.abs(Number(tidy)) === 1 ? minus(tidy.replace("1", "")) + power(Number(exponent)) : `${minus(tidy)}×${power(Number(exponent))}`;
}

function minus(text: string): string {
  return text.replace("-", "−");
}
