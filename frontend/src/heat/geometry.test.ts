import assert from "node:assert/strict";
import { test } from "node:test";

import { Geometry, MOST, TOP } from "./geometry.ts";
import { ABSENT, type Heat, type HeatRow } from "./heat.ts";
import type { Line } from "../api.ts";
import { rowOfMinimap } from "./minimap.ts";

const row = (name: string): HeatRow => ({ name, bias: false, members: 1, folded: false, model: "model", role: "weight", module: "Linear", shape: [2, 2], group: name });
const made = (rows: number, width = 1000, clock: Line | null = null): Geometry => {
  const all = Array.from({ length: rows }, (_, i) => row(`${i}.weight`));
  const [first, last] = [[0, 10, 20, 30], [9, 19, 29, 39]];
  const heat: Heat = {
    statistic: "gradient.rms", scale: "log", rows: all, first, last, domain: null, counts: [], below: 0, above: 0,
    value: new Float32Array(rows * 4), mask: new Uint8Array(rows * 4).fill(ABSENT), least: null, greatest: null,
  };
  return new Geometry(heat, all, 0, width, clock);
};
const clock = (seconds: (step: number) => number): Line => {
  const [first, mean] = [Float64Array.from({ length: 40 }, (_, i) => i), Float64Array.from({ length: 40 }, (_, i) => seconds(i))];
  return { first, last: first, mean, min: mean, max: mean, bad: new Float64Array(40) };
};

test("the middle of every cell is in that cell, scrolled or not", () => {
  for (const [rows, scroll] of [[3, 0], [300, 0], [300, 500]] as const) {
    const at = made(rows);
    for (let i = 0; i < rows; i++) {
      const y = at.middleOf(i, scroll);
      if (y < TOP || y > TOP + at.visible) continue;
      for (let column = 0; column < 4; column++) {
        const x = (at.xOf(column) + at.xOf(column + 1)) / 2;
        assert.deepEqual(at.cellAt({ x, y }, scroll), { row: i, column });
      }
    }
  }
});

test("a step comes back from where it is drawn", () => {
  const at = made(3);
  for (let step = 0; step < 40; step++) assert.equal(at.stepAt(at.xOfStep(step)! + 0.01, Math.floor(step / 10)), step);
  assert.equal(at.xOfStep(40), null);
});

test("beside the cells there is none, and the nearest place is among them", () => {
  const at = made(3);
  for (const spot of [{ x: at.left - 1, y: TOP + 5 }, { x: at.left + at.plotWidth, y: TOP + 5 }, { x: at.left + 5, y: TOP - 1 }]) {
    assert.equal(at.cellAt(spot, 0), null);
  }
  assert.deepEqual(at.clamped({ x: 0, y: 1e4 }), { x: at.left, y: TOP + at.visible });
});

test("many rows are never taller than the panel, and a narrow page has no numbers at the right", () => {
  assert.equal(made(1000).visible, MOST);
  assert.ok(made(3, 390).right < made(3).right);
});

test("many rows get a strip of all the depth, and every place on it is a row", () => {
  assert.equal(made(60).mini, 0);
  const at = made(2000);
  assert.ok(at.mini > 0 && at.left > made(60).left);
  assert.equal(rowOfMinimap(at, TOP), 0);
  assert.equal(rowOfMinimap(at, TOP + at.visible / 2), 1000);
  assert.equal(rowOfMinimap(at, TOP + at.visible + 50), 1999);
});

test("on an axis of time a column is as wide as its steps took, and a step comes back from where it is drawn", () => {
  const at = made(3, 1000, clock((step) => (step < 20 ? step : 20 + 10 * (step - 19)))); // the second half ten times slower
  const wide = (column: number): number => at.xOf(column + 1) - at.xOf(column);
  assert.ok(wide(2) > 8 * wide(0) && wide(3) > 8 * wide(0));
  assert.equal(at.xOf(4), at.left + at.plotWidth);
  assert.deepEqual(at.seconds, [0, 220]);
  for (let step = 0; step < 40; step++) {
    const x = at.xOfStep(step)!;
    const cell = at.cellAt({ x: Math.min(x, at.left + at.plotWidth - 0.01), y: TOP + 5 }, 0)!;
    assert.equal(at.stepAt(x, cell.column), step);
  }
});

test("where no time passed columns stand by their steps", () => {
  assert.equal(made(3, 1000, clock(() => 5)).clock, null);
});
