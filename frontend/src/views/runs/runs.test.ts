import assert from "node:assert/strict";
import { test } from "node:test";

import { cellOf, itemsOf, merged, tracksOf, type Row } from "./runs.ts";

const one = (...names: string[]): { title: string; names: string[] }[] => [{ title: "", names }];

test("what is new waits, what is gone goes, all else keeps its place", () => {
  assert.deepEqual(merged(one("a", "b", "c"), one("new", "c", "a")), { groups: one("a", "c"), fresh: 1, moved: true });
  assert.deepEqual(merged(one("a", "b"), one("a", "b")), { groups: one("a", "b"), fresh: 0, moved: false });
  assert.deepEqual(merged(one("a", "b"), one("x", "a", "y", "b")), { groups: one("a", "b"), fresh: 2, moved: false });
});

test("a run that changes its group has moved", () => {
  const told = [{ title: "live", names: ["b"] }, { title: "finished", names: ["a"] }];
  const shown = [{ title: "live", names: ["a", "b"] }];
  assert.deepEqual(merged(shown, told), { groups: shown, fresh: 0, moved: true });
});

test("of a folded group only the head is there", () => {
  const groups = [{ title: "3", names: ["a"] }, { title: "10", names: ["b", "c"] }];
  assert.deepEqual(itemsOf(groups, new Set(["10"])).map((item) => (item.kind === "run" ? item.name : item.group.title)), ["3", "a", "10"]);
  assert.deepEqual(itemsOf(one("a", "b"), new Set()).length, 2);
});

test("a chosen column has a setting as it is written, or the last number of a metric", () => {
  const row = { settings: { lr: "0.10" }, metrics: { accuracy: 0.9, lr: 3 } } as unknown as Row;
  assert.deepEqual(cellOf(row, "lr"), { text: "0.10", number: null });
  assert.deepEqual(cellOf(row, "accuracy"), { text: "", number: 0.9 });
  assert.deepEqual(cellOf(row, "nothing"), { text: "", number: null });
});

test("chosen columns stand in the place of the one that has all differing settings", () => {
  const count = (metric: boolean, differs: boolean, chosen: number): number => tracksOf(metric, differs, chosen).tracks.split(/ (?![^(]*\))/).length;
  assert.deepEqual([count(false, false, 0), count(true, false, 0), count(true, true, 0), count(true, true, 3)], [9, 10, 11, 13]);
  assert.ok(tracksOf(true, true, 6).least > tracksOf(true, true, 2).least);
});
