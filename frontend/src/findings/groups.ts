// Findings as they are listed: each cause, and under it what follows from it.
import type { Finding } from "./findings.ts";

export interface Listed {
  finding: Finding;
  follows: boolean; // from the one above
}

/** Causes first, in their order, each with what it explains; then what nothing explains. Each finding once. */
export function listed(findings: readonly Finding[], causes: readonly string[]): Listed[] {
  const byKey = new Map(findings.map((one) => [one.key, one]));
  const explained = new Set(findings.flatMap((one) => one.explains));
  const heads = [...causes, ...findings.map((one) => one.key).filter((key) => !causes.includes(key) && !explained.has(key))];
  const done = new Set<string>();
  const found: Listed[] = [];
  const add = (key: string, follows: boolean): void => {
    const finding = byKey.get(key);
    if (!finding || done.has(key)) return;
    done.add(key);
    found.push({ finding, follows });
  };
  for (const key of heads) {
    add(key, false);
    for (const other of byKey.get(key)?.explains ?? []) if (!causes.includes(other)) add(other, true);
  }
  for (const finding of findings) add(finding.key, false);
  return found;
}

export interface Bundle {
  head: Finding;
  followers: Finding[];
}

/** The same, each with what stands under it. */
export function bundled(list: readonly Listed[]): Bundle[] {
  const found: Bundle[] = [];
  for (const { finding, follows } of list) {
    if (follows && found.length) found.at(-1)!.followers.push(finding);
    else found.push({ head: finding, followers: [] });
  }
  return found;
}

/** How many of each severity, the gravest first. */
export function countsOf(findings: readonly Finding[]): { severity: Finding["severity"]; count: number }[] {
  return (["error", "warning", "note"] as const).map((severity) => ({ severity, count: findings.filter((one) => one.severity === severity).length })).filter((one) => one.count > 0);
}
