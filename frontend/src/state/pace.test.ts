import assert from "node:assert/strict";
import { test } from "node:test";

import { Pace } from "./pace.ts";

const REST_MS = 60_000; // far longer than the test may take: whoever rests fails it

/** Work that ends when it is told to; how often it has begun. */
function stepwise(): { pace: Pace; begun: () => number; finish: () => Promise<void> } {
  let begun = 0;
  let end = (): void => {};
  const pace = new Pace(() => {
    begun++;
    return new Promise<void>((resolve) => (end = resolve));
  }, REST_MS);
  return { pace, begun: () => begun, finish: async () => (end(), await new Promise((resolve) => setTimeout(resolve, 5))) };
}

test("what somebody has chosen does not wait for the rest between looks", async () => {
  const { pace, begun, finish } = stepwise();
  pace.now();
  await finish();
  pace.next();
  assert.equal(begun(), 2);
  pace.stop();
});

test("many choices while one is under way are one more, as soon as it is there", async () => {
  const { pace, begun, finish } = stepwise();
  pace.now();
  pace.next();
  pace.next();
  assert.equal(begun(), 1);
  await finish();
  assert.equal(begun(), 2);
  await finish();
  assert.equal(begun(), 2);
  pace.stop();
});

test("growth rests, and a choice meanwhile ends the rest once", async () => {
  const { pace, begun, finish } = stepwise();
  pace.now();
  await finish();
  pace.soon();
  assert.equal(begun(), 1);
  pace.next();
  assert.equal(begun(), 2);
  await finish();
  assert.equal(begun(), 2);
  pace.stop();
});
