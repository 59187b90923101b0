// The list of runs as the server tells it: names in order, and rows for those that are seen.
import { json, type RunFacts } from "../../api.ts";
import { frozen } from "../../state/frozen.ts";

export interface Group {
  title: string;
  names: string[];
}

export interface Listing {
  folder: string;
  now: string;
  locked: string; // why nothing may be changed here; empty where it may
  wrong: string; // with the search, a sentence; then only the counts are there
  order: string; // changes with the groups
  counts: { all: number; fit: number; live: number; errors: number; archived: number; unread: number };
  groups?: Group[]; // left out where the page has them already
  differing: string[];
  settings: string[];
  metrics: string[];
  tags: string[];
  top: number; // upper edge of all curves
  steps: number; // right edge; 0 = each run has its own
}

export interface Health {
  known: boolean;
  whole: boolean; // all rules have looked at all of it
  thin: boolean; // most had too few steps
  counts: Partial<Record<"error" | "warning" | "note", number>>;
  rules: string[];
  muted: number; // put aside by somebody, and in none of the above
  cause: { title: string; key: string; message: string } | null;
}

export interface Row extends Omit<RunFacts, "findings" | "state"> {
  state: RunFacts["state"] | "unread";
  seconds: number;
  own_cost: number | null;
  settings: Record<string, string>;
  metrics: Record<string, number>;
  guess: number | null;
  loss: [number[], number[]]; // steps, mean losses
  health: Health;
  tags: string[];
  note: string;
  archived: boolean;
}

export interface Wish {
  q: string;
  sort: string;
  group: string;
}

export async function listingOf(wish: Wish, have: string, signal?: AbortSignal): Promise<Listing> {
  const held = frozen();
  if (!held) return (await json("runs", { q: wish.q || undefined, sort: wish.sort, group: wish.group || undefined, have: have || undefined }, signal)) as Listing;
  const rows = await rowsOf(held.runs, signal);
  const most = (of: (row: Row) => readonly number[]): number => rows.reduce((best, row) => of(row).reduce((a, b) => (b > a ? b : a), best), 0);
  const counts = { all: rows.length, fit: rows.length, live: 0, errors: 0, archived: 0, unread: 0 };
  return { folder: "this report", now: "", locked: "", wrong: "", order: "", counts, groups: [{ title: "", names: held.runs }], differing: [], settings: [], metrics: [], tags: [], top: most((row) => row.loss[1].filter(Number.isFinite)), steps: most((row) => [row.steps]) };
}

export async function rowsOf(names: readonly string[], signal?: AbortSignal): Promise<Row[]> {
  if (names.length === 0) return [];
  const asked = frozen() ? Promise.all(names.map((run) => json("rows", { run }, signal))).then((answers) => answers.flat()) : json("rows", { run: names }, signal);
  return ((await asked) as Row[]).map(withNumbers);
}

export const MOST_COLUMNS = 6; // of settings and metrics that are chosen

/** What stands in a chosen column: a setting as it is written, else the last number of a metric. */
export function cellOf(row: Row, column: string): { text: string; number: number | null } {
  const setting = row.settings[column];
  if (setting !== undefined) return { text: setting, number: null };
  const metric = row.metrics[column];
  return { text: "", number: metric ?? null };
}

/** The tracks of the table's grid, and the px below which it scrolls sideways. */
export function tracksOf(hasMetric: boolean, differs: boolean, chosen: number): { tracks: string; least: number } {
  const own = ["20px", "minmax(150px, 1.5fr)", "128px", "72px", ...(hasMetric ? ["92px"] : []), "98px", "minmax(140px, 1.9fr)"];
  const middle = chosen ? Array<string>(chosen).fill("minmax(64px, 0.6fr)") : differs ? ["minmax(90px, 1fr)"] : [];
  const tracks = [...own, ...middle, "52px", "66px", "52px"];
  const px = tracks.map((one) => Number(/\d+/.exec(one)![0]));
  return { tracks: tracks.join(" "), least: px.reduce((a, b) => a + b, 0) + 14 * (tracks.length - 1) + 32 };
}

/** Does this run go on, or have the rules not answered for it yet? */
export function mayChange(row: Row | undefined): boolean {
  return !row || row.state === "live" || row.state === "unread" || (row.state !== "unreadable" && !row.health.whole);
}

/** JSON has no NaN: the server writes the word. */
function withNumbers(row: Row): Row {
  if (row.state === "unread" || row.state === "unreadable") return row;
  const metrics = Object.fromEntries(Object.entries(row.metrics).map(([key, value]) => [key, Number(value)]));
  return { ...row, last_loss: row.last_loss === null ? null : Number(row.last_loss), metrics, loss: [row.loss[0], row.loss[1].map(Number)] };
}

/**
 * What becomes of the order on the screen when the server has another one: runs that are gone leave it, all else keeps its
 * place until it is asked for. `fresh`: how many wait; `moved`: the order of the others has changed.
 */
export function merged(shown: readonly Group[], told: readonly Group[]): { groups: Group[]; fresh: number; moved: boolean } {
  const there = new Set(told.flatMap((group) => group.names));
  const groups = shown.map((group) => ({ ...group, names: group.names.filter((name) => there.has(name)) })).filter((group) => group.names.length);
  const before = new Set(groups.flatMap((group) => group.names));
  const fresh = [...there].filter((name) => !before.has(name)).length;
  const kept = told.map((group) => ({ title: group.title, names: group.names.filter((name) => before.has(name)) })).filter((group) => group.names.length);
  return { groups, fresh, moved: JSON.stringify(kept) !== JSON.stringify(groups.map(({ title, names }) => ({ title, names }))) };
}

export type Item = { kind: "group"; group: Group; folded: boolean } | { kind: "run"; name: string; key: string };

/** Groups and runs one below the other; of a folded group its head only. */
export function itemsOf(groups: readonly Group[], folded: ReadonlySet<string>): Item[] {
  if (groups.length === 1 && groups[0]!.title === "") return groups[0]!.names.map((name) => ({ kind: "run", name, key: name }));
  return groups.flatMap((group): Item[] => {
    const isFolded = folded.has(group.title);
    const head: Item = { kind: "group", group, folded: isFolded };
    return isFolded ? [head] : [head, ...group.names.map((name): Item => ({ kind: "run", name, key: `${group.title}\0${name}` }))];
  });
}
