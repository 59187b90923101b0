// A picture that was kept whole, cut to what is shown: the server does this where there is one.
import type { Heat } from "./heat.ts";

export function cutHeat(heat: Heat, wanted: { show: string; start?: number; stop?: number }): Heat {
  const columns = heat.first.map((_, i) => i).filter((i) => heat.last[i]! >= (wanted.start ?? 0) && heat.first[i]! < (wanted.stop ?? Infinity));
  const rows = heat.rows.map((_, i) => i).filter((i) => wanted.show === "wb" || heat.rows[i]!.role === "output" || heat.rows[i]!.bias === (wanted.show === "b"));
  const wide = heat.first.length;
  const value = new Float32Array(rows.length * columns.length);
  const mask = new Uint8Array(value.length);
  rows.forEach((row, r) =>
    columns.forEach((column, c) => {
      value[r * columns.length + c] = heat.value[row * wide + column]!;
      mask[r * columns.length + c] = heat.mask[row * wide + column]!;
    }),
  );
  return { ...heat, rows: rows.map((i) => heat.rows[i]!), first: columns.map((i) => heat.first[i]!), last: columns.map((i) => heat.last[i]!), value, mask, least: null, greatest: null };
}
