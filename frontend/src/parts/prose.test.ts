import assert from "node:assert/strict";
import { test } from "node:test";

import { piecesOf } from "./prose.ts";

const code = (text: string): string[] => piecesOf(text).filter((piece) => piece.code).map((piece) => piece.text);

test("calls and dotted names are code, sentences are not", () => {
  assert.deepEqual(code("Call optimizer.zero_grad() once per step, before loss.backward()."), ["optimizer.zero_grad()", "loss.backward()"]);
  assert.deepEqual(code("Keep them in float32 and use torch.autocast(..., dtype=torch.bfloat16)."), ["torch.autocast(..., dtype=torch.bfloat16)"]);
  assert.deepEqual(code("The loss is 2.303 from step 4.5 on. Then it falls."), []);
  assert.deepEqual(code("Set `lr` to half of it (or less)."), ["lr"]);
  assert.deepEqual(code("model.encoder[3].weight gets none"), ["model.encoder[3].weight"]);
  assert.deepEqual(code("From 0.inner.block.proj on, 2.5 of 0.weight."), ["0.inner.block.proj", "0.weight"]);
});

test("nothing is lost", () => {
  const text = "Use nn.ReLU() here; e.g. at 0.weight.";
  assert.equal(piecesOf(text).map((piece) => piece.text).join(""), text);
});
