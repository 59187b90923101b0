import assert from "node:assert/strict";
import { test } from "node:test";

import type { Tensor } from "./api.ts";
import { brief, cut, flow, letter, matches, pairs, side } from "./names.ts";

function tensor(name: string, role: string): Tensor {
  return { name, role, model: "model", module: "Linear", shape: [2], dtype: "float32", count: 2, aliases: [], requires_grad: true, note: "" };
}

test("a weight and its bias are one pair, weight first", () => {
  const found = pairs([tensor("0.bias", "bias"), tensor("0.weight", "weight"), tensor("2.weight", "weight")]);
  assert.deepEqual(found.map((p) => [p.title, p.members.map((m) => m.name)]), [["0", ["0.weight", "0.bias"]], ["2", ["2.weight"]]]);
});

test("the four tensors of a recurrent layer are two pairs", () => {
  const names: [string, string][] = [["rnn.weight_ih_l0", "weight"], ["rnn.weight_hh_l0", "weight"], ["rnn.bias_ih_l0", "bias"], ["rnn.bias_hh_l0", "bias"]];
  const found = pairs(names.map(([n, r]) => tensor(n, r)));
  assert.deepEqual(found.map((p) => p.members.map((m) => m.name)), [["rnn.weight_ih_l0", "rnn.bias_ih_l0"], ["rnn.weight_hh_l0", "rnn.bias_hh_l0"]]);
});

test("a parameter that is neither stands alone, under its own name", () => {
  const found = pairs([tensor("scale", "other"), tensor("shift", "other"), tensor("weight", "weight")]);
  assert.deepEqual(found.map((p) => p.title), ["scale", "shift", "weight"]);
});

test("scales go with weights and shifts with biases", () => {
  assert.deepEqual(["norm_scale", "norm_shift", "embedding", "other"].map((role) => [side({ role }), letter({ role })]), [
    ["weight", "γ"], ["bias", "β"], ["weight", "E"], ["other", "p"],
  ]);
});

test("long names are cut in the middle", () => {
  assert.equal(cut("0.weight", 24), "0.weight");
  const short = cut("blocks.17.attention.output.projection.weight", 24);
  assert.equal(short.length, 24);
  assert.ok(short.startsWith("blocks.17") && short.endsWith("ion.weight"));
});

test("words are found in any order", () => {
  assert.ok(matches("blocks.3.proj.weight Linear", "WEIGHT 3"));
  assert.ok(!matches("0.weight", "bias"));
});

test("deep names are told apart by their depth, and their last part stays whole", () => {
  assert.equal(brief("encoder.blocks.17.attention.projection", 24), "e.b.17.a.projection");
  assert.equal(brief("encoder.blocks.17.attention.projection", 33), "e.blocks.17.attention.projection");
  assert.equal(brief("0.weight", 24), "0.weight");
  const deep = (n: number): string => `0.${"inner_block.".repeat(n)}projection`;
  assert.equal(new Set([3, 4, 5, 6, 17, 18].map((n) => brief(deep(n), 28))).size, 6);
  assert.equal(brief(deep(17), 20), "0.i×17.projection");
  assert.equal(brief("a_name_without_any_dots_that_is_long", 12), cut("a_name_without_any_dots_that_is_long", 12));
});

test("a layer tells what comes in and what goes out", () => {
  assert.equal(flow("Linear", [32, 64]), "64 → 32");
  assert.equal(flow("Embedding", [1000, 64]), "1000 → 64");
  assert.equal(flow("Conv2d", [24, 12, 3, 3]), "24 × 12 × 3 × 3");
});
