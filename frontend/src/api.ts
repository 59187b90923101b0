// Everything the page asks the server for, typed. JSON for facts, Arrow for arrays.
import { tableFromIPC } from "@uwdata/flechette";

import { counted } from "./state/busy.ts";
import { answerOf, frozen } from "./state/frozen.ts";

export interface RunFacts {
  name: string;
  state: "live" | "finished" | "ended without finish" | "unreadable";
  started: string;
  last_flush: string | null;
  steps: number;
  tensors: number;
  size_bytes: number;
  last_loss: number | null;
  findings: number; // told beside the training
  error?: string;
}

export interface RunDetail extends RunFacts {
  first_step: number;
  last_step: number;
  logged: string[];
  ranks: number[]; // that recorded something
  attempts: Attempt[]; // more than one: the run went on after a restart
  guess: number | null; // the loss of a predictor that knows nothing
  own_seconds: number | null;
  wall_seconds: number | null;
  less_detail: { step: number; words: string; cost: number; allowed: number } | null;
}

export interface Attempt {
  number: number;
  first_step: number;
  last_step: number; // that it took
  kept_until: number; // the last of them that no later attempt took again
  pause_seconds: number | null; // before it, where nothing counts as time of training
}

export interface Tensor {
  name: string;
  model: string;
  role: string;
  module: string;
  shape: number[];
  dtype: string;
  count: number;
  aliases: string[];
  requires_grad: boolean;
  note: string;
}

export interface Statistic {
  name: string;
  quantity: string;
  quantity_plain: string;
  statistic: string;
  symbol: string;
  unit: string;
  formula: string;
  merge: string;
  plain: string;
  scale: string;
  source: string;
}

/** Buckets of one series, oldest first. mean, min and max are NaN where nothing was finite; what was not recorded is left out. */
export interface Line {
  first: Float64Array;
  last: Float64Array;
  mean: Float64Array;
  min: Float64Array;
  max: Float64Array;
  bad: Float64Array; // elements (or losses) that were NaN or infinite
}

export interface Window {
  start?: number; // first step
  stop?: number; // one past the last
  buckets?: number;
}

/** An answer that is no numbers but a sentence for the reader. */
export class Refused extends Error {}

/** Of all runs, the newest first; and what any of them has as a setting. */
export async function runNames(signal?: AbortSignal): Promise<{ names: string[]; settings: string[] }> {
  const list = (await json("runs", {}, signal)) as { groups: { names: string[] }[]; settings: string[] };
  return { names: list.groups.flatMap((group) => group.names), settings: list.settings };
}

export async function run(name: string, signal?: AbortSignal): Promise<RunDetail> {
  return withNumbers((await json("run", { run: name }, signal)) as RunDetail);
}

export function tensors(name: string, signal?: AbortSignal): Promise<Tensor[]> {
  return json("tensors", { run: name }, signal) as Promise<Tensor[]>;
}

export function statistics(signal?: AbortSignal): Promise<Statistic[]> {
  return json("statistics", {}, signal) as Promise<Statistic[]>;
}

/** One line for each tensor and statistic, tensor by tensor. */
export async function series(
  name: string,
  wanted: { tensors: readonly string[]; statistics: readonly string[] },
  window: Window,
  signal?: AbortSignal,
): Promise<Line[]> {
  const answer = await ask("series", { run: name, tensor: wanted.tensors, stat: wanted.statistics, ...window }, signal);
  return lines(new Uint8Array(await answer.arrayBuffer()), wanted.tensors.length * wanted.statistics.length);
}

/** Between which numbers a tensor's values lie, over single steps: a line for each share. Its mean is shown; min and max are known for sure. */
export async function quantiles(name: string, tensor: string, quantity: string, share: readonly number[], window: Window, signal?: AbortSignal): Promise<Line[]> {
  const answer = await ask("quantiles", { run: name, tensor, quantity, share: share.map(String), ...window }, signal);
  return lines(new Uint8Array(await answer.arrayBuffer()), share.length);
}

/** The loss (key null) or a metric that the training logged. */
export async function loss(name: string, key: string | null, window: Window, signal?: AbortSignal, attempt: number | null = null): Promise<Line> {
  const asked = { run: name, ...(key === null ? {} : { key }), ...window, ...(attempt === null ? {} : { attempt }) };
  const answer = await ask(key === null ? "loss" : "logged", asked, signal);
  const line = lines(new Uint8Array(await answer.arrayBuffer()), 1)[0]!;
  return frozen() ? within(line, window) : line;
}

/** Of a line that was kept whole, the steps that are shown. */
function within(line: Line, { start = 0, stop = Infinity }: Window): Line {
  const from = line.last.findIndex((last) => last >= start);
  let to = line.first.findIndex((first) => first >= stop);
  if (to < 0) to = line.first.length;
  const cut = (of: Float64Array): Float64Array => (from < 0 ? of.subarray(0, 0) : of.subarray(from, to));
  return { first: cut(line.first), last: cut(line.last), mean: cut(line.mean), min: cut(line.min), max: cut(line.max), bad: cut(line.bad) };
}

/** What weighbridge itself took, as a share of the training's time. */
export async function cost(name: string, window: Window, signal?: AbortSignal): Promise<Line> {
  const answer = await ask("cost", { run: name, ...window }, signal);
  return lines(new Uint8Array(await answer.arrayBuffer()), 1)[0]!;
}

/** How many seconds of training had passed at the end of a step: the mean of each point. */
export async function clock(name: string, window: Window, signal?: AbortSignal): Promise<Line> {
  const answer = await ask("clock", { run: name, ...window }, signal);
  return lines(new Uint8Array(await answer.arrayBuffer()), 1)[0]!;
}

/** JSON has no NaN: the server writes the word. */
export function withNumbers<T extends RunFacts>(facts: T): T {
  const numbers: Record<string, unknown> = {};
  for (const key of ["last_loss", "own_seconds", "wall_seconds"]) {
    const value = (facts as Record<string, unknown>)[key];
    if (typeof value === "string") numbers[key] = Number(value);
  }
  return { ...facts, ...numbers };
}

/** Arrow, as it came. */
export async function bytes(what: string, parameters: Parameters, signal?: AbortSignal): Promise<Uint8Array> {
  return new Uint8Array(await (await ask(what, parameters, signal)).arrayBuffer());
}

/** Arrays with what they are: the server's `packed`. */
export function unpacked<About>(content: Uint8Array): { about: About; columns: (name: string) => Float32Array | Float64Array | Uint8Array; has: (name: string) => boolean } {
  const table = tableFromIPC(content);
  const about = JSON.parse(table.schema.metadata!.get("about")!) as About;
  const has = (name: string): boolean => table.schema.fields.some((field) => field.name === name);
  return { about, columns: (name) => table.getChild(name).toArray() as Float32Array, has };
}

export type Parameters = Record<string, string | number | readonly string[] | undefined>;

export async function json(what: string, parameters: Parameters, signal?: AbortSignal): Promise<unknown> {
  return (await ask(what, parameters, signal)).json();
}

/** Change something. What comes back is what was done; a refusal is its sentence. */
export async function act(what: string, asked: object): Promise<unknown> {
  return (await answered(await fetch(`/api/act/${what}`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(asked) }))).json();
}

async function ask(what: string, parameters: Parameters, signal?: AbortSignal): Promise<Response> {
  if (frozen()) {
    const kept = await answerOf(what, parameters);
    if (kept) return kept;
    throw new Refused("This is not in the report. Where the run lies: weighbridge ui");
  }
  return counted(fetch(address(what, parameters), { signal: signal ?? null }).then(answered));
}

async function answered(answer: Response): Promise<Response> {
  if (answer.ok) return answer;
  let sentence = `The server answered ${answer.status}.`;
  try {
    sentence = String(((await answer.json()) as { error?: unknown }).error ?? sentence);
  } catch {
    // no sentence came with it
  }
  throw new Refused(sentence);
}

export function address(what: string, parameters: Parameters): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value === undefined) continue;
    for (const one of Array.isArray(value) ? (value as readonly string[]) : [String(value)]) query.append(name, one);
  }
  const text = query.toString();
  return `/api/${what}${text ? `?${text}` : ""}`;
}

function lines(bytes: Uint8Array, count: number): Line[] {
  const table = tableFromIPC(bytes);
  const column = (name: string): Float64Array => Float64Array.from(table.getChild(name).toArray() as ArrayLike<number>, Number);
  const place = column("series");
  const all = { first: column("step_first"), last: column("step_last"), mean: column("mean"), min: column("min"), max: column("max"), bad: column("bad") };
  const found: Line[] = [];
  for (let i = 0, from = 0; i < count; i++) {
    let to = from;
    while (to < place.length && place[to] === i) to++;
    found.push({
      first: all.first.subarray(from, to),
      last: all.last.subarray(from, to),
      mean: all.mean.subarray(from, to),
      min: all.min.subarray(from, to),
      max: all.max.subarray(from, to),
      bad: all.bad.subarray(from, to),
    });
    from = to;
  }
  return found;
}
