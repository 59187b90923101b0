import assert from "node:assert/strict";
import { test } from "node:test";

import { atStart, headline } from "./before.ts";
import type { Finding } from "./findings.ts";

const finding = (key: string, first_step: number, severity: Finding["severity"]): Finding => ({ key, first_step, severity, told_step: first_step }) as Finding;

test("what was found later does not speak against starting, and each thing is said once", () => {
  const own = [finding("a", 0, "warning"), finding("late", 5, "error"), { ...finding("slow", 0, "error"), told_step: 60 }];
  const attached = [finding("a", -1, "warning"), finding("b", -1, "error")];
  assert.deepEqual(atStart(own, attached).map((one) => one.key), ["b", "a"]);
});

test("the headline counts what is more than a note", () => {
  assert.equal(headline([], true), "Nothing speaks against starting.");
  assert.equal(headline([finding("n", 0, "note")], true), "Nothing speaks against starting.");
  assert.equal(headline([finding("w", 0, "warning")], true), "One thing speaks against starting");
  assert.equal(headline([], false), "The rules have not looked yet");
});
