import assert from "node:assert/strict";
import { test } from "node:test";

import { itemsOf, merged } from "./runs.ts";

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
