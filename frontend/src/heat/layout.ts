// Where rows lie: weight 15 px, its bias 7 px close under it, 3 px between layers; smaller where there are many.
import { titleOf, type HeatRow } from "./heat.ts";

export interface Place {
  top: number;
  height: number;
}

export interface Layout {
  places: Place[];
  height: number; // of all rows
}

const WEIGHT = 15;
const BIAS = 7;
const BETWEEN = 3; // layers
const LEAST = 4; // px a row keeps, however many there are
const LEAST_BIAS = 2;

/** Rows one under the other in `room` px, at their full height where they fit, at their least where even those do not. */
export function layOut(rows: readonly HeatRow[], room: number): Layout {
  const natural = stack(rows, 1);
  if (natural.height <= room) return natural;
  const least = stack(rows, 0);
  if (least.height >= room) return least;
  let [low, high] = [0, 1];
  for (let i = 0; i < 12; i++) {
    const middle = (low + high) / 2;
    if (stack(rows, middle).height > room) high = middle;
    else low = middle;
  }
  return stack(rows, low);
}

function stack(rows: readonly HeatRow[], size: number): Layout {
  const places: Place[] = [];
  let top = 0;
  rows.forEach((row, i) => {
    const before = rows[i - 1];
    const isNew = !before || titleOf(before) !== titleOf(row) || before.model !== row.model || !row.bias;
    const sized = (least: number, full: number): number => Math.round(least + (full - least) * size);
    if (i > 0) top += isNew ? sized(1, BETWEEN) : sized(0, 1);
    const height = row.bias ? sized(LEAST_BIAS, BIAS) : sized(LEAST, WEIGHT);
    places.push({ top, height });
    top += height;
  });
  return { places, height: top };
}

/** The row at this height, the nearest one in a gap; -1 outside. */
export function rowAt(layout: Layout, y: number): number {
  const { places } = layout;
  if (y < 0 || y > layout.height || places.length === 0) return -1;
  let low = 0;
  let high = places.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (places[middle]!.top <= y) low = middle;
    else high = middle - 1;
  }
  const here = places[low]!;
  const next = places[low + 1];
  return next && y > here.top + here.height && next.top - y < y - here.top - here.height ? low + 1 : low;
}

/** Which rows get their label: each where there is room, else as many as stand `least` px apart. */
export function labelled(layout: Layout, rows: readonly HeatRow[], least: number): number[] {
  const found: number[] = [];
  let free = -Infinity;
  rows.forEach((row, i) => {
    const before = rows[i - 1];
    if (before && titleOf(before) === titleOf(row) && before.model === row.model) return;
    const middle = layout.places[i]!.top + layout.places[i]!.height / 2;
    if (middle < free) return;
    found.push(i);
    free = middle + least;
  });
  return found;
}
