// The numbers of one layer's page: lines over steps, everything at one step, and how values are spread.
import * as api from "../api.ts";
import type { Inner } from "../chart/plot.ts";
import { frozen } from "../state/frozen.ts";
import { Pace, pause } from "../state/pace.ts";
import { layerAt, linesOf, spreadOf, worthOf, type Bundle, type LayerAt, type Spread, type UnitWish, type Worth } from "./layer.ts";

export interface LayerWish {
  path: string;
  steps: [number, number] | null;
  step: number | null; // null = the last one
  last: number; // step of the run
  parameters: readonly string[]; // of the layer, "model:name", as far as they are known beforehand
  next: readonly string[]; // the same of the next layer
  units: UnitWish;
  spread: { tensor: string; quantity: string; most: number } | null;
}

/** The statistics that one column of charts shows. */
export const OF_PARAMETER = ["parameter.mean", "parameter.min", "parameter.max", "gradient.rms", "gradient.abs_max", "update.ratio"];
export const OF_OUTPUT = ["activation.mean", "activation.min", "activation.max", "activation.rms", "activation.abs_max", "activation_gradient.rms"];
const SHARES = [0.05, 0.95];
export const MANY = 64; // values; more than these are no lines
const POINTS = 400; // of a line, at most
const PASSING_MS = 150; // who goes from layer to layer asks for nothing that takes long

export class LayerData {
  at = $state.raw<LayerAt | null>(null);
  lines = $state.raw(new Map<string, api.Line>()); // by "tensor\0statistic"
  bundles = $state.raw(new Map<string, Bundle>()); // by tensor
  inner = $state.raw(new Map<string, Inner>()); // by tensor
  spread = $state.raw<Spread | null>(null);
  spreadOf = $state.raw(""); // which tensor and quantity it is of
  worth = $state.raw<Worth | null>(null); // of the bias
  trouble = $state("");
  edge = $state(0); // of the colours of values: grows, and never shrinks while the page is open

  private wish: LayerWish | null = null;
  private atOf = ""; // path of the layer that `at` is of
  private aheadOf = ""; // the layer from which the next one was asked for
  private readonly atPace: Pace;
  private readonly linePace: Pace;
  private readonly restPace: Pace;
  private readonly spreadPace: Pace;
  private readonly run: string;

  constructor(run: string) {
    this.run = run;
    this.atPace = new Pace((signal) => this.guarded(signal, () => this.fetchAt(signal)), 40);
    this.linePace = new Pace((signal) => this.guarded(signal, () => this.fetchLines(signal)));
    this.restPace = new Pace((signal) => this.guarded(signal, () => this.fetchRest(signal)));
    this.spreadPace = new Pace((signal) => this.guarded(signal, () => this.fetchSpread(signal)));
  }

  want(wish: LayerWish): void {
    const before = this.wish;
    this.wish = wish;
    const isNew = before?.path !== wish.path;
    const newSteps = String(before?.steps) !== String(wish.steps);
    if (isNew) {
      this.lines = new Map();
      this.bundles = new Map();
      this.inner = new Map();
      this.edge = 0;
      this.atOf = "";
      this.worth = null;
      this.restPace.stop();
      this.linePace.now();
    }
    if (isNew || before?.step !== wish.step || !same(before.units, wish.units)) (isNew ? this.atPace.now() : this.atPace.next());
    if (newSteps && !isNew) (this.linePace.now(), this.restPace.now());
    if (!same(before?.spread, wish.spread) || (newSteps && !isNew)) this.spreadPace.now(); // of a new layer: when its tensors are known
  }

  grown(): void {
    if (!this.wish) return;
    this.linePace.soon();
    this.restPace.soon();
    this.spreadPace.soon();
    if (this.wish.step === null) this.atPace.soon();
  }

  stop(): void {
    for (const pace of [this.atPace, this.linePace, this.restPace, this.spreadPace]) pace.stop();
  }

  private window(): api.Window {
    const steps = this.wish?.steps;
    return steps ? { start: steps[0], stop: steps[1] + 1 } : {};
  }

  private async fetchAt(signal: AbortSignal): Promise<void> {
    const { path, step, units } = this.wish!;
    const at = await layerAt(this.run, path, step, units, signal);
    this.edge = Math.max(this.edge, at.values?.edge ?? 0) || 1;
    this.at = at;
    if (this.atOf !== path) {
      this.atOf = path;
      if (String(at.layer.parameters.slice(0, MOST).map(full)) !== String(this.wish!.parameters)) this.linePace.now();
      this.restPace.now();
    }
  }

  /** Without the row that closes a run. */
  private inside(): api.Window {
    return { stop: this.wish!.last + 1, ...this.window() };
  }

  private async ask(tensors: readonly string[], statistics: readonly string[], signal: AbortSignal): Promise<void> {
    if (tensors.length === 0) return;
    const found = await api.series(this.run, { tensors, statistics }, { ...this.inside(), buckets: POINTS }, signal);
    const lines = new Map(this.lines);
    tensors.forEach((name, i) => statistics.forEach((statistic, j) => lines.set(`${name}\0${statistic}`, found[i * statistics.length + j]!)));
    this.lines = lines;
  }

  /** Of the parameters: while the layer itself is asked for, where they are known beforehand. */
  private async fetchLines(signal: AbortSignal): Promise<void> {
    const { path, parameters } = this.wish!;
    await this.ask(this.at && this.atOf === path ? this.at.layer.parameters.slice(0, MOST).map(full) : parameters, OF_PARAMETER, signal);
  }

  /** What else stands on the page, once the layer is known: the quick ones first. */
  private async fetchRest(signal: AbortSignal): Promise<void> {
    const { path, last } = this.wish!;
    const layer = this.at?.layer;
    if (!layer || this.atOf !== path) return; // `fetchAt` asks again
    await this.ask(layer.outputs.slice(0, 2).map(full), OF_OUTPUT, signal);
    const small = layer.parameters.filter((one) => one.count <= MANY);
    const bundles = new Map<string, Bundle>();
    await Promise.all(small.map(async (tensor) => bundles.set(full(tensor), await linesOf(this.run, full(tensor), "parameter", this.inside(), signal))));
    this.bundles = bundles;
    this.worth = await worthOf(this.run, path, signal);
    await pause(PASSING_MS, signal);
    const inner = new Map<string, Inner>();
    const withClosing: api.Window = { stop: last + 2, ...this.window() }; // what the last step left behind ends the band
    for (const tensor of [...layer.parameters.filter((one) => one.count > MANY).slice(0, 2), ...layer.outputs.slice(0, 2)]) {
      const quantity = tensor.role === "output" ? "activation" : "parameter";
      const [low, high] = await api.quantiles(this.run, full(tensor), quantity, SHARES, withClosing, signal);
      if (low!.mean.length) inner.set(full(tensor), { names: ["5 %", "95 %"], low: low!, high: high! });
    }
    this.inner = inner;
    await this.fetchAhead(signal);
  }

  /** What the next layer will be asked for: the server keeps its answer. Once a layer, for a run that grows has others soon. */
  private async fetchAhead(signal: AbortSignal): Promise<void> {
    const { path, next } = this.wish!;
    if (frozen() || next.length === 0 || this.aheadOf === path) return;
    this.aheadOf = path;
    const asked = api.series(this.run, { tensors: next, statistics: OF_PARAMETER }, { ...this.inside(), buckets: POINTS }, signal);
    await asked.catch(() => undefined); // who goes there is told what is the matter
  }

  private async fetchSpread(signal: AbortSignal): Promise<void> {
    const wanted = this.wish?.spread;
    if (!wanted) return;
    const spread = await spreadOf(this.run, wanted.tensor, wanted.quantity, { ...this.window(), buckets: wanted.most }, signal);
    this.spread = spread;
    this.spreadOf = `${wanted.tensor} ${wanted.quantity}`;
  }

  private async guarded(signal: AbortSignal, work: () => Promise<void>): Promise<void> {
    try {
      await work();
      this.trouble = "";
    } catch (error) {
      if (!signal.aborted && error instanceof api.Refused) this.trouble = error.message;
    }
  }
}

export const MOST = 8; // parameters of one layer that have lines
export const full = (tensor: Pick<api.Tensor, "model" | "name">): string => `${tensor.model}:${tensor.name}`;
const same = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b);

/** One line with the band of two others: mean between least and greatest. */
export function banded(mean: api.Line | undefined, low: api.Line | undefined, high: api.Line | undefined): api.Line | undefined {
  if (!mean) return undefined;
  const fits = (other: api.Line | undefined): other is api.Line => other !== undefined && other.first.length === mean.first.length;
  return { ...mean, min: fits(low) ? low.min : mean.min, max: fits(high) ? high.max : mean.max };
}
