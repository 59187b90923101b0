"""Statistics of units as pictures and lines: the share of an output's units that gave nothing but zero and less.

A row of the table of units counts over all weighed steps since the row before it, so it speaks for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weighbridge.records import Quantity
from weighbridge.store.grid import bucket_grid
from weighbridge.store.record import HeatMap, RunRecord, Tensor

DEAD: Final = "units.dead_fraction"
NAMES: Final = (DEAD,)
CUT_AT_ZERO: Final = ("ReLU", "ReLU6", "Threshold")  # modules whose output 0 passes no gradient back


def dead_share(table: pa.Table, tensor: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps and, at each, the share of units that were above 0 for no input since the step before."""
    mine = table.filter(
        pc.and_(pc.equal(table.column("tensor"), tensor), pc.equal(table.column("quantity"), int(Quantity.ACTIVATION)))
    ).sort_by("step")
    share = [float(np.mean(row.values.to_numpy(zero_copy_only=False) == 0)) for row in mine.column("active")]
    return mine.column("step").to_numpy(), np.array(share, np.float64)


def heat_map(
    record: RunRecord, name: str, tensors: Sequence[Tensor], columns: int, start: int | None, stop: int | None
) -> HeatMap:
    """As RunRecord.heat_map."""
    table = record.whole("units")
    low = max(record.first_step, 0) if start is None else max(start, 0)
    high = record.last_step + 1 if stop is None else min(stop, record.last_step + 1)
    _, edges = bucket_grid(low, max(high, low), columns)
    first, last = edges[:-1].copy(), edges[1:] - 1
    grid = np.full((len(tensors), len(first)), np.nan)
    for row, tensor in enumerate(tensors):
        steps, share = dead_share(table, tensor.id)
        if len(steps):
            at = np.searchsorted(steps, first, "left")  # the row that counted the bucket's first step
            known = at < len(steps)
            grid[row, known] = share[at[known]]
    return HeatMap(name, tuple(tensors), first, last, grid, grid, grid, np.where(np.isnan(grid), np.nan, 0.0))
