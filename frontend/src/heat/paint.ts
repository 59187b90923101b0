// Cells to pixels. One ImageData of one pixel per cell; each row is then drawn at its place and size. What is no value is
// drawn over it by runs of neighbours: hatch, cross-hatch, centre line.
import { ABSENT, IDENTICAL, NONFINITE, VALUE, ZERO, type Domain, type Heat } from "./heat.ts";
import type { Layout } from "./layout.ts";

export interface Inks {
  surface: string;
  line: string; // of an exact zero
  edge: string; // of what is the same
  hatch: string;
  trouble: string;
}

/** One pixel per cell; cells without a colour are clear. */
export function pictureOf(heat: Heat, domain: Domain | null, colours: Uint8Array): OffscreenCanvas | null {
  const [rows, columns] = [heat.rows.length, heat.first.length];
  if (rows === 0 || columns === 0) return null;
  const picture = new OffscreenCanvas(columns, rows);
  const pen = picture.getContext("2d")!;
  const image = pen.createImageData(columns, rows);
  if (domain) fill(image.data, heat, domain, colours);
  pen.putImageData(image, 0, 0);
  return picture;
}

function fill(pixels: Uint8ClampedArray, heat: Heat, domain: Domain, colours: Uint8Array): void {
  const isLog = heat.scale === "log";
  const low = isLog ? Math.log(domain[0]) : domain[0];
  const scale = (colours.length / 3 - 1) / ((isLog ? Math.log(domain[1]) : domain[1]) - low);
  const last = colours.length / 3 - 1;
  const { value, mask } = heat;
  for (let i = 0; i < mask.length; i++) {
    const kind = mask[i]!;
    if (kind !== VALUE && !(kind === ZERO && !isEmptyZero(heat.scale))) continue;
    const place = ((isLog ? Math.log(value[i]!) : value[i]!) - low) * scale;
    const at = 3 * Math.max(0, Math.min(last, Math.round(place)));
    pixels[4 * i] = colours[at]!;
    pixels[4 * i + 1] = colours[at + 1]!;
    pixels[4 * i + 2] = colours[at + 2]!;
    pixels[4 * i + 3] = 255;
  }
}

/** An exact zero has no place on a log scale, and a count of zero is nothing: both are empty cells with a centre line. */
export function isEmptyZero(scale: string): boolean {
  return scale === "log" || scale === "count";
}

/** The same with every column as wide as it stands on the page, where they are not all of one width. */
export function stretched(picture: OffscreenCanvas, width: number, xOf: (column: number) => number): OffscreenCanvas {
  const wide = new OffscreenCanvas(Math.max(1, Math.round(width)), picture.height);
  const pen = wide.getContext("2d")!;
  pen.imageSmoothingEnabled = false;
  for (let column = 0; column < picture.width; column++) {
    const [from, to] = [xOf(column), xOf(column + 1)];
    if (to > from) pen.drawImage(picture, column, 0, 1, picture.height, from, 0, to - from, picture.height);
  }
  return wide;
}

export interface Frame {
  left: number;
  top: number;
  width: number; // of all columns
  scroll: number; // rows above the frame
  height: number; // that can be seen
  from: number; // first row shown
}

/** All cells that can be seen, with what is drawn over them. `xOf`: the left edge of a column. */
export function paintCells(
  pen: CanvasRenderingContext2D, heat: Heat, picture: OffscreenCanvas, layout: Layout, frame: Frame, xOf: (column: number) => number, inks: Inks,
): void {
  pen.save();
  pen.beginPath();
  pen.rect(frame.left, frame.top, frame.width, frame.height);
  pen.clip();
  pen.imageSmoothingEnabled = false;
  const patterns = { hatch: hatching(pen, inks), cross: crossing(pen, inks) };
  layout.places.forEach((place, i) => {
    const y = frame.top + place.top - frame.scroll;
    if (y + place.height < frame.top || y > frame.top + frame.height) return;
    pen.fillStyle = inks.surface;
    pen.drawImage(picture, 0, frame.from + i, picture.width, 1, frame.left, y, frame.width, place.height);
    paintRuns(pen, heat, frame.from + i, y, place.height, xOf, inks, patterns);
  });
  pen.restore();
}

type Patterns = { hatch: CanvasPattern; cross: CanvasPattern };

function paintRuns(
  pen: CanvasRenderingContext2D, heat: Heat, row: number, y: number, height: number, xOf: (column: number) => number, inks: Inks, of: Patterns,
): void {
  const columns = heat.first.length;
  const begin = row * columns;
  const emptyZero = isEmptyZero(heat.scale);
  for (let from = 0; from < columns; ) {
    const kind = heat.mask[begin + from]!;
    let to = from + 1;
    while (to < columns && heat.mask[begin + to] === kind) to++;
    if (kind !== VALUE && !(kind === ZERO && !emptyZero)) {
      const left = xOf(from);
      const width = xOf(to) - left;
      if (kind === ABSENT) rectangle(pen, of.hatch, left, y, width, height);
      else if (kind === ZERO) zeroLine(pen, inks, left, y, width, height);
      else if (kind === IDENTICAL) outline(pen, inks, left, y, width, height);
      else if (kind === NONFINITE) trouble(pen, inks, of.cross, left, y, width, height);
    }
    from = to;
  }
}

function rectangle(pen: CanvasRenderingContext2D, ink: string | CanvasPattern, x: number, y: number, width: number, height: number): void {
  pen.fillStyle = ink;
  pen.fillRect(x, y, width, height);
}

function zeroLine(pen: CanvasRenderingContext2D, inks: Inks, x: number, y: number, width: number, height: number): void {
  rectangle(pen, inks.line, x, Math.round(y + height / 2 - 0.5), width, 1);
}

/** The very same in both runs: nothing to see, and it is drawn so. */
function outline(pen: CanvasRenderingContext2D, inks: Inks, x: number, y: number, width: number, height: number): void {
  pen.strokeStyle = inks.edge;
  pen.lineWidth = 1;
  if (height > 2) pen.strokeRect(x + 0.5, y + 0.5, Math.max(0, width - 1), height - 1);
}

/** The first cell is solid: that moment matters. What follows is quiet. */
function trouble(pen: CanvasRenderingContext2D, inks: Inks, cross: CanvasPattern, x: number, y: number, width: number, height: number): void {
  pen.save();
  pen.globalAlpha = 0.16;
  rectangle(pen, inks.trouble, x, y, width, height);
  pen.globalAlpha = 0.55;
  rectangle(pen, cross, x, y, width, height);
  pen.restore();
  rectangle(pen, inks.trouble, x, y, Math.min(Math.max(width, 1), 5), height);
}

function hatching(pen: CanvasRenderingContext2D, inks: Inks): CanvasPattern {
  return tile(pen, 4, inks.hatch, (at, size) => (at.moveTo(-1, size + 1), at.lineTo(size + 1, -1), at.moveTo(-1, 1), at.lineTo(1, -1), at.moveTo(size - 1, size + 1), at.lineTo(size + 1, size - 1)));
}

function crossing(pen: CanvasRenderingContext2D, inks: Inks): CanvasPattern {
  return tile(pen, 6, inks.trouble, (at, size) => (at.moveTo(0, size), at.lineTo(size, 0), at.moveTo(0, 0), at.lineTo(size, size)));
}

function tile(pen: CanvasRenderingContext2D, size: number, ink: string, lines: (pen: OffscreenCanvasRenderingContext2D, size: number) => void): CanvasPattern {
  const ratio = pen.getTransform().a || 1;
  const canvas = new OffscreenCanvas(Math.round(size * ratio), Math.round(size * ratio));
  const own = canvas.getContext("2d")!;
  own.scale(ratio, ratio);
  own.strokeStyle = ink;
  own.lineWidth = 1;
  own.beginPath();
  lines(own, size);
  own.stroke();
  const pattern = pen.createPattern(canvas, "repeat")!;
  pattern.setTransform(new DOMMatrix().scale(1 / ratio));
  return pattern;
}
