// Asks for the list while it is shown, and for the rows that are on the screen.
import { Refused } from "../../api.ts";
import { Pace } from "../../state/pace.ts";
import { listingOf, mayChange, merged, rowsOf, type Group, type Listing, type Row, type Wish } from "./runs.ts";

const LOOK_EVERY_MS = 1500;
const NONE: Omit<Listing, "folder" | "now" | "counts" | "wrong" | "locked"> = { order: "", groups: [], differing: [], settings: [], metrics: [], tags: [], top: 1, steps: 1 };

export class RunsData {
  list = $state.raw<Listing | null>(null);
  groups = $state.raw<Group[]>([]); // in the order in which they stand on the screen
  fresh = $state(0); // runs that wait for "show"
  moved = $state(false);
  rows = $state.raw<ReadonlyMap<string, Row>>(new Map());
  trouble = $state(""); // no answer
  wrong = $state(""); // what is wrong with the search
  private seen: readonly string[] = [];
  private told: Group[] = [];
  private asked = "";
  private wish: Wish = { q: "", sort: "-started", group: "" };
  private readonly timer: ReturnType<typeof setInterval>;
  private readonly names = new Pace((signal) => this.look(signal));
  private readonly lines = new Pace((signal) => this.fetch(signal));

  constructor() {
    this.timer = setInterval(() => {
      if (document.hidden) return;
      this.names.soon();
      if (this.seen.some((name) => mayChange(this.rows.get(name)))) this.lines.soon();
    }, LOOK_EVERY_MS);
  }

  stop(): void {
    clearInterval(this.timer);
    this.names.stop();
    this.lines.stop();
  }

  /** Another search, order or grouping: shown as soon as it is there. */
  want(wish: Wish): void {
    this.wish = wish;
    this.names.now();
  }

  /** Something was changed by hand; `back`: runs are there again, and whoever wanted them sees them at once. */
  changed(back = false): void {
    if (back) this.asked = "";
    this.names.now();
    this.lines.now();
  }

  /** These are on the screen. */
  watch(names: readonly string[]): void {
    this.seen = names;
    if (names.some((name) => !this.rows.has(name))) this.lines.now();
  }

  /** The server's order, with what is new. */
  show(): void {
    this.groups = this.told;
    this.fresh = 0;
    this.moved = false;
  }

  private async look(signal: AbortSignal): Promise<void> {
    const key = JSON.stringify(this.wish);
    try {
      const list = await listingOf(this.wish, key === this.asked ? (this.list?.order ?? "") : "", signal);
      this.trouble = "";
      this.wrong = list.wrong;
      if (list.wrong) this.list ??= { ...NONE, ...list };
      else this.take(list, key !== this.asked);
      this.asked = list.wrong ? "" : key;
      if (list.counts.unread) this.names.soon();
    } catch (error) {
      if (!signal.aborted) this.trouble = error instanceof Refused ? error.message : "The server does not answer; shown as last seen.";
    }
  }

  private take(list: Listing, isOther: boolean): void {
    const wasReading = (this.list?.counts.unread ?? 1) > 0;
    this.list = list;
    if (!list.groups) return;
    this.told = list.groups;
    if (isOther || wasReading) return this.show();
    const { groups, fresh, moved } = merged(this.groups, list.groups);
    this.groups = groups;
    this.fresh = fresh;
    this.moved = moved;
  }

  private async fetch(signal: AbortSignal): Promise<void> {
    try {
      const found = await rowsOf(this.seen, signal);
      const kept = new Map(this.rows);
      for (const row of found) kept.set(row.name, row);
      this.rows = kept;
    } catch {
      // the list says what is wrong
    }
  }
}
