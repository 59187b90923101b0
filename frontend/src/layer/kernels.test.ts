import assert from "node:assert/strict";
import { test } from "node:test";

import { cornerOf, kernelGrid, numberAt } from "./kernels.ts";

test("kernels stand beside each other, and in lines where the room is narrow", () => {
  const wide = kernelGrid(600, 16, 3, 3, 8, 2000);
  assert.deepEqual([wide.cell, wide.lines, wide.perLine], [9, 1, 20]);
  const narrow = kernelGrid(100, 16, 3, 3, 8, 100);
  assert.deepEqual([narrow.cell, narrow.perLine, narrow.lines], [3, 9, 2]);
  assert.deepEqual(cornerOf(narrow, 9), [0, 2 + 9 + 2]);
});

test("the middle of every cell is that cell", () => {
  const grid = kernelGrid(100, 16, 2, 3, 8, 100);
  for (let kernel = 0; kernel < 16; kernel++) {
    const [x, y] = cornerOf(grid, kernel);
    for (let row = 0; row < 2; row++)
      for (let column = 0; column < 3; column++) assert.equal(numberAt(grid, 16, 2, 3, x + (column + 0.5) * grid.cell, y + (row + 0.5) * grid.cell), kernel * 6 + row * 3 + column);
  }
  const [x, y] = cornerOf(grid, 15);
  assert.equal(numberAt(grid, 16, 2, 3, x + grid.wide + 3, y + 1), null);
  assert.equal(numberAt(grid, 16, 2, 3, -1, y), null);
  assert.equal(numberAt(grid, 16, 2, 3, grid.wide + 1, 4), null);
});
