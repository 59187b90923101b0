import assert from "node:assert/strict";
import { test } from "node:test";

import type { Statistic, Tensor } from "../../api.ts";
import { kindOf, read, zoomed } from "./choice.ts";

const tensor = (name: string, role: string): Tensor => ({
  name, role, model: "model", module: "Linear", shape: [], dtype: "float32", count: 1, aliases: [], requires_grad: true, note: "",
});
const statistic = (name: string, scale = "log"): Statistic => ({
  name, scale, quantity: "", quantity_plain: "", statistic: "", symbol: "", unit: "", formula: "", merge: "", plain: "", source: "",
});
const tensors = [tensor("0.weight", "weight"), tensor("0.bias", "bias"), tensor("2.weight", "weight")];
const catalogue = ["parameter.rms", "gradient.rms", "gradient.mean", "update.ratio"].map((n) => statistic(n));

test("an empty address shows the first weight and bias", () => {
  const choice = read(new URLSearchParams(), tensors, catalogue);
  assert.deepEqual(choice.tensors.map((t) => t.name), ["0.weight", "0.bias"]);
  assert.deepEqual(choice.statistics.map((s) => s.name), ["parameter.rms", "gradient.rms", "update.ratio"]);
  assert.equal(choice.steps, null);
});

test("the address says everything, and nonsense in it is left aside", () => {
  const query = new URLSearchParams("tensor=2.weight&tensor=gone&stat=gradient.mean&steps=200-900&at=342&show=w&scale=log");
  const choice = read(query, tensors, catalogue);
  assert.deepEqual([choice.tensors.map((t) => t.name), choice.steps, choice.pinned, choice.show], [["2.weight"], [200, 900], 342, "w"]);
  assert.deepEqual(read(new URLSearchParams("steps=9-2&at=x&show=q"), tensors, catalogue).steps, null);
});

test("signed values are never drawn on a log axis", () => {
  assert.equal(kindOf(statistic("gradient.mean", "signed"), "log"), "linear");
  assert.equal(kindOf(statistic("gradient.rms"), "auto"), "log");
  assert.equal(kindOf(statistic("gradient.rms"), "linear"), "linear");
});

test("zoom and pan stay inside the run", () => {
  assert.deepEqual(zoomed([0, 1000], [0, 1000], 0.5, 0), [250, 750]);
  assert.deepEqual(zoomed([250, 750], [0, 1000], 1, -0.75), [0, 500]);
  assert.deepEqual(zoomed([250, 750], [0, 1000], 1, 0.9), [500, 1000]);
  assert.equal(zoomed([250, 750], [0, 1000], 2, 0), null);
});
