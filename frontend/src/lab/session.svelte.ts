// A training on the server, as this page sees it: commands go by POST, what there is to see comes as events. The stream is its
// life line: closed, the training ends.
import { address } from "../api.ts";
import { Trace, type Code, type Findings, type Frame, type Known, type Opened } from "./lab.ts";

type Told = { event: string; id?: number; error?: string; [name: string]: unknown };

export class Session {
  known = $state.raw<Known | null>(null);
  opened = $state.raw<Opened | null>(null);
  frame = $state.raw<Frame | null>(null);
  trace = $state.raw(new Trace());
  findings = $state.raw<Findings | null>(null);
  code = $state.raw<Code | null>(null);
  ahead = $state(0); // trainings before this one
  keeps = $state(true); // can runs be kept here?
  kept = $state(""); // name of the run
  keptTwin = $state(""); // and of its twin's
  refused = $state(""); // the last thing that could not be done
  trouble = $state(""); // why nothing goes on
  connected = $state(false);
  link = ""; // of the training that is open or was asked for
  until = 0; // a training that is opened plays up to this step

  private token = "";
  private source: EventSource | null = null;
  private id = 0;
  private again: ReturnType<typeof setTimeout> | undefined;
  private closed = false;
  private readonly leaving = new AbortController();
  private next: Opened | null = null; // takes the place of what is shown with its first frame, so that nothing goes away meanwhile
  private sent = Promise.resolve();

  constructor() {
    this.connect();
  }

  close(): void {
    this.closed = true;
    clearTimeout(this.again);
    this.leaving.abort(); // a command on its way would ask for a training that has ended with the stream
    this.source?.close();
    this.source = null;
    this.token = "";
  }

  /** Begin this training at step 0. */
  open(link: string): void {
    this.link = link;
    this.id++;
    this.refused = this.kept = this.keptTwin = "";
    this.findings = this.code = null;
    this.still();
    if (this.source) void this.send({ do: "open", link, id: this.id });
    else this.connect();
  }

  tell(what: string, more: Record<string, unknown> = {}): void {
    this.refused = "";
    if (this.source) void this.send({ do: what, ...more });
    else this.open(this.link);
  }

  private connect(): void {
    this.trouble = "";
    const source = new EventSource(address("lab/events", {}));
    source.onmessage = (event: MessageEvent<string>) => this.hear(JSON.parse(event.data) as Told);
    source.onerror = () => {
      if (this.source !== source) return;
      const had = this.connected;
      this.end(had ? "The connection to the server was lost; the training ended with it. This page tries again." : "The server does not answer. This page tries again.");
      if (!this.closed) this.again = setTimeout(() => this.source === null && this.connect(), 3000);
    };
    this.source = source;
  }

  private end(why: string): void {
    this.source?.close();
    this.source = null;
    this.token = "";
    this.ahead = 0;
    this.connected = false;
    this.still();
    this.trouble = why;
  }

  /** What is shown does not move any more. */
  private still(): void {
    if (this.frame?.playing) this.frame = { ...this.frame, playing: false };
  }

  /** One after the other: requests that are under way together may arrive in any order. */
  private send(command: Record<string, unknown>): Promise<void> {
    return (this.sent = this.sent.then(() => this.post(command)));
  }

  private async post(command: Record<string, unknown>): Promise<void> {
    if (!this.token) return; // what is open is asked for once there is a session
    try {
      const answer = await fetch(address("lab/tell", { session: this.token }), { method: "POST", body: JSON.stringify(command), signal: this.leaving.signal });
      const { ended, error } = (await answer.json()) as { ended?: string; error?: string };
      if (ended || !answer.ok) this.refused = ended ?? error ?? `The server answered ${answer.status}.`;
    } catch {
      this.refused = "The server does not answer.";
    }
  }

  private hear(told: Told): void {
    if (told.event === "session") {
      this.token = String(told.session);
      this.keeps = Boolean(told.keeps);
      this.connected = true;
      this.id++;
      void this.send({ do: "open", link: this.link, id: this.id });
    } else if (told.event === "waiting") this.ahead = Number(told.ahead);
    else if (told.event === "hello") {
      this.ahead = 0;
      this.known = told as unknown as Known;
    } else if (told.event === "trouble" || told.event === "ended") this.end(String(told.error));
    else if (told.id === this.id) this.show(told);
  }

  /** Of the training that was asked for last; older ones are dropped. */
  private show(told: Told): void {
    if (told.event === "opened") {
      this.next = told as unknown as Opened;
      if (this.until > 0) void this.send({ do: "play", until: this.until });
    } else if (told.event === "frame") {
      const frame = told as unknown as Frame;
      if (this.next) [this.opened, this.trace, this.next] = [this.next, new Trace(), null];
      this.trace.add(frame.trace);
      this.trace = Object.assign(new Trace(), this.trace); // a new object, so that whoever draws it sees that it has grown
      this.frame = frame;
    } else if (told.event === "findings") this.findings = told as unknown as Findings;
    else if (told.event === "code") this.code = told as unknown as Code;
    else if (told.event === "kept") [this.kept, this.keptTwin] = [String(told.run), String(told.twin ?? "")];
    else if (told.event === "refused") this.refused = String(told.error);
  }
}
