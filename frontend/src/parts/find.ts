// What can be gone to from anywhere: pages, and in a run its layers, findings and settings; runs and what they are set to; rules.
import { runNames, tensors } from "../api.ts";
import { findingsOf } from "../findings/findings.ts";
import { rulesOf } from "../findings/rules.ts";
import { ownerOf } from "../heat/heat.ts";
import { matches } from "../names.ts";
import { addressOfRun } from "../state/route.svelte.ts";
import { rowsOf } from "../views/runs/runs.ts";

export interface Goal {
  kind: string;
  title: string;
  about: string;
  address: string;
}

export const MOST = 40; // that are listed

const PAGES: Goal[] = [["Runs", "/"], ["Compare", "/compare"], ["Lab", "/lab"], ["Rules", "/rules"]].map(([title, address]) => ({ kind: "page", title: title!, about: "", address: address! }));
const TABS = [["At a glance", ""], ["Network", "network"], ["Tensors", "tensors"], ["Findings", "findings"], ["Before training", "before"]];

/** Lists come as they are answered; what is not answered is left out. */
export function goalsOf(run: string, signal: AbortSignal): Promise<Goal[]>[] {
  const of = (): Promise<Goal[]>[] => [
    layersOf(run, signal),
    findingsOf(run, signal).then((told) => told.findings.map((one) => ({ kind: "finding", title: one.title, about: one.place, address: addressOfRun(run, "findings", one.key) }))),
    settingsOf(run, signal),
    Promise.resolve(TABS.map(([title, tab]) => ({ kind: "page", title: title!, about: run, address: addressOfRun(run, tab) }))),
  ];
  const all = [
    runNames(signal).then(({ names, settings }) => [
      ...names.map((name) => ({ kind: "run", title: name, about: "", address: addressOfRun(name) })),
      ...settings.map((name) => ({ kind: "setting", title: name, about: "of all runs, as a column", address: `/?${new URLSearchParams({ column: name })}` })),
    ]),
    rulesOf().then((rules) => rules.map((rule) => ({ kind: "rule", title: rule.title, about: rule.id, address: `/rules/${rule.id}` }))),
    Promise.resolve(PAGES),
  ];
  return [...(run ? of() : []), ...all].map((one) => one.catch(() => []));
}

/** One goal for each module that has parameters, with what they are called. */
async function layersOf(run: string, signal: AbortSignal): Promise<Goal[]> {
  const all = await tensors(run, signal);
  const several = all.some((one) => one.model !== all[0]!.model);
  const found = new Map<string, Goal>();
  for (const one of all) {
    const path = ownerOf(one.name);
    const key = several ? `${one.model}:${path}` : path;
    const own = one.name.slice(path ? path.length + 1 : 0);
    const before = found.get(key);
    if (before) before.about += `, ${own}`;
    else found.set(key, { kind: "layer", title: key || one.name, about: `${one.module}: ${own}`, address: addressOfRun(run, "layer", key || ".") });
  }
  return [...found.values()];
}

/** What this run is set to; each leads to all runs that are set so. */
async function settingsOf(run: string, signal: AbortSignal): Promise<Goal[]> {
  const rows = await rowsOf([run], signal);
  return Object.entries(rows[0]?.settings ?? {}).map(([name, value]) => {
    const searched = /[\s"]/.test(value) ? `${name}="${value.replaceAll('"', "")}"` : `${name}=${value}`;
    return { kind: "setting", title: `${name} = ${value}`, about: "of this run, and of which others", address: `/?${new URLSearchParams({ q: searched })}` };
  });
}

/** Those that hold all the words; whose title begins with them first. */
export function fitting(goals: readonly Goal[], words: string): Goal[] {
  const low = words.trim().toLowerCase();
  const fit = goals.filter((one) => matches(`${one.title} ${one.about} ${one.kind}`, words.trim()));
  return [...fit.filter((one) => low && one.title.toLowerCase().startsWith(low)), ...fit.filter((one) => !low || !one.title.toLowerCase().startsWith(low))].slice(0, MOST);
}
