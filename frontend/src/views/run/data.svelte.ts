// The numbers of one run: what is chosen is fetched together, again whenever the run has grown.
import * as api from "../../api.ts";
import type { Range } from "../../chart/scale.ts";
import { frozen } from "../../state/frozen.ts";
import { Pace } from "../../state/pace.ts";

const OLDER = 4; // attempts whose steps that were taken again are drawn

export interface Wanted {
  tensors: string[];
  statistics: string[];
  metric: string | null;
  steps: Range | null;
}

export class RunData {
  detail = $state.raw<api.RunDetail | null>(null);
  tensors = $state.raw<api.Tensor[] | null>(null);
  catalogue = $state.raw<api.Statistic[]>([]);
  lines = $state.raw(new Map<string, api.Line>()); // by `key`
  loss = $state.raw<api.Line | null>(null);
  older = $state.raw<api.Line[]>([]); // the same of steps that a later attempt took again
  clock = $state.raw<api.Line | null>(null); // where the axis shows time
  seconds = $state.raw<Range | null>(null); // of training, at the run's first and last step; where the axis shows time
  trouble = $state(""); // of the run itself
  lossTrouble = $state("");
  seriesTrouble = $state("");

  private isWanted = false; // some pages of a run show no loss
  private wanted: Wanted = { tensors: [], statistics: [], metric: null, steps: null };
  private timed: { steps: Range | null } | null = null; // null = the axis shows steps
  private readonly name: string;
  private readonly facts: Pace;
  private readonly lossPace: Pace;
  private readonly seriesPace: Pace;
  private readonly clockPace: Pace;

  constructor(name: string) {
    this.name = name;
    this.facts = new Pace((signal) => this.fetchFacts(signal), 2000);
    this.lossPace = new Pace((signal) => this.fetchLoss(signal));
    this.seriesPace = new Pace((signal) => this.fetchSeries(signal));
    this.clockPace = new Pace((signal) => this.fetchClock(signal));
    this.facts.now();
  }

  static key(tensor: string, statistic: string): string {
    return `${tensor}\0${statistic}`;
  }

  /** The reader wants something else. */
  want(wanted: Wanted): void {
    const before = this.wanted;
    this.wanted = wanted;
    const isFirst = !this.isWanted;
    this.isWanted = true;
    const newSteps = String(before.steps) !== String(wanted.steps);
    if (newSteps || before.metric !== wanted.metric || isFirst || this.lossTrouble) this.lossPace.now();
    if (newSteps || String(before.tensors) !== String(wanted.tensors) || String(before.statistics) !== String(wanted.statistics)) this.seriesPace.now();
  }

  /** The axis shows the time of these steps (null: of all), or steps. */
  wantTime(isOn: boolean, steps: Range | null): void {
    this.timed = isOn ? { steps } : null;
    if (isOn) this.clockPace.now();
    else this.clock = null;
  }

  /** The run has grown. */
  grown(): void {
    this.facts.soon();
    if (this.isWanted) this.lossPace.soon();
    this.seriesPace.soon();
    if (this.timed) this.clockPace.soon();
  }

  stop(): void {
    for (const pace of [this.facts, this.lossPace, this.seriesPace, this.clockPace]) pace.stop();
  }

  private window(): api.Window {
    const steps = this.wanted.steps;
    return steps ? { start: steps[0], stop: steps[1] + 1 } : {};
  }

  private async fetchFacts(signal: AbortSignal): Promise<void> {
    await this.guarded(signal, (sentence) => (this.trouble = sentence), async () => {
      const isFirst = this.detail === null; // then all is wanted, and asked for at once
      const [catalogue, detail, tensors] = await Promise.all([
        this.catalogue.length ? this.catalogue : api.statistics(signal),
        api.run(this.name, signal),
        isFirst ? api.tensors(this.name, signal) : this.tensors,
      ]);
      this.catalogue = catalogue;
      this.tensors = tensors?.length === detail.tensors ? tensors : await api.tensors(this.name, signal);
      const before = this.detail?.attempts.length ?? 1;
      this.detail = detail;
      if (detail.attempts.length > before) this.lossPace.now();
    });
  }

  private async fetchLoss(signal: AbortSignal): Promise<void> {
    await this.guarded(signal, (sentence) => (this.lossTrouble = sentence), async () => {
      const { metric } = this.wanted;
      this.loss = await api.loss(this.name, metric, this.window(), signal);
      const again = (this.detail?.attempts ?? []).filter((one) => one.last_step > one.kept_until).slice(-OLDER);
      if (frozen() || (!again.length && !this.older.length)) return;
      this.older = await Promise.all(again.map((one) => api.loss(this.name, metric, this.within(one), signal, one.number)));
    });
  }

  /** The steps of an attempt that were taken again, as far as they are shown. */
  private within(one: api.Attempt): api.Window {
    const { start = 0, stop = Infinity } = this.window();
    return { start: Math.max(start, one.kept_until + 1), stop: Math.min(stop, one.last_step + 1) };
  }

  private async fetchSeries(signal: AbortSignal): Promise<void> {
    const { tensors, statistics } = this.wanted;
    if (tensors.length === 0 || statistics.length === 0) return;
    await this.guarded(signal, (sentence) => (this.seriesTrouble = sentence), async () => {
      const found = await api.series(this.name, { tensors, statistics }, this.window(), signal);
      const lines = new Map<string, api.Line>();
      tensors.forEach((tensor, i) => {
        statistics.forEach((statistic, j) => lines.set(RunData.key(tensor, statistic), found[i * statistics.length + j]!));
      });
      this.lines = lines;
    });
  }

  private async fetchClock(signal: AbortSignal): Promise<void> {
    await this.guarded(signal, (sentence) => (this.lossTrouble = sentence), async () => {
      const steps = this.timed?.steps;
      const [clock, ends] = await Promise.all([
        api.clock(this.name, steps ? { start: steps[0], stop: steps[1] + 1 } : {}, signal),
        steps ? api.clock(this.name, { buckets: 2 }, signal) : null,
      ]);
      if (!this.timed) return;
      this.clock = clock.first.length ? clock : null;
      const whole = (ends ?? clock).mean;
      this.seconds = whole.length ? [whole[0]!, whole.at(-1)!] : null;
    });
  }

  /** What the server refuses is told in its place; a lost connection keeps what is shown. */
  private async guarded(signal: AbortSignal, tell: (sentence: string) => void, work: () => Promise<void>): Promise<void> {
    try {
      await work();
      tell("");
    } catch (error) {
      if (!signal.aborted && error instanceof api.Refused) tell(error.message);
    }
  }
}
