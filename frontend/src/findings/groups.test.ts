import assert from "node:assert/strict";
import { test } from "node:test";

import type { Finding } from "./findings.ts";
import { bundled, countsOf, listed } from "./groups.ts";

const finding = (key: string, explains: string[] = []): Finding => ({ key, explains }) as unknown as Finding;
const told = (findings: Finding[], causes: string[]): string[] => listed(findings, causes).map((one) => (one.follows ? "  " : "") + one.finding.key);

test("what follows from a cause stands under it", () => {
  assert.deepEqual(told([finding("a"), finding("b", ["a", "c"]), finding("c")], ["b"]), ["b", "  a", "  c"]);
});

test("a cause that another cause explains keeps its own place, and nothing is listed twice", () => {
  assert.deepEqual(told([finding("a", ["b", "c"]), finding("b", ["c"]), finding("c"), finding("d")], ["a", "b"]), ["a", "  c", "b", "d"]);
});

test("what no cause explains is listed too", () => {
  assert.deepEqual(told([finding("a"), finding("b")], []), ["a", "b"]);
  assert.deepEqual(told([], ["gone"]), []);
});

test("a cause is bundled with what follows from it", () => {
  const found = bundled(listed([finding("a"), finding("b", ["a", "c"]), finding("c"), finding("d")], ["b"]));
  assert.deepEqual(found.map((one) => [one.head.key, one.followers.map((other) => other.key)]), [["b", ["a", "c"]], ["d", []]]);
});

test("severities are counted, the gravest first", () => {
  const of = (severity: string): Finding => ({ severity }) as unknown as Finding;
  assert.deepEqual(countsOf([of("note"), of("error"), of("note")]), [{ severity: "error", count: 1 }, { severity: "note", count: 2 }]);
});
