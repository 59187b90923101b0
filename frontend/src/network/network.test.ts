import assert from "node:assert/strict";
import { test } from "node:test";

import { gain, placeOfGain, told, type Network } from "./network.ts";

test("a gain is a factor, whichever way it goes", () => {
  assert.deepEqual([1, 0.14, 2.25, 0.0001, 123, 1.02].map(gain), ["×1.0", "÷7.1", "×2.3", "÷1.0e4", "×123", "×1.0"]);
});

test("×1 is in the middle of the axis, and what lies beyond is at its edge", () => {
  assert.deepEqual([1, 100, 1e9, 1e-9].map(placeOfGain), [0.5, 1, 1, 0]);
});

test("the headline names the way on which the signal is lost", () => {
  const of = (forward: number | null, backward: number | null): Network => ({ forward: { median: forward }, backward: { median: backward } }) as unknown as Network;
  assert.match(told(of(1, 0.14)).title, /Backward, each layer keeps 1\/7.1/);
  assert.match(told(of(5, 1)).title, /Forward, each layer multiplies by 5.0/);
  assert.equal(told(of(1.1, 0.9)).title, "The signal gets through");
  assert.match(told(of(null, null)).title, /not known/);
});
