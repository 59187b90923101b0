// What every own canvas needs: its size in device pixels, the page's tokens, text and hairlines.
import type { Pen } from "./pen.ts";

const known = new Map<string, string>();
let knownOf: string | undefined;

/** Read once for each theme: a picture of 4,000 rows asks tens of thousands of times. */
export function token(name: string): string {
  const { theme } = document.documentElement.dataset;
  if (theme !== knownOf) known.clear();
  knownOf = theme;
  let found = known.get(name);
  if (found === undefined) known.set(name, (found = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim()));
  return found;
}

/** A pen in CSS pixels on a clean canvas of this size. */
export function penOf(canvas: HTMLCanvasElement, width: number, height: number): CanvasRenderingContext2D | null {
  const ratio = devicePixelRatio || 1;
  const [across, down] = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
  const pen = canvas.getContext("2d");
  if (canvas.width === across && canvas.height === down && pen?.reset) pen.reset(); // far cheaper than a new size
  else [canvas.width, canvas.height] = [across, down];
  pen?.scale(ratio, ratio);
  if (pen) pen.lineJoin = "round";
  return pen;
}

/** Where the pointer is, in px from the corner of what listens. */
export function spotOf(event: MouseEvent): { x: number; y: number } {
  const frame = (event.currentTarget as HTMLElement).getBoundingClientRect();
  return { x: event.clientX - frame.left, y: event.clientY - frame.top };
}

/** An × where something was NaN or infinite. */
export function cross(pen: Pen, x: number, y: number): void {
  pen.strokeStyle = token("trouble");
  pen.lineWidth = 1.5;
  pen.beginPath();
  pen.moveTo(x - 3.5, y - 3.5);
  pen.lineTo(x + 3.5, y + 3.5);
  pen.moveTo(x + 3.5, y - 3.5);
  pen.lineTo(x - 3.5, y + 3.5);
  pen.stroke();
}

export interface Lettering {
  size?: number;
  weight?: number;
  mono?: boolean;
  colour?: string;
  align?: CanvasTextAlign;
}

/** One line of text, its middle at y. Returns its width. */
export function write(pen: Pen, text: string, x: number, y: number, look: Lettering = {}): number {
  pen.font = `${look.weight ?? 400} ${look.size ?? 11}px ${token(look.mono ? "mono" : "sans")}`;
  pen.fillStyle = look.colour ?? token("ink-3");
  pen.textAlign = look.align ?? "left";
  pen.textBaseline = "middle";
  pen.fillText(text, x, y);
  return pen.measureText(text).width;
}

let ruler: CanvasRenderingContext2D | null | undefined;

/** px that the longest of these labels takes. */
export function widest(labels: readonly string[], weight = 400): number {
  ruler ??= document.createElement("canvas").getContext("2d");
  if (!ruler) return 0;
  ruler.font = `${weight} 11px ${token("sans")}`;
  return labels.reduce((most, label) => Math.max(most, ruler!.measureText(label).width), 0);
}

/** A line of one pixel, on whole pixels. */
export function hair(pen: Pen, x0: number, y0: number, x1: number, y1: number, ink: string, dash: number[] = []): void {
  pen.save();
  pen.strokeStyle = ink;
  pen.lineWidth = 1;
  pen.setLineDash(dash);
  pen.beginPath();
  const [dx, dy] = [x0 === x1 ? 0.5 : 0, y0 === y1 ? 0.5 : 0];
  pen.moveTo((dx ? Math.floor(x0) : x0) + dx, (dy ? Math.floor(y0) : y0) + dy);
  pen.lineTo((dx ? Math.floor(x1) : x1) + dx, (dy ? Math.floor(y1) : y1) + dy);
  pen.stroke();
  pen.restore();
}

/** Square, triangle, circle: severity by shape before colour. */
export function glyph(pen: Pen, severity: string, x: number, y: number, size = 9): void {
  const half = size / 2;
  pen.beginPath();
  if (severity === "error") pen.rect(x - half, y - half, size, size);
  else if (severity === "warning") {
    pen.moveTo(x, y - half);
    pen.lineTo(x + half, y + half);
    pen.lineTo(x - half, y + half);
    pen.closePath();
  } else pen.arc(x, y, half, 0, 7);
  pen.fillStyle = token(severity === "error" || severity === "warning" ? severity : "note");
  pen.strokeStyle = token("surface");
  pen.lineWidth = 1.5;
  pen.stroke();
  pen.fill();
}
