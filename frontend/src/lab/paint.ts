// Pictures of what units answer, and where everything of a network stands.
import { colourAt, ramp } from "../heat/colours.ts";
import type { Theme } from "../state/theme.svelte.ts";
import type { Opened } from "./lab.ts";

const NOT_FINITE = 255;

/** A picture of bytes: 0 to 254 from one end of the colours to the other. `soft` takes the colours nearer to white. */
export function picture(bytes: Uint8Array, high: number, wide: number, theme: Theme, trouble: string, soft = 1): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  canvas.width = wide;
  canvas.height = high;
  const pen = canvas.getContext("2d")!;
  const image = pen.createImageData(wide, high);
  const colours = ramp("signed", theme);
  const bad = rgb(trouble);
  for (let i = 0; i < high * wide; i++) {
    const place = (bytes[i] ?? NOT_FINITE) / (NOT_FINITE - 1);
    const [r, g, b] = bytes[i] === NOT_FINITE ? bad : colourAt(colours, 0.5 + (place - 0.5) * soft);
    image.data.set([r, g, b, 255], 4 * i);
  }
  pen.putImageData(image, 0, 0);
  return canvas;
}

function rgb(hex: string): [number, number, number] {
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)) as [number, number, number];
}

/** The colour of a signed number; the same number has the same colour everywhere on the page. */
export const EDGE = 4;
export function inkOf(value: number, theme: Theme): string {
  if (!Number.isFinite(value)) return "";
  const away = Math.sign(value) * Math.min(1, 0.3 + (0.7 * Math.abs(value)) / EDGE);
  return `rgb(${colourAt(ramp("signed", theme), 0.5 + 0.48 * (value === 0 ? 0 : away)).join(",")})`;
}

export interface Spot {
  column: number; // 0 = inputs
  unit: number;
  x: number; // middle
  y: number;
}

export interface Layout {
  size: number; // of a square
  spots: Spot[][]; // by column
  hidden: number[]; // units of each column that are not drawn
  bars: boolean; // is there room for biases under the squares?
}

const HEAD = 24;

export function layoutOf(opened: Opened, width: number, height: number): Layout {
  const counts = opened.sizes.map((units) => Math.min(units, opened.shown));
  const columns = counts.length;
  const most = Math.max(...counts);
  const pitch = Math.min(84, (height - HEAD - 8) / most);
  const room = width / columns;
  const size = Math.max(12, Math.min(46, pitch - 26, room * 0.62));
  const bars = pitch - size >= 22;
  const [left, right] = [size / 2 + 26, width - size / 2 - (width > 500 ? 34 : 10)]; // the menu stands in the corner
  const x = (column: number): number => left + ((right - left) * column) / Math.max(1, columns - 1);
  const spots = counts.map((count, column) =>
    Array.from({ length: count }, (_, unit) => ({ column, unit, x: x(column), y: HEAD + (height - HEAD - 14) / 2 + (unit - (count - 1) / 2) * pitch - (bars ? 4 : 0) })),
  );
  return { size, spots, bars, hidden: opened.sizes.map((units, i) => units - counts[i]!) };
}

/** A curve from one square to the next, as points. */
export function curve(from: Spot, to: Spot, size: number): [number, number][] {
  const [x0, x1] = [from.x + size / 2, to.x - size / 2];
  const bend = (x1 - x0) * 0.45;
  return Array.from({ length: 17 }, (_, i) => {
    const t = i / 16;
    const u = 1 - t;
    const x = u ** 3 * x0 + 3 * u ** 2 * t * (x0 + bend) + 3 * u * t ** 2 * (x1 - bend) + t ** 3 * x1;
    return [x, u ** 2 * (u + 3 * t) * from.y + t ** 2 * (t + 3 * u) * to.y];
  });
}
