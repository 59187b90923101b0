// What the Lab's worker tells, typed, and how a link to the Lab is read and changed. Numbers come from the worker as they are.

export interface Lesson {
  title: string;
  look: string;
  link: string;
}

/** What there is to choose from. */
export interface Known {
  data: string[];
  thumbs: Record<string, [x: number, y: number, kind: number][]>;
  activations: string[];
  norms: string[];
  starts: string[];
  bias_starts: string[];
  optimizers: string[];
  defaults: Record<string, string>;
  tutorials: Lesson[];
  lessons: Lesson[];
  most_values: number;
  most_layers: number;
}

export interface State {
  data: string;
  layers: number[];
  act: string;
  bias: number[]; // 1 or 0 by layer
  norm: string;
  start: string;
  bstart: string;
  opt: string;
  lr: number;
  batch: number;
  centre: string;
  scale: string;
  seed: number;
  twin: string;
}

export interface LayerTitle {
  title: string;
  weight: string;
  bias: string | null;
  units: number;
}

/** What does not change while it trains. */
export interface Opened {
  state: State;
  sizes: number[];
  rows: number;
  held_out: number;
  task: "classification" | "regression";
  values: number;
  biases: number;
  describe: string;
  features: string[];
  loss: string;
  guess: number | string;
  score: string;
  layers: LayerTitle[];
  shown: number; // units of a layer that are drawn
  tensors: { name: string; shape: number[] }[];
  view: { high: number; wide: number; plane: [number, number] | null };
  inputs: string; // pictures
  points: [x: number, y: number, target: number, held: number][];
  twin: { lead: string; link: string } | null;
}

interface NetFrame {
  loss: number | string | null;
  score: number | string;
  right: [number, number] | null;
  values: string;
  pictures: string;
  edges: (number | string)[];
  answer: string;
}

export interface Frame {
  step: number;
  epoch: number;
  ended: string;
  rate: number;
  batch: number;
  playing: boolean;
  why: string;
  speed: number;
  net: NetFrame;
  twin: (NetFrame & { said: { title: string; text: string } }) | null;
  trace: { every: number; steps: number[]; losses: (number | string)[][]; values: Record<string, string> };
}

export interface Findings {
  error: string;
  findings: { rule: string; severity: "error" | "warning" | "note"; certainty: string; place: string; first_step: number; title: string; message: string; fix: string }[];
  steps: number;
  looked: number;
  rules: number;
}

export interface Code {
  script: string;
  command: string;
  note: string;
  steps: number;
}

/** float32, as packed by the worker. */
export function floats(text: string): Float32Array {
  return new Float32Array(bytes(text).buffer);
}

export function bytes(text: string): Uint8Array<ArrayBuffer> {
  const raw = atob(text);
  const found = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) found[i] = raw.charCodeAt(i);
  return found;
}

/** The values of each tensor by name, out of all of them in a row. */
export function parted(all: Float32Array, tensors: Opened["tensors"]): Map<string, Float32Array> {
  const found = new Map<string, Float32Array>();
  let at = 0;
  for (const { name, shape } of tensors) {
    const count = shape.reduce((a, b) => a * b, 1);
    found.set(name, all.subarray(at, (at += count)));
  }
  return found;
}

/** What is asked for, before the server has said what comes of it: enough to go on choosing. */
export function asked(known: Known, query: URLSearchParams): Asked {
  const word = (name: string): string => query.get(name) ?? known.defaults[name] ?? "";
  const layers = ["", "none", "0"].includes(word("layers")) ? [] : word("layers").split(",").map(Number).filter((units) => units >= 1);
  const bias = word("bias");
  const state: State = {
    data: word("data"), layers, act: word("act"), norm: word("norm") || "none", start: word("start"), bstart: word("bstart") || "torch", opt: word("opt"),
    bias: Array.from({ length: layers.length + 1 }, (_, i) => Number(bias.length > 1 ? (bias[i] ?? 1) : bias)),
    lr: Number(word("lr")) || 0, batch: Number(word("batch")) || 0, centre: word("centre") || "auto", scale: word("scale") || "auto",
    seed: Number(word("seed")) || 0, twin: word("twin"),
  };
  return { state, sizes: [], rows: 0, values: 0, biases: 0, describe: state.data, layers: [] };
}

/** What the controls need. */
export type Asked = Pick<Opened, "state" | "sizes" | "rows" | "values" | "biases" | "describe"> & { layers: Pick<LayerTitle, "title">[] };

/** Words that belong to the page and not to the training. */
const PAGE_WORDS = new Set(["layer", "pace", "play"]);

/** The part of an address that the worker reads. */
export function linkOf(query: URLSearchParams): string {
  return new URLSearchParams([...query].filter(([word]) => !PAGE_WORDS.has(word))).toString();
}

/** A slider's places: rates from 0.0001 to 30, three to a decade. */
export const RATES = [1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 3, 5, 9, 30];

/** Rows of a step: powers of two, and all. */
export function batches(rows: number): number[] {
  const found: number[] = [];
  for (let size = 1; size < rows; size *= 2) found.push(size);
  return [...found, rows];
}

/** The place of the list that is nearest, by factor. */
export function nearest(list: readonly number[], value: number): number {
  let best = 0;
  list.forEach((one, i) => {
    if (Math.abs(Math.log(one / value)) < Math.abs(Math.log(list[best]! / value))) best = i;
  });
  return best;
}

/** Lines over steps, kept as few as the worker keeps them. */
export class Trace {
  every = 1;
  steps: number[] = [];
  losses: number[][] = [];
  values = new Map<string, Float32Array[]>(); // by tensor, a row per step

  add(news: Frame["trace"]): void {
    const count = news.steps.length;
    this.steps.push(...news.steps);
    news.losses.forEach((column, i) => (this.losses[i] ??= []).push(...column.map(Number)));
    for (const [name, text] of Object.entries(news.values)) {
      const all = floats(text);
      const each = count ? all.length / count : 0;
      const rows = this.values.get(name) ?? [];
      for (let i = 0; i < count; i++) rows.push(all.subarray(i * each, (i + 1) * each));
      this.values.set(name, rows);
    }
    if (news.every !== this.every) this.thin(news.every);
  }

  private thin(every: number): void {
    this.every = every;
    const kept = this.steps.map((step) => step % every === 0);
    const keep = <T>(of: T[]): T[] => of.filter((_, i) => kept[i]);
    this.losses = this.losses.map(keep);
    for (const [name, rows] of this.values) this.values.set(name, keep(rows));
    this.steps = keep(this.steps);
  }
}
