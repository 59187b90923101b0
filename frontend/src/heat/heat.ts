// The picture of all tensors over steps as the server sends it: value and mask of each cell, row after row.
import { bytes, unpacked, type Window } from "../api.ts";
import type { Cell, Table } from "../chart/export.ts";
import { letter } from "../names.ts";
import { short } from "../numbers.ts";
import { frozen } from "../state/frozen.ts";
import { cutHeat } from "./cut.ts";

export const VALUE = 0;
export const ZERO = 1;
export const NONFINITE = 2;
export const ABSENT = 3;
export const IDENTICAL = 4; // of two runs

export type Domain = [low: number, high: number];

export interface HeatRow {
  name: string;
  bias: boolean;
  members: number; // tensors in a folded row
  folded: boolean;
  model: string;
  role: string;
  module: string;
  shape: number[];
  group: string; // the folded name
}

export interface Heat {
  statistic: string;
  scale: string;
  rows: HeatRow[];
  first: number[]; // of each column, its first and last step
  last: number[];
  domain: Domain | null; // of what came; null where no value was finite
  counts: number[]; // how many cells have which colour
  below: number;
  above: number;
  value: Float32Array; // [rows, columns]
  mask: Uint8Array;
  least: Float32Array | null; // of the members of folded rows
  greatest: Float32Array | null;
}

export interface HeatWanted extends Window {
  stat: string;
  show: string;
  fold: string;
  open: readonly string[];
  rank?: number;
  attempt?: number;
  domain: Domain | null;
}

export async function heatOf(run: string, wanted: HeatWanted, signal?: AbortSignal): Promise<Heat> {
  const { domain, stat, show, fold, open, ...window } = wanted;
  const asked = { run, stat, show, fold, open, ...window, ...(domain ? { domain: domain.join(",") } : {}) };
  const heat = decode(await bytes("heat", asked, signal));
  return frozen() ? cutHeat(heat, wanted) : heat;
}

export function decode(content: Uint8Array): Heat {
  const { about, columns, has } = unpacked<Omit<Heat, "value" | "mask" | "least" | "greatest">>(content);
  const spread = (name: string): Float32Array | null => (has(name) ? (columns(name) as Float32Array) : null);
  return { ...about, value: columns("value") as Float32Array, mask: columns("mask") as Uint8Array, least: spread("least"), greatest: spread("greatest") };
}

/** The module that has this parameter or gives this output. */
export function ownerOf(name: string): string {
  const slash = name.indexOf("/");
  if (slash >= 0) return name.slice(0, slash);
  const dot = name.lastIndexOf(".");
  return dot < 0 ? "" : name.slice(0, dot);
}

/** What stands at the left of a row: the group of a folded one, else the module. */
export function titleOf(row: HeatRow): string {
  return row.folded ? row.name : ownerOf(row.name) || row.name;
}

/** The same, with its model's name where there are several. */
export function labelOf(row: HeatRow, several: boolean): string {
  return (several ? `${row.model}:` : "") + titleOf(row);
}

/** W, b, ... ; nothing where a row is neither. */
export function letterOf(row: HeatRow): string {
  return row.role === "output" ? "" : row.folded ? (row.bias ? "b" : "W") : letter(row);
}

/** 64→32 for a matrix: what comes in, what goes out. */
export function flowOf(row: HeatRow): string {
  if (row.folded) return `${row.members} tensors`;
  if (row.role === "output") return row.module;
  const [out, into] = row.role === "embedding" ? [row.shape[1], row.shape[0]] : row.shape;
  return row.shape.length === 2 ? `${into}→${out}` : row.shape.join("×");
}

/** Does a finding at this place mean this row? */
export function isMeant(row: HeatRow, place: string, severalModels = false): boolean {
  if (place === "" || place === "input") return false;
  const bare = severalModels && place.startsWith(`${row.model}:`) ? place.slice(row.model.length + 1) : place;
  if (row.name === bare || row.name.startsWith(`${bare}.`) || row.name.startsWith(`${bare}/`)) return true;
  return row.folded && (bare === row.name || bare.startsWith(`${row.name}.`) || bare.startsWith(`${row.name}/`));
}

/** A cell's number as it is written: a factor where two runs are compared. */
export function written(value: number, scale: string, digits = 3): string {
  if (scale !== "versus") return (scale === "less" && value > 0 ? "+" : "") + short(value, digits);
  const factor = 10 ** Math.abs(value);
  return (value < 0 ? "÷" : "×") + (factor < 10 ? factor.toPrecision(2) : short(factor, 2));
}

const STATES = ["value", "exactly zero", "NaN or Inf", "not recorded", "the same in both"]; // by mask

/** Cell by cell, `count` rows from `from` on. A cell with one step that was not finite has the value of the others. */
export function cellsTable(heat: Heat, from: number, count: number): Table {
  const rows: Cell[][] = [];
  for (let row = from; row < Math.min(from + count, heat.rows.length); row++) {
    const { model, name, bias, members } = heat.rows[row]!;
    for (let column = 0; column < heat.first.length; column++) {
      const at = row * heat.first.length + column;
      const value = heat.mask[at] === ABSENT ? null : heat.value[at]!;
      rows.push([model, name, bias ? "bias" : "", members, heat.first[column]!, heat.last[column]!, value, STATES[heat.mask[at]!]!]);
    }
  }
  return { columns: ["model", "name", "side", "tensors", "first step", "last step", heat.statistic, "state"], rows };
}

/** The column that holds a step; -1 = none. */
export function columnOf(heat: Heat, step: number): number {
  let low = 0;
  let high = heat.first.length - 1;
  while (low <= high) {
    const middle = (low + high) >> 1;
    if (step < heat.first[middle]!) high = middle - 1;
    else if (step > heat.last[middle]!) low = middle + 1;
    else return middle;
  }
  return -1;
}
