import assert from "node:assert/strict";
import { test } from "node:test";

import { axisOf } from "./axis.ts";

test("values over many decades stand on a log axis", () => {
  const axis = axisOf([1e-8, 1e-2], null);
  assert.equal(axis.kind, "log");
  assert.equal(axis.place(1e-8), 0);
  assert.equal(axis.place(0), null);
  assert.equal(axis.text(1e-8), "10⁻⁸");
  assert.equal(axis.text(0.01), "0.01");
});

test("values of one size, or of both signs, stand on a linear one", () => {
  assert.equal(axisOf([1, 2, 3], null).kind, "linear");
  assert.equal(axisOf([-1, 1000], null).kind, "linear");
});

test("the limit is inside the axis, and what is no number has no place", () => {
  const axis = axisOf([1, 2, NaN, Infinity], 4);
  assert.ok(axis.range[1] >= 4);
  assert.equal(axis.place(NaN), null);
  assert.equal(axis.place(Infinity), null);
});

test("nothing at all still has an axis", () => {
  assert.deepEqual(axisOf([NaN], null).range.every(Number.isFinite), true);
});
