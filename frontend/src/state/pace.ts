// Asking again while a run grows: at most four times a second, and never more than a quarter of the time, so that a
// slow disk or a long run slows the page down and not the training beside it.
const SHORTEST_MS = 250;
const REST = 3; // times as long at rest as the last answer took

/** Over after so long; at once, with an error, where what it is for is dropped. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((done, drop) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), drop(signal.reason as Error)));
  });
}

export class Pace {
  private running = false;
  private again = false;
  private isChosen = false; // what is asked again was chosen by somebody, who waits
  private timer: ReturnType<typeof setTimeout> | undefined;
  private abort = new AbortController();
  private freeAt = 0;

  private readonly work: (signal: AbortSignal) => Promise<void>;
  private readonly shortest: number;

  constructor(work: (signal: AbortSignal) => Promise<void>, shortest = SHORTEST_MS) {
    this.work = work;
    this.shortest = shortest;
  }

  /** Something has grown: do the work soon. Many calls are one. */
  soon(): void {
    if (this.running) {
      this.again = true;
      return;
    }
    if (this.timer !== undefined) return;
    this.timer = setTimeout(() => void this.start(), Math.max(0, this.freeAt - performance.now()));
  }

  /** Another one of the same kind is chosen, perhaps many in a row (a slider, play): at once, or as soon as the one under way is there. */
  next(): void {
    if (this.running) {
      this.again = this.isChosen = true;
      return;
    }
    clearTimeout(this.timer);
    void this.start();
  }

  /** What is wanted has changed: drop what is under way, do the work at once. */
  now(): void {
    this.stop();
    this.abort = new AbortController();
    void this.start();
  }

  stop(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.abort.abort();
    this.running = this.again = this.isChosen = false;
  }

  private async start(): Promise<void> {
    this.timer = undefined;
    this.running = true;
    const { signal } = this.abort;
    const began = performance.now();
    try {
      await this.work(signal);
    } finally {
      if (!signal.aborted) {
        const took = performance.now() - began;
        this.freeAt = performance.now() + Math.max(this.shortest - took, REST * took);
        this.running = false;
        const { again, isChosen } = this;
        this.again = this.isChosen = false;
        if (isChosen) this.next();
        else if (again) this.soon();
      }
    }
  }
}
