// What the rules say of a run.
import { json } from "../api.ts";
import { brief } from "../names.ts";

export type Numeric = number | "NaN" | "Infinity" | "-Infinity";

export type Evidence =
  | { kind: "value"; name: string; value: Numeric; limit: Numeric | null; unit: string }
  | { kind: "series"; name: string; steps: number[]; values: Numeric[]; limit: Numeric | null }
  | { kind: "histogram"; name: string; edges: Numeric[]; counts: number[] }
  | { kind: "table"; name: string; columns: string[]; rows: (string | number | null)[][] }
  | { kind: "setting"; name: string; value: string };

export interface Finding {
  rule: string;
  title: string; // of the rule
  severity: "error" | "warning" | "note";
  certainty: "proof" | "test" | "heuristic";
  place: string;
  first_step: number;
  told_step: number;
  message: string;
  evidence: Evidence[];
  fix: string;
  experiment?: string; // what would prove it wrong
  explains: string[];
  follows_from_muted?: string[]; // keys
  key: string;
}

/** One that somebody has judged and put aside for this run. */
export interface Muted extends Finding {
  reason: string;
}

export interface RuleAnswer {
  rule: string;
  title: string;
  outcome: "found" | "clear" | "not applicable" | "not enough data" | "failed";
  reason: string;
}

export interface Findings {
  pending: boolean;
  known: boolean;
  error: string;
  steps: number;
  findings: Finding[];
  muted: Muted[];
  causes: string[]; // keys
  undetermined?: string;
  rules: RuleAnswer[];
}

export async function findingsOf(run: string, signal?: AbortSignal): Promise<Findings> {
  const told = (await json("findings", { run }, signal)) as Findings;
  const named = <One extends Finding>(one: One): One => ({ ...one, key: keyOf(one) });
  return { ...told, findings: told.findings.map(named), muted: (told.muted ?? []).map(named) };
}

export function keyOf(finding: Pick<Finding, "rule" | "place">): string {
  return finding.place ? `${finding.rule} at ${finding.place}` : finding.rule;
}

export function numberOf(value: Numeric | null | undefined): number {
  return value === null || value === undefined ? NaN : Number(value);
}

/** A sentence that names findings by their keys, with their titles instead. */
export function inTitles(text: string, findings: readonly Finding[]): string {
  const by = new Map(findings.map((one) => [one.key, one]));
  const keys = [...by.keys()].sort((a, b) => b.length - a.length).map((key) => key.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  if (keys.length === 0) return text;
  return text.replace(new RegExp(`(?<![\\w-])(?:${keys.join("|")})(?![\\w.])`, "g"), (key) => {
    const { title, place } = by.get(key)!;
    return `“${title}”${place ? ` at ${brief(place, 30)}` : ""}`;
  });
}

/** How many there are, where no cause is in front. */
export function counted(findings: readonly Pick<Finding, "follows_from_muted">[]): string {
  const [all, aside] = [findings.length, findings.filter((one) => one.follows_from_muted?.length).length];
  const many = `${all} ${all === 1 ? "finding" : "findings"}`;
  if (aside === 0) return `${many}, none that breaks the training.`;
  if (aside === all) return `${many}, which ${all === 1 ? "follows" : "follow"} from what is muted.`;
  return `${many}, ${aside} of which ${aside === 1 ? "follows" : "follow"} from what is muted.`;
}

const RANK = { error: 0, warning: 1, note: 2 };

/** The gravest severity; null where nothing was found. */
export function worst(findings: readonly Pick<Finding, "severity">[]): Finding["severity"] | null {
  return findings.reduce<Finding["severity"] | null>((found, one) => (found === null || RANK[one.severity] < RANK[found] ? one.severity : found), null);
}

/** How it is known, in words. */
export const CERTAINTY: Record<Finding["certainty"], string> = {
  proof: "exact, seen in the numbers",
  test: "a statistical test",
  heuristic: "a rule of thumb, with a second sign",
};

/** from step 400, told at 402 */
export function since(finding: Pick<Finding, "first_step" | "told_step">, whole: (step: number) => string): string {
  if (finding.first_step < 0) return "before training";
  const told = finding.told_step !== finding.first_step ? `, told at ${whole(finding.told_step)}` : "";
  return `${told ? "from" : "at"} step ${whole(finding.first_step)}${told}`;
}

/** The piece of evidence that is drawn beside the words. */
export function strongest(evidence: readonly Evidence[]): Evidence | null {
  const size = (one: Evidence): number =>
    one.kind === "series" ? (one.values.length > 1 ? 4 : 1.5) : one.kind === "histogram" ? 3 : one.kind === "table" ? (one.rows.length > 1 ? 2 : 1.2) : one.kind === "value" ? 1 : 0.5;
  return evidence.reduce<Evidence | null>((best, one) => (best === null || size(one) > size(best) ? one : best), null);
}
