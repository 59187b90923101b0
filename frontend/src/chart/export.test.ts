import assert from "node:assert/strict";
import { test } from "node:test";

import { csvText, linesTable } from "./export.ts";
import { SvgPen } from "./pen.ts";

test("a table is written as commas and quotes have it, numbers in full", () => {
  const text = csvText({ columns: ["name", "value"], rows: [['a,"b"', 0.1 + 0.2], ["line\nbreak", -0], ["none", null], ["bad", NaN], ["far", -Infinity]] });
  assert.equal(text, 'name,value\r\n"a,""b""",0.30000000000000004\r\n"line\nbreak",-0\r\nnone,\r\nbad,NaN\r\nfar,-Infinity\r\n');
});

test("lines stand below each other with the steps of their buckets", () => {
  const of = (...values: number[]): Float64Array => Float64Array.from(values);
  const line = { first: of(0, 2), last: of(1, 3), mean: of(1, 2), min: of(0.5, 2), max: of(1.5, 2), bad: of(0, 3) };
  assert.deepEqual(linesTable([{ name: "A", line }], "run").rows, [["A", 0, 1, 1, 0.5, 1.5, 0], ["A", 2, 3, 2, 2, 2, 3]]);
});

test("the SVG pen writes shapes, closes what it opened and keeps markup out of text", () => {
  const pen = new SvgPen();
  pen.move(5, 5);
  pen.save();
  pen.beginPath();
  pen.rect(0, 0, 10, 10);
  pen.clip();
  pen.strokeStyle = "#2b468622";
  pen.beginPath();
  pen.moveTo(0, 1.004);
  pen.lineTo(2, 3);
  pen.stroke();
  pen.restore();
  pen.font = '600 12px "A", sans-serif';
  pen.fillText("<b> & c", 1, 2);
  const text = pen.done(20, 10, "t<", "a&");
  assert.ok(text.includes('<path d="M0 1L2 3" fill="none" stroke="#2b4686" stroke-opacity="0.13" stroke-width="1"/></g><text'));
  assert.ok(text.includes("&lt;b&gt; &amp; c") && text.includes("<title>t&lt;</title>"));
  assert.equal(text.split("<g").length, text.split("</g>").length);
});
