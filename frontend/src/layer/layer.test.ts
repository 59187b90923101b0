import assert from "node:assert/strict";
import { test } from "node:test";

import { shapeOf, type LayerFacts } from "./layer.ts";
import { labelsOf } from "./ridges.ts";

test("a matrix is what comes in and what goes out", () => {
  const layer = { parameters: [{ role: "weight", shape: [32, 64] }], outputs: [] } as unknown as LayerFacts;
  assert.equal(shapeOf(layer), "64 → 32");
  assert.equal(shapeOf({ parameters: [], outputs: [{ shape: [8, 4] }] } as unknown as LayerFacts), "8 × 4");
});

test("bins of powers of two are labelled where there is room", () => {
  const edges = [-2, -1, -0.5, 0, 0.5, 1, 2];
  assert.deepEqual(labelsOf(edges, false, 3).map((label) => label.text), ["−2", "0", "2"]);
  assert.deepEqual(labelsOf([0, 0.5, 1], true, 3).map((label) => label.at), [0, 0.5, 1]);
});
