// Flags over the picture: where a finding began (solid), and what happened to the run (dotted). Flags closer than 12 px are one.
export interface Flag {
  step: number;
  severity: string; // error, warning, note
  text: string;
  dotted: boolean;
}

export interface PlacedFlag extends Flag {
  x: number;
  count: number;
}

const APART = 12;
const WORST = ["error", "warning", "note"];

/** In order of steps; neighbours under 12 px are one flag of the worst severity, at the place of the first. */
export function merged(flags: readonly Flag[], xOf: (step: number) => number | null): PlacedFlag[] {
  const found: PlacedFlag[] = [];
  for (const flag of [...flags].sort((a, b) => a.step - b.step)) {
    const x = xOf(flag.step);
    if (x === null) continue;
    const before = found.at(-1);
    if (before && x - before.x < APART) {
      if (WORST.indexOf(flag.severity) < WORST.indexOf(before.severity)) Object.assign(before, { ...flag, x: before.x });
      before.count++;
    } else {
      found.push({ ...flag, x, count: 1 });
    }
  }
  return found;
}
