// How far a run has grown, as the server tells it. The events carry facts only; charts fetch what they need themselves.
// A hidden tab lets go of its connection: browsers allow six to one server, and six open tabs would use them up.
import { address, run, withNumbers, type RunFacts } from "../api.ts";
import { frozen, renewed } from "./frozen.ts";

const SILENCE_MS = 20_000; // of a kernel that speaks at least every five seconds

export class Live {
  facts = $state.raw<RunFacts | null>(null);
  trouble = $state("");
  connected = $state(true);
  private source: EventSource | null = null;
  private deaf: (() => void) | null = null; // stops listening to the page around
  private silence: ReturnType<typeof setTimeout> | undefined;

  private readonly run: string;

  constructor(run: string) {
    this.run = run;
    document.addEventListener("visibilitychange", this.seen);
    this.seen();
  }

  close(): void {
    document.removeEventListener("visibilitychange", this.seen);
    this.source?.close();
    this.source = null;
    this.deaf?.();
    clearTimeout(this.silence);
  }

  private readonly seen = (): void => {
    if (document.hidden) {
      this.source?.close();
      this.source = null;
    } else if (!this.source) {
      this.open();
    }
  };

  private open(): void {
    const held = frozen();
    if (held) {
      if (held.grows) this.deaf ??= renewed(() => void this.hear());
      return; // written into a file: it grows no more
    }
    const source = new EventSource(address("growth", { run: this.run }));
    source.addEventListener("open", () => (this.connected = true));
    source.addEventListener("error", () => {
      this.connected = false;
      if (source.readyState === EventSource.CLOSED && this.source === source) {
        this.source = null; // refused for good: try again later, the server may be a new one
        setTimeout(() => this.seen(), 3000);
      }
    });
    source.addEventListener("grown", (event) => {
      this.connected = true;
      this.trouble = "";
      this.facts = withNumbers(JSON.parse((event as MessageEvent<string>).data) as RunFacts);
    });
    source.addEventListener("trouble", (event) => {
      this.trouble = String((JSON.parse((event as MessageEvent<string>).data) as { error?: string }).error ?? "");
    });
    this.source = source;
  }

  /** Something has come from the kernel. It says so when nothing is new, too: silence means that it has gone. */
  private async hear(): Promise<void> {
    clearTimeout(this.silence);
    this.connected = true;
    try {
      this.facts = await run(this.run);
    } catch {
      // the next answer tells
    }
    if (this.facts?.state === "live") this.silence = setTimeout(() => (this.connected = false), SILENCE_MS);
  }
}
