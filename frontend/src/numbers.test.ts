import assert from "node:assert/strict";
import { test } from "node:test";

import { duration, exact, moment, share, short, size, ticks, whole } from "./numbers.ts";

test("numbers have three significant digits and a real minus sign", () => {
  const cases: [number | null, string][] = [
    [0, "0"], [-0, "0"], [2.3026, "2.30"], [-12.345, "−12.3"], [4.7e-11, "4.70×10⁻¹¹"], [0.001, "0.00100"],
    [99999, "99,999"], [100000, "1.00×10⁵"], [1234.5, "1,235"], [NaN, "NaN"], [Infinity, "+Inf"], [-Infinity, "−Inf"],
    [null, "not recorded"],
  ];
  for (const [value, text] of cases) assert.equal(short(value), text);
});

test("the exact text reads back as the same number", () => {
  for (const value of [0.1 + 0.2, 1 / 3, 5e-324, -1.7976931348623157e308, 123456789.123]) assert.equal(Number(exact(value)), value);
  assert.equal(exact(-0), "-0");
});

test("steps, sizes, durations and shares read as people write them", () => {
  assert.equal(whole(1184), "1,184");
  assert.equal(whole(-1234567), "−1,234,567");
  assert.equal(size(512), "512 B");
  assert.equal(size(3.5 * 1024 * 1024), "3.50 MiB");
  assert.equal(duration(7.12), "7.1 s");
  assert.equal(duration(0.012), "12 ms");
  assert.equal(duration(0), "0.0 s");
  assert.equal(duration(200), "3 min 20 s");
  assert.equal(duration(7500), "2 h 05 min");
  assert.equal(share(0.0371), "3.7 %");
});

test("a moment says today, or the day", () => {
  const now = new Date(2026, 10, 23, 18, 0);
  assert.equal(moment(new Date(2026, 10, 23, 14, 2).toISOString(), now), "today 14:02");
  assert.equal(moment(new Date(2026, 10, 3, 9, 5).toISOString(), now), "3 Nov 09:05");
  assert.equal(moment(new Date(2025, 0, 3, 9, 5).toISOString(), now), "3 Jan 2025 09:05");
});

test("ticks of one axis share their decimals", () => {
  assert.deepEqual(ticks([0, 0.5, 1]), ["0.0", "0.5", "1.0"]);
  assert.deepEqual(ticks([2.24, 2.27, 2.3]), ["2.24", "2.27", "2.30"]);
  assert.deepEqual(ticks([0, 0.25, 0.5]), ["0.00", "0.25", "0.50"]); // and say what they are
  assert.deepEqual(ticks([0, 500, 1000]), ["0", "500", "1,000"]);
  assert.deepEqual(ticks([1e-8, 1e-6]), ["10⁻⁸", "10⁻⁶"]);
  assert.deepEqual(ticks([0, 2e-5, 4e-5]), ["0", "2×10⁻⁵", "4×10⁻⁵"]);
});
