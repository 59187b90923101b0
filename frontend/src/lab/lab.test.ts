import assert from "node:assert/strict";
import { test } from "node:test";

import { asked, batches, floats, linkOf, nearest, parted, RATES, Trace, type Known } from "./lab.ts";

const packed = (...numbers: number[]): string => btoa(String.fromCharCode(...new Uint8Array(Float32Array.from(numbers).buffer)));

test("values come as they were packed, each tensor its own", () => {
  const all = floats(packed(1, 2, 3, 4, 5, 6, -0.5));
  const found = parted(all, [{ name: "0.weight", shape: [3, 2] }, { name: "0.bias", shape: [1] }]);
  assert.deepEqual([...found.get("0.weight")!], [1, 2, 3, 4, 5, 6]);
  assert.deepEqual([...found.get("0.bias")!], [-0.5]);
});

test("what is the page's own does not reach the training", () => {
  assert.equal(linkOf(new URLSearchParams("data=ring&layer=2&bias=0&pace=5")), "data=ring&bias=0");
});

test("sliders stand at the nearest place", () => {
  assert.deepEqual(batches(180), [1, 2, 4, 8, 16, 32, 64, 128, 180]);
  assert.deepEqual(batches(1), [1]);
  assert.equal(RATES[nearest(RATES, 0.3)], 0.3);
  assert.equal(RATES[nearest(RATES, 1e-9)], 1e-4);
});

test("a trace is thinned as the worker thins it", () => {
  const trace = new Trace();
  trace.add({ every: 1, steps: [0, 1, 2, 3], losses: [[4, 3, 2, "NaN"]], values: { w: packed(0, 10, 1, 11, 2, 12, 3, 13) } });
  assert.deepEqual(trace.losses[0], [4, 3, 2, NaN]);
  trace.add({ every: 2, steps: [4], losses: [[0]], values: { w: packed(4, 14) } });
  assert.deepEqual(trace.steps, [0, 2, 4]);
  assert.deepEqual(trace.losses[0], [4, 2, 0]);
  assert.deepEqual(trace.values.get("w")!.map((row) => [...row]), [[0, 10], [2, 12], [4, 14]]);
});

test("what is asked for can be seen before anything is trained", () => {
  const known = { defaults: { data: "ring", layers: "4,3", act: "tanh", bias: "1", start: "torch", opt: "sgd", batch: "all" } } as unknown as Known;
  const { state } = asked(known, new URLSearchParams("layers=5&bias=10&lr=0.1&seed=7"));
  assert.deepEqual([state.data, state.layers, state.bias, state.act, state.lr, state.seed], ["ring", [5], [1, 0], "tanh", 0.1, 7]);
  assert.deepEqual(asked(known, new URLSearchParams("layers=none&bias=0")).state.bias, [0]);
});
