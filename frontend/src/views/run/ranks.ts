// The ranks of a run beside each other, as the server tells it.
import { json } from "../../api.ts";
import type { Cell, Table } from "../../chart/export.ts";

type Numeric = number | string | null;

export interface RankRow {
  rank: number;
  state: string;
  steps: number;
  loss: [number[], Numeric[]]; // steps, mean loss around them
  last: Numeric; // its last loss
  apart: number | null; // parameters that differ from those of most ranks; null: none could be compared
  first: number | null; // step from which on
}

/** Parameters x ranks x compared steps. */
export interface RanksPicture {
  first: number[]; // of each column
  last: number[];
  rows: { name: string; model: string; bias: boolean; state: number[][]; sums: Numeric[][] }[];
  count: number; // parameters that differ; the first of them are rows
}

export interface RanksTold {
  count: number;
  ranks: RankRow[];
  sentence: string;
  trouble: boolean;
  picture: RanksPicture | null;
}

export const APART = 1;
export const ABSENT = 2;
const WORDS = ["the same", "different", "not recorded"];

export function ranksOf(run: string, signal?: AbortSignal): Promise<RanksTold> {
  return json("ranks", { run }, signal) as Promise<RanksTold>;
}

export function wordOf(state: number): string {
  return WORDS[state] ?? "";
}

/** Cell by cell. */
export function tableOf(picture: RanksPicture, ranks: readonly RankRow[]): Table {
  const rows: Cell[][] = picture.rows.flatMap((row) =>
    ranks.flatMap((one, i) => picture.first.map((first, k) => [row.model, row.name, one.rank, first, picture.last[k]!, Number(row.sums[i]![k] ?? NaN), wordOf(row.state[i]![k]!)])),
  );
  return { columns: ["model", "parameter", "rank", "first step", "last step", "sum at the last step", "state"], rows };
}
