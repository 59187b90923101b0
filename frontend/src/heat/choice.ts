// What of the picture is shown, read from the address.
import type { Range } from "../chart/scale.ts";
import type { HeatWanted } from "./heat.ts";
import { DEFAULT_STATISTIC } from "./menu.ts";

export interface Pin {
  name: string; // of the tensor; empty = a step of all
  step: number;
}

export interface HeatChoice {
  stat: string;
  show: "wb" | "w" | "b";
  fold: "auto" | "none" | "modules";
  open: string[];
  steps: Range | null;
  rows: Range | null;
  at: string | null;
  pinned: Pin | null;
  table: boolean;
  rank: number | null; // that alone; null: all ranks as one
  attempt: number | null; // the run as this attempt left it; null: as it is
}

export function readHeat(query: URLSearchParams): HeatChoice {
  const show = query.get("show");
  const fold = query.get("fold");
  return {
    stat: query.get("stat") ?? DEFAULT_STATISTIC,
    show: show === "w" || show === "b" ? show : "wb",
    fold: fold === "none" || fold === "modules" ? fold : "auto",
    open: query.getAll("open"),
    steps: rangeOf(query.get("steps"), 1),
    rows: rangeOf(query.get("rows"), 0),
    at: query.get("at"),
    pinned: pinOf(query.get("at")),
    table: query.get("table") === "1",
    rank: numberOf(query.get("rank")),
    attempt: numberOf(query.get("attempt")),
  };
}

const [BESIDE, BESIDE_NARROW, NARROW] = [240, 110, 640]; // px that names and numbers take, about

/** What is asked of the server for a picture in so much room. */
export function wishOf(choice: HeatChoice, width: number): Omit<HeatWanted, "domain"> {
  const buckets = Math.max(60, Math.min(1200, Math.round(width) - (width < NARROW ? BESIDE_NARROW : BESIDE)));
  const { stat, show, fold, open, steps, rank, attempt } = choice;
  return {
    stat, show, fold, open, buckets,
    ...(steps ? { start: steps[0], stop: steps[1] + 1 } : {}),
    ...(rank === null ? {} : { rank }),
    ...(attempt === null ? {} : { attempt }),
  };
}

function numberOf(text: string | null): number | null {
  return /^\d{1,6}$/.test(text ?? "") ? Number(text) : null;
}

/** 342, or 8.weight@342. */
export function pinOf(text: string | null): Pin | null {
  const found = /^(?:(.*)@)?(\d{1,15})$/s.exec(text ?? "");
  return found ? { name: found[1] ?? "", step: Number(found[2]) } : null;
}

/** 200-900: the second at least `apart` beyond the first. */
export function rangeOf(text: string | null, apart: number): Range | null {
  const found = /^(\d{1,15})-(\d{1,15})$/.exec(text ?? "");
  if (!found) return null;
  const [low, high] = [Number(found[1]), Number(found[2])];
  return high - low >= apart ? [low, high] : null;
}
