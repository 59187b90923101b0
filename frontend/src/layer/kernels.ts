// Where the small kernels of one unit are drawn: beside each other, in as many lines as the room needs.

export interface KernelGrid {
  cell: number; // px of one number
  wide: number; // px of one kernel
  tall: number;
  perLine: number; // kernels beside each other
  lines: number;
  rowHeight: number; // px of one unit
}

const GAP = 2;
const [LEAST_CELL, MOST_CELL] = [3, 9];

/** The largest cells with which all units stay inside `tall` px, if any do. */
export function kernelGrid(room: number, kernels: number, rows: number, columns: number, units: number, tall: number): KernelGrid {
  let found = gridOf(room, kernels, rows, columns, LEAST_CELL);
  for (let cell = LEAST_CELL + 1; cell <= MOST_CELL; cell++) {
    const next = gridOf(room, kernels, rows, columns, cell);
    if (next.rowHeight * units > tall || columns * cell > room) break;
    found = next;
  }
  return found;
}

function gridOf(room: number, kernels: number, rows: number, columns: number, cell: number): KernelGrid {
  const [wide, tall] = [columns * cell, rows * cell];
  const perLine = Math.max(1, Math.floor((room + GAP) / (wide + GAP)));
  const lines = Math.max(1, Math.ceil(kernels / perLine));
  return { cell, wide, tall, perLine, lines, rowHeight: lines * (tall + GAP) + 4 };
}

/** px that so many of them take beside each other. */
export function widthOf(grid: KernelGrid, kernels: number): number {
  return Math.min(kernels, grid.perLine) * (grid.wide + GAP) - GAP;
}

/** Left and top edge of a kernel, from those of its unit. */
export function cornerOf(grid: KernelGrid, kernel: number): [x: number, y: number] {
  return [(kernel % grid.perLine) * (grid.wide + GAP), 2 + Math.floor(kernel / grid.perLine) * (grid.tall + GAP)];
}

/** Which number lies there, counted kernel by kernel and row by row; null between kernels and behind the last. */
export function numberAt(grid: KernelGrid, kernels: number, rows: number, columns: number, x: number, y: number): number | null {
  const [place, line] = [Math.floor(x / (grid.wide + GAP)), Math.floor((y - 2) / (grid.tall + GAP))];
  if (x < 0 || y < 2 || place >= grid.perLine || line >= grid.lines) return null;
  const [left, top] = cornerOf(grid, line * grid.perLine + place);
  const [column, row] = [Math.floor((x - left) / grid.cell), Math.floor((y - top) / grid.cell)];
  const kernel = line * grid.perLine + place;
  return kernel < kernels && column < columns && row < rows ? (kernel * rows + row) * columns + column : null;
}
