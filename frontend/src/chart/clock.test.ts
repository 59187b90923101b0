import assert from "node:assert/strict";
import { test } from "node:test";

import { axisLabels, axisMarks, placing, secondsAt, secondsOf, stepAt } from "./clock.ts";

const of = (...numbers: number[]): Float64Array => Float64Array.from(numbers);
const clock = { first: of(0, 10, 20, 30), last: of(0, 10, 20, 30), mean: of(0, 1, 5, 5), min: of(), max: of(), bad: of() };

test("the time at a step lies between those that were told, and the step at a time, too", () => {
  assert.deepEqual([0, 5, 10, 15, 20, 99].map((step) => secondsAt(clock, step)), [0, 0.5, 1, 3, 5, 5]);
  assert.deepEqual([0, 0.5, 1, 3, 5, 9, -1].map((seconds) => stepAt(clock, seconds)), [0, 5, 10, 15, 30, 30, 0]);
  assert.ok(Number.isNaN(secondsAt(null, 3)));
  assert.equal(placing(null)(7), 7);
  assert.equal(placing(clock)(15), 3);
});

test("times in the address are numbers, the smaller first", () => {
  assert.deepEqual(secondsOf("0.25-12"), [0.25, 12]);
  assert.deepEqual([secondsOf("12-0.25"), secondsOf("-1-2"), secondsOf("a"), secondsOf(null), secondsOf("1e-7-1")], [null, null, null, null, null]);
});

test("marks of time stand where people look at a clock, and neighbours are told apart", () => {
  const told = (low: number, high: number, many: number): string[] => axisLabels(axisMarks(low, high, many, true), true);
  assert.deepEqual(told(0, 0.2, 4), ["0", "0.05 s", "0.10 s", "0.15 s"]);
  assert.deepEqual(told(0, 41, 5), ["0", "10 s", "20 s", "30 s"]);
  assert.deepEqual(told(100, 190, 3), ["2 min 00 s", "2 min 30 s", "3 min 00 s"]);
  assert.deepEqual(told(0, 3000, 5), ["0", "10 min", "20 min", "30 min", "40 min"]);
  assert.deepEqual(told(3600, 3660, 2), ["1 h 00 min 00 s", "1 h 00 min 30 s"]);
  assert.deepEqual(told(0, 90_000, 4), ["0", "6 h", "12 h", "18 h", "24 h"]);
  assert.deepEqual(axisLabels(axisMarks(0, 2000, 4, false), false), ["0", "500", "1,000", "1,500", "2,000"]);
});
