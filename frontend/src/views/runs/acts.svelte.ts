// What is done to runs: at once, with a way back for 30 seconds.
import { act, Refused } from "../../api.ts";

interface Undo {
  text: string;
  until: number; // ms
  back: () => Promise<unknown>;
}

const plural = (names: readonly string[]): string => (names.length === 1 ? names[0]! : `${names.length} runs`);

export class Acts {
  undo = $state.raw<Undo | null>(null);
  left = $state(0); // seconds
  trouble = $state("");
  private readonly timer: ReturnType<typeof setInterval>;
  private readonly changed: (back: boolean) => void;

  constructor(changed: (back: boolean) => void) {
    this.changed = changed;
    this.timer = setInterval(() => this.tick(), 500);
  }

  stop(): void {
    clearInterval(this.timer);
  }

  label(names: readonly string[], change: { add?: string[]; remove?: string[]; note?: string }): Promise<boolean> {
    return this.doing(() => act("label", { runs: names, ...change }));
  }

  async archive(names: readonly string[], archived: boolean): Promise<boolean> {
    const back = (): Promise<unknown> => act("label", { runs: names, archived: !archived });
    const done = await this.doing(() => act("label", { runs: names, archived }));
    if (done) this.offer(`${plural(names)} ${archived ? "archived" : "taken back from the archive"}.`, 30, back);
    return done;
  }

  async remove(names: readonly string[]): Promise<boolean> {
    return this.doing(async () => {
      const done = (await act("delete", { runs: names })) as { undo: string; seconds: number };
      this.offer(`${plural(names)} deleted.`, done.seconds, () => act("undo", { undo: done.undo }));
    });
  }

  async takeBack(): Promise<void> {
    const { undo } = this;
    this.undo = null;
    if (undo) await this.doing(undo.back, true);
  }

  private offer(text: string, seconds: number, back: Undo["back"]): void {
    this.undo = { text, until: Date.now() + seconds * 1000, back };
    this.tick();
  }

  private tick(): void {
    if (!this.undo) return;
    this.left = Math.max(0, Math.ceil((this.undo.until - Date.now()) / 1000));
    if (this.left === 0) this.undo = null;
  }

  private async doing(work: () => Promise<unknown>, back = false): Promise<boolean> {
    try {
      await work();
      this.trouble = "";
      return true;
    } catch (error) {
      this.trouble = error instanceof Refused ? error.message : "The server does not answer; nothing was changed.";
      return false;
    } finally {
      this.changed(back);
    }
  }
}
