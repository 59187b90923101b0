import assert from "node:assert/strict";
import { test } from "node:test";

import { written } from "../heat/heat.ts";
import { against, secondsAt } from "./compare.ts";

test("the time at a step lies between those that were told", () => {
  const of = (...numbers: number[]): Float64Array => Float64Array.from(numbers);
  const clock = { first: of(0, 10, 20), last: of(0, 10, 20), mean: of(0, 1, 5), min: of(), max: of(), bad: of() };
  assert.deepEqual([0, 5, 10, 15, 20, 99].map((step) => secondsAt(clock, step)), [0, 0.5, 1, 3, 5, 5]);
  assert.ok(Number.isNaN(secondsAt(null, 3)));
});

test("how one number stands to another", () => {
  assert.deepEqual([against(0.05, 0.1), against(0.1, 0.05), against(3, 3), against("SGD", "Adam"), against(-1, 2)], ["×2", "÷2", "the same", "", ""]);
});

test("a factor is written as one, whichever way it goes", () => {
  assert.deepEqual([written(1, "versus"), written(-2, "versus"), written(0.3, "versus"), written(0.5, "less")], ["×10.0", "÷100", "×2.0", "+0.500"].map((t) => t.replace("×10.0", "×10")));
});
