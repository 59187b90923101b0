import assert from "node:assert/strict";
import { test } from "node:test";

import { written } from "../heat/heat.ts";
import { against } from "./compare.ts";

test("how one number stands to another", () => {
  assert.deepEqual([against(0.05, 0.1), against(0.1, 0.05), against(3, 3), against("SGD", "Adam"), against(-1, 2)], ["×2", "÷2", "the same", "", ""]);
});

test("a factor is written as one, whichever way it goes", () => {
  assert.deepEqual([written(1, "versus"), written(-2, "versus"), written(0.3, "versus"), written(0.5, "less")], ["×10.0", "÷100", "×2.0", "+0.500"].map((t) => t.replace("×10.0", "×10")));
});
