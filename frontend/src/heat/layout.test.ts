import assert from "node:assert/strict";
import { test } from "node:test";

import { columnOf, isMeant, type Heat, type HeatRow } from "./heat.ts";
import { labelled, layOut, rowAt } from "./layout.ts";

const row = (name: string, bias = false): HeatRow => ({
  name, bias, members: 1, folded: false, model: "model", role: bias ? "bias" : "weight", module: "Linear", shape: [2, 2], group: name,
});
const pairsOf = (count: number): HeatRow[] => Array.from({ length: count }, (_, i) => [row(`${i}.weight`), row(`${i}.bias`, true)]).flat();

test("a bias stands closer to its weight than to the next layer", () => {
  const { places, height } = layOut(pairsOf(2), 1000);
  assert.deepEqual(places.map((p) => [p.top, p.height]), [[0, 15], [16, 7], [26, 15], [42, 7]]);
  assert.equal(height, 49);
});

test("many rows become small, and never smaller than can be seen", () => {
  assert.ok(layOut(pairsOf(30), 600).height <= 600);
  const least = layOut(pairsOf(2000), 600);
  assert.ok(least.height > 600);
  assert.ok(least.places.every((p) => p.height >= 2));
});

test("the pointer finds its row, in gaps the nearest", () => {
  const layout = layOut(pairsOf(2), 1000);
  assert.deepEqual([0, 15, 18, 23.4, 25.5, 49].map((y) => rowAt(layout, y)), [0, 0, 1, 1, 2, 3]);
  assert.equal(rowAt(layout, -1), -1);
  assert.equal(rowAt(layout, 50), -1);
});

test("labels keep their distance", () => {
  const rows = pairsOf(40);
  assert.equal(labelled(layOut(rows, 2000), rows, 14).length, 40);
  assert.ok(labelled(layOut(rows, 300), rows, 14).length < 25);
});

test("a step finds its column", () => {
  const heat = { first: [0, 5, 10], last: [4, 9, 12] } as unknown as Heat;
  assert.deepEqual([0, 4, 7, 12, 13, -1].map((step) => columnOf(heat, step)), [0, 0, 1, 2, -1, -1]);
});

test("a finding's place means the rows of its module", () => {
  assert.ok(isMeant(row("6.weight"), "6"));
  assert.ok(isMeant(row("6.weight"), "6.weight"));
  assert.ok(isMeant({ ...row("6/out"), role: "output" }, "6"));
  assert.ok(!isMeant(row("60.weight"), "6"));
  assert.ok(!isMeant(row("6.weight"), ""));
  assert.ok(isMeant({ ...row("blocks.3"), folded: true }, "blocks.3.mlp.0.weight"));
  assert.ok(isMeant(row("6.weight"), "model:6", true));
});
