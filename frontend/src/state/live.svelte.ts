// How far a run has grown, as the server tells it. The events carry facts only; charts fetch what they need themselves.
// A hidden tab lets go of its connection: browsers allow six to one server, and six open tabs would use them up.
import { address, run, withNumbers, type RunFacts } from "../api.ts";
import { frozen, renewed } from "./frozen.ts";

export class Live {
  facts = $state.raw<RunFacts | null>(null);
  trouble = $state("");
  connected = $state(true);
  private source: EventSource | null = null;
  private deaf: (() => void) | null = null; // stops listening to the page around

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

  private async hear(): Promise<void> {
    try {
      this.facts = await run(this.run);
    } catch {
      // the next answer tells
    }
  }
}
