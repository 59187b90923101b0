import type { RunFacts } from "../../api.ts";
import type { FindingsData } from "../../findings/data.svelte.ts";
import type { RunData } from "./data.svelte.ts";

/** What the pages of one run share. */
export interface OfRun {
  run: string;
  data: RunData;
  facts: RunFacts;
  findings: FindingsData;
}
