import assert from "node:assert/strict";
import { test } from "node:test";

import { keyOf, since, strongest, worst, type Evidence } from "./findings.ts";

test("a finding is named by its rule and its place", () => {
  assert.equal(keyOf({ rule: "lost-updates", place: "encoder.0" }), "lost-updates at encoder.0");
  assert.equal(keyOf({ rule: "step-not-taken", place: "" }), "step-not-taken");
});

test("the gravest severity speaks for all", () => {
  assert.equal(worst([{ severity: "note" }, { severity: "warning" }]), "warning");
  assert.equal(worst([]), null);
});

test("when it began, and when it could be told", () => {
  assert.equal(since({ first_step: 4, told_step: 9 }, String), "from step 4, told at 9");
  assert.equal(since({ first_step: 4, told_step: 4 }, String), "at step 4");
  assert.equal(since({ first_step: -1, told_step: -1 }, String), "before training");
});

test("a line is drawn rather than a table, a table rather than a number", () => {
  const value: Evidence = { kind: "value", name: "v", value: 1, limit: null, unit: "" };
  const table: Evidence = { kind: "table", name: "t", columns: ["a", "b"], rows: [["x", 1], ["y", 2]] };
  const series: Evidence = { kind: "series", name: "s", steps: [0, 1], values: [1, "NaN"], limit: 2 };
  assert.equal(strongest([value, table, series]), series);
  assert.equal(strongest([value, table]), table);
  assert.equal(strongest([]), null);
});
