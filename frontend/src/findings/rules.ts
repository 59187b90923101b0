// What the rules are: their files' own words.
import { json } from "../api.ts";

export interface RuleText {
  id: string;
  title: string;
  severity: "error" | "warning" | "note";
  certainty: "proof" | "test" | "heuristic";
  since: string;
  reads: string[];
  causes: string[];
  summary: string;
  sections: Record<string, string>; // in their order
  limits: Record<string, number>; // behind the names in capitals
}

let asked: Promise<RuleText[]> | null = null;

/** All rules; asked once for the whole page. */
export function rulesOf(): Promise<RuleText[]> {
  asked ??= (json("rules", {}) as Promise<RuleText[]>).catch((error: unknown) => {
    asked = null;
    throw error;
  });
  return asked;
}
