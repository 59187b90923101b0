// The picture of one run: fetched when something else is wanted, and again whenever the run has grown. The range of colours is
// fixed at first sight of a statistic, so that the same colour stays the same number while the run grows.
import { Refused } from "../api.ts";
import { Pace } from "../state/pace.ts";
import { heatOf, type Domain, type Heat, type HeatWanted } from "./heat.ts";

type Wish = Omit<HeatWanted, "domain">;

export class HeatData {
  heat = $state.raw<Heat | null>(null);
  domain = $state.raw<Domain | null>(null);
  trouble = $state("");
  busy = $state(false);

  private wish: Wish | null = null;
  private readonly pace: Pace;
  private readonly run: string;

  constructor(run: string) {
    this.run = run;
    this.pace = new Pace((signal) => this.fetch(signal));
  }

  want(wish: Wish): void {
    const before = this.wish;
    if (before && isNear(before, wish)) return;
    this.wish = wish;
    if (before?.stat !== wish.stat) this.domain = null;
    this.pace.now();
  }

  grown(): void {
    if (this.wish) this.pace.soon();
  }

  /** The range of what is there now. */
  refit(): void {
    this.domain = null;
    this.pace.now();
  }

  stop(): void {
    this.pace.stop();
  }

  /** Nobody looks any more, and the run has grown: the next wish is asked for, though it be the same. */
  stale(): void {
    this.wish = null;
  }

  private async fetch(signal: AbortSignal): Promise<void> {
    const wish = this.wish;
    if (!wish) return;
    this.busy = true;
    try {
      const heat = await heatOf(this.run, { ...wish, domain: this.domain }, signal);
      this.domain ??= heat.domain;
      this.heat = heat;
      this.trouble = "";
    } catch (error) {
      if (!signal.aborted) this.trouble = error instanceof Refused ? error.message : "The server does not answer; shown as last seen.";
    } finally {
      if (!signal.aborted) this.busy = false;
    }
  }
}

/** The same, or the same in a few columns more or less: a bar at the side of the page has come or gone. */
function isNear(one: Wish, other: Wish): boolean {
  const [a, b] = [one.buckets ?? 0, other.buckets ?? 0];
  return Math.abs(a - b) < 0.03 * a && JSON.stringify({ ...one, buckets: b }) === JSON.stringify(other);
}
