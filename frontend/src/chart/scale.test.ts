import assert from "node:assert/strict";
import { test } from "node:test";

import type { Line } from "../api.ts";
import { decades, extent, readableMarks, rounded, roundMarks, stepMarks } from "./scale.ts";

function line(values: number[]): Line {
  const steps = Float64Array.from(values, (_, i) => i);
  const all = Float64Array.from(values);
  return { first: steps, last: steps, mean: all, min: all, max: all, bad: all.map((v) => (Number.isFinite(v) ? 0 : 1)) };
}

test("what is not finite does not stretch the axis", () => {
  assert.deepEqual(extent([line([1, NaN, Infinity, 3])], "linear"), [1, 3]);
  assert.equal(extent([line([NaN, NaN])], "linear"), null);
});

test("a log axis has whole decades and no place for zero", () => {
  assert.deepEqual(extent([line([0, -1, 0.02, 5])], "log"), [0.02, 5]);
  assert.deepEqual(rounded([0.02, 5], "log"), [0.01, 10]);
  assert.deepEqual(rounded([0.12, 0.24], "log"), [0.1, 0.5]);
  assert.deepEqual(rounded([0.1, 0.1], "log"), [0.05, 0.2]);
  assert.deepEqual(decades(0.1, 0.5, 3), [0.1, 0.2, 0.5]);
  assert.deepEqual(decades(5e-5, 2e-3, 2), [1e-4, 1e-3]); // every second decade would be one mark alone
  assert.deepEqual(decades(2e-4, 5e-3, 2), [5e-4, 1e-3, 5e-3]); // 1, 2, 5 would stand too close
  assert.deepEqual(decades(1e-8, 1, 4), [1e-8, 1e-6, 1e-4, 1e-2, 1]);
});

test("a linear axis begins at zero where zero is near", () => {
  assert.equal(rounded([0.1, 2], "linear")[0], 0);
  assert.ok(rounded([2.24, 2.36], "linear")[0] > 2);
  assert.deepEqual(rounded([0, 0], "linear"), [-1, 1]);
  assert.deepEqual(rounded([-3, -3], "linear"), [-6, 0]);
});

test("marks are round, and steps are whole", () => {
  assert.deepEqual(roundMarks(0, 1, 4), [0, 0.25, 0.5, 0.75, 1]);
  assert.deepEqual(stepMarks(0, 2, 8), [0, 1, 2]);
  assert.deepEqual(stepMarks(0, 1499, 3), [0, 500, 1000]);
  assert.deepEqual(stepMarks(379, 402, 10), [380, 385, 390, 395, 400]);
  assert.deepEqual(stepMarks(3, 3, 10), [3]);
});

test("an axis of values has three marks where they fit", () => {
  assert.equal(roundMarks(-1.04, 1.2, 3).length, 3);
  assert.deepEqual(readableMarks(-0.9, 0.9, 2), [-0.5, 0, 0.5]);
  assert.deepEqual(readableMarks(0, 1, 4), [0, 0.25, 0.5, 0.75, 1]);
});
