import assert from "node:assert/strict";
import { test } from "node:test";

import { counted, inTitles, keyOf, since, strongest, worst, type Evidence, type Finding } from "./findings.ts";

test("a finding is named by its rule and its place", () => {
  assert.equal(keyOf({ rule: "lost-updates", place: "encoder.0" }), "lost-updates at encoder.0");
  assert.equal(keyOf({ rule: "step-not-taken", place: "" }), "step-not-taken");
});

test("what follows from a muted cause is not said to stand alone", () => {
  const follows = { follows_from_muted: ["dead-units at 0"] };
  assert.equal(counted([{}]), "1 finding, none that breaks the training.");
  assert.equal(counted([follows, follows]), "2 findings, which follow from what is muted.");
  assert.equal(counted([{}, follows]), "2 findings, 1 of which follows from what is muted.");
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

test("a sentence on findings has their titles, not their keys", () => {
  const named = (key: string, title: string, place: string): Finding => ({ key, title, place }) as Finding;
  const all = [named("dead-units at 0", "Most units never fire", "0"), named("dead-units at 0.in", "Most units never fire", "0.in"), named("loss-spike", "The loss jumps", "")];
  const text = "loss-spike or dead-units at 0.in may be the cause of dead-units at 0, not of my-loss-spike";
  assert.equal(inTitles(text, all), "“The loss jumps” or “Most units never fire” at 0.in may be the cause of “Most units never fire” at 0, not of my-loss-spike");
  assert.equal(inTitles(text, []), text);
});
