// A picture as a file: PNG and SVG by the drawing that the page shows, CSV of the numbers that the server sent for it.
import type { Line } from "../api.ts";
import { cut } from "../names.ts";
import { token, write } from "./canvas.ts";
import { secondsAt, type Clock } from "./clock.ts";
import { middle } from "./marks.ts";
import { SvgPen, type Pen } from "./pen.ts";

export type Cell = string | number | null;

/** Numbers in full, as they were drawn. */
export interface Table {
  columns: string[];
  rows: Cell[][];
}

export interface Exportable {
  name: string;
  width: number; // px
  height: number;
  draw: (pen: Pen) => void;
  table: () => Table;
}

const HEAD = 42; // px above the picture: what it is, and of which run
const MARGIN = 12;
const SHARP = 2; // pixels of a PNG per px

/** The picture with its name above it, on the page's ground. */
function composed(pen: Pen, of: Exportable, move: (x: number, y: number) => void): void {
  const [width, height] = sizeOf(of);
  pen.fillStyle = token("surface");
  pen.fillRect(0, 0, width, height);
  const letters = Math.max(8, Math.floor((width - 2 * MARGIN) / 6.2));
  write(pen, cut(of.name, letters), MARGIN, 14, { size: 12, weight: 600, colour: token("ink") });
  write(pen, cut(placeOf(), letters), MARGIN, 30);
  move(MARGIN, HEAD);
  of.draw(pen);
}

function sizeOf(of: Exportable): [width: number, height: number] {
  return [of.width + 2 * MARGIN, of.height + HEAD + MARGIN];
}

function placeOf(): string {
  return document.title.replace(/ · weighbridge$/, "");
}

export function svgOf(of: Exportable): Blob {
  const pen = new SvgPen(document.createElement("canvas").getContext("2d"));
  composed(pen, of, (x, y) => pen.move(x, y));
  return new Blob([pen.done(...sizeOf(of), of.name, `${placeOf()} ${location.href}`)], { type: "image/svg+xml" });
}

export function pngOf(of: Exportable): Promise<Blob> {
  const [width, height] = sizeOf(of);
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [Math.round(width * SHARP), Math.round(height * SHARP)];
  const pen = canvas.getContext("2d")!;
  pen.scale(SHARP, SHARP);
  pen.lineJoin = "round";
  composed(pen, of, (x, y) => pen.translate(x, y));
  return new Promise((done, fail) => canvas.toBlob((blob) => (blob ? done(blob) : fail(new Error("The picture is too large for a PNG."))), "image/png"));
}

/** Comma-separated, one head line, as RFC 4180 has it. What is no number is empty; NaN and Infinity are written so. */
export function csvText({ columns, rows }: Table): string {
  return [columns, ...rows].map((row) => row.map(field).join(",") + "\r\n").join("");
}

function field(cell: Cell): string {
  const text = cell === null ? "" : Object.is(cell, -0) ? "-0" : String(cell);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

export function csvOf(of: Exportable): Blob {
  return new Blob([csvText(of.table())], { type: "text/csv;charset=utf-8" });
}

/** Lines below each other: `of` heads the column that tells them apart. */
export function linesTable(lines: readonly { name: string; line: Line; clock?: Clock | null }[], of: string): Table {
  const isTimed = lines.some(({ clock }) => clock);
  const rows = lines.flatMap(({ name, line, clock }) =>
    Array.from(line.first, (first, i): Cell[] => [
      name, first, line.last[i]!, line.mean[i]!, line.min[i]!, line.max[i]!, line.bad[i]!, ...(isTimed ? [secondsAt(clock ?? null, middle(line, i))] : []),
    ]),
  );
  return { columns: [of, "first step", "last step", "mean", "least", "greatest", "not finite", ...(isTimed ? ["seconds of training"] : [])], rows };
}

/** Into the reader's folder of downloads. */
export function saved(content: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** A name that every file system takes. */
export function fileName(of: string, ending: string): string {
  const plain = `${placeOf()} ${of}`.replace(/[^\p{L}\p{N}.]+/gu, "-").replace(/^[-.]+|[-.]+$/g, "");
  return `${plain.slice(0, 120) || "chart"}.${ending}`;
}

/** The address holds the whole view. Pages that are not on localhost or https have no clipboard of their own. */
export async function copyLink(): Promise<void> {
  if (navigator.clipboard) return navigator.clipboard.writeText(location.href);
  const field = document.createElement("textarea");
  field.value = location.href;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}
