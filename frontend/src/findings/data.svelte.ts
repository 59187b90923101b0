// The findings of one run: asked for until the rules have answered, and again when the run has grown.
import { act, Refused } from "../api.ts";
import { Pace } from "../state/pace.ts";
import { findingsOf, type Finding, type Findings, type Muted } from "./findings.ts";

const AGAIN_MS = 700;

export class FindingsData {
  told = $state.raw<Findings | null>(null);
  trouble = $state("");
  private timer: ReturnType<typeof setTimeout> | undefined;
  private readonly pace: Pace;

  constructor(run: string) {
    this.pace = new Pace(async (signal) => {
      try {
        this.told = await findingsOf(run, signal);
        this.trouble = this.told.error;
        if (this.told.pending) this.timer = setTimeout(() => this.pace.soon(), AGAIN_MS);
      } catch (error) {
        if (!signal.aborted && error instanceof Refused) this.trouble = error.message;
      }
    }, 1000);
    this.pace.now();
  }

  grown(): void {
    this.pace.soon();
  }

  stop(): void {
    clearTimeout(this.timer);
    this.pace.stop();
  }

  get all(): Finding[] {
    return this.told?.findings ?? [];
  }

  /** Judged by somebody and put aside; not among all. */
  get muted(): Muted[] {
    return this.told?.muted ?? [];
  }

  /** Put one aside for this run, or take it back. Gives a sentence where that is refused. */
  async mute(run: string, key: string, reason: string | null): Promise<string> {
    try {
      await act("label", { runs: [run], ...(reason === null ? { unmute: [key] } : { mute: { [key]: reason } }) });
      this.told = await findingsOf(run);
      return "";
    } catch (error) {
      return error instanceof Refused ? error.message : "The server does not answer; nothing was changed.";
    }
  }

  /** The likeliest first. */
  get causes(): Finding[] {
    return (this.told?.causes ?? []).flatMap((key) => this.all.find((one) => one.key === key) ?? []);
  }

  byKey(key: string): Finding | undefined {
    return this.all.find((one) => one.key === key);
  }
}
