import assert from "node:assert/strict";
import { test } from "node:test";

import { cutHeat } from "../heat/cut.ts";
import type { Heat, HeatRow } from "../heat/heat.ts";
import { question } from "./frozen.ts";

test("a question is named by what is asked, not by how it is cut", () => {
  assert.equal(question("heat", { stat: "gradient.rms", run: "a b", buckets: 1016, show: "w", start: 5 }), "heat?run=a+b&stat=gradient.rms");
  assert.equal(question("rules", {}), "rules?");
});

test("a kept picture is cut to the steps and rows that are wanted", () => {
  const row = (name: string, bias: boolean): HeatRow => ({ name, bias, members: 1, folded: false, model: "m", role: "weight", module: "", shape: [], group: "" });
  const heat: Heat = {
    statistic: "gradient.rms", scale: "log", rows: [row("w", false), row("b", true)], first: [0, 5, 10], last: [4, 9, 14],
    domain: [1, 10], counts: [], below: 0, above: 0, value: Float32Array.from([1, 2, 3, 4, 5, 6]), mask: Uint8Array.from([0, 0, 0, 0, 0, 2]),
  };
  const cut = cutHeat(heat, { show: "b", start: 6, stop: 12 });
  assert.deepEqual([cut.rows.map((r) => r.name), cut.first, [...cut.value], [...cut.mask]], [["b"], [5, 10], [5, 6], [0, 2]]);
  assert.deepEqual([...cutHeat(heat, { show: "wb" }).value], [1, 2, 3, 4, 5, 6]);
});
