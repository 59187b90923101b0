"""Rows on their way to the writer: preallocated columns that a kernel fills, handed over as an Arrow record batch.

The arrays of the columns are the buffers of the batch, so nothing is copied; `take` gives them away and starts fresh
ones, so a batch stays as it is while the block is filled again. Not thread-safe: the training thread owns the block.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa

from weighbridge.records import HISTOGRAM_BINS, ROWS, WHOLE
from weighbridge.store.histogram import shifted

# In the order of wb_block (native/weighbridge_kernel.h), which is also the order of records.ROWS.
_COLUMNS: Final[dict[str, np.dtype[Any]]] = {
    field.name: np.dtype(field.type.to_pandas_dtype()) for field in ROWS if field.name != "hist"
}
_AFTER_HIST: Final = ("dot_gradient_parameter", "dot_gradient_update", "dot_update_parameter", "lost")
_ORDER: Final = (*(name for name in _COLUMNS if name not in _AFTER_HIST), "hist_offsets", "hist", *_AFTER_HIST)


class BlockFull(ValueError):
    """There is no room for all that was to be written. Nothing was: make room and call again."""


class BlockStruct(ctypes.Structure):
    """wb_block: room and fill, then one address per column."""

    _fields_ = [
        ("capacity_rows", ctypes.c_int64),
        ("capacity_counts", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("counts", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in _ORDER),
    ]


class RowBlock:
    """Room for `capacity_rows` rows and `capacity_counts` counts of histograms.

    A histogram can need all of its `bins` counts (a usual one of 132 bins needs 15 to 40), so there is room only while so
    many a row are left. `address` is that of the C struct and stays the same for the life of the block.
    """

    def __init__(self, capacity_rows: int, capacity_counts: int, bins: int = HISTOGRAM_BINS) -> None:
        self.bins = bins
        self._struct = BlockStruct(capacity_rows=capacity_rows, capacity_counts=capacity_counts)
        self.address: Final = ctypes.addressof(self._struct)
        self._start()

    def _start(self) -> None:
        rows, counts = self._struct.capacity_rows, self._struct.capacity_counts
        self._arrays = {name: np.empty(rows, dtype) for name, dtype in _COLUMNS.items()}
        self._arrays["hist_offsets"] = np.empty(rows + 1, np.int32)
        self._arrays["hist_offsets"][0] = 0
        self._arrays["hist"] = np.empty(counts, np.uint32)
        for name, array in self._arrays.items():
            setattr(self._struct, name, array.ctypes.data)
        self._struct.rows = self._struct.counts = 0

    @property
    def rows(self) -> int:
        """Rows written since the last `take`."""
        return int(self._struct.rows)

    def room_for(self, n_items: int, rows_each: int = 3) -> bool:
        """Is there room for the rows of so many items, whatever their histograms?"""
        more, struct = n_items * rows_each, self._struct
        return bool(struct.rows + more <= struct.capacity_rows and struct.counts + more * self.bins <= struct.capacity_counts)

    def add(self, values: Mapping[str, Any], hist: np.ndarray[Any, Any]) -> None:
        """One row from Python: the columns by name (what is not given is 0), and all 132 counts."""
        row, filled = self._struct.rows, self._struct.counts
        (occupied,) = np.nonzero(hist)
        first, end = (int(occupied[0]), int(occupied[-1]) + 1) if len(occupied) else (0, 0)
        if row >= self._struct.capacity_rows or filled + end - first > self._struct.capacity_counts:
            raise BlockFull("the block of rows is full: ask room_for first, then take")
        for name in _COLUMNS:
            self._arrays[name][row] = values.get(name, WHOLE)
        self._arrays["hist_first"][row] = first
        self._arrays["hist"][filled : filled + end - first] = hist[first:end]
        self._arrays["hist_offsets"][row + 1] = filled + end - first
        self._struct.rows, self._struct.counts = row + 1, filled + end - first

    def add_many(self, values: Mapping[str, Any], hists: np.ndarray[Any, Any]) -> None:
        """Rows from Python: columns by name (arrays, or one number for all), and all counts, uint32 [rows, bins]."""
        row, filled, number = self._struct.rows, self._struct.counts, len(hists)
        place = np.arange(hists.shape[1])
        occupied = hists > 0
        is_some = occupied.any(1)
        first = np.where(is_some, occupied.argmax(1), 0) if hists.size else np.zeros(number, np.int64)
        end = np.where(is_some, hists.shape[1] - occupied[:, ::-1].argmax(1), 0) if hists.size else first
        ends = filled + np.cumsum(end - first)
        if row + number > self._struct.capacity_rows or (number and ends[-1] > self._struct.capacity_counts):
            raise BlockFull("the block of rows is full: ask room_for first, then take")
        for name in _COLUMNS:
            self._arrays[name][row : row + number] = values.get(name, WHOLE)
        self._arrays["hist_first"][row : row + number] = first
        self._arrays["hist_offsets"][row + 1 : row + number + 1] = ends
        if number:
            inside = (place >= first[:, None]) & (place < end[:, None])
            self._arrays["hist"][filled : ends[-1]] = hists[inside]
            self._struct.counts = int(ends[-1])
        self._struct.rows = row + number

    def divide(self, first: int, quantity: int, scale: float) -> None:
        """Divide what was weighed of this quantity, in the rows from `first` on, by a power of two.

        `subnormal` stays as it was met. A histogram whose outermost bins are not empty is left out: where the numbers in
        them belong after the division is not known.
        """
        arrays, shift = self._arrays, round(math.log2(scale))
        for row in first + np.flatnonzero(arrays["quantity"][first : self.rows] == quantity):
            for name in ("min", "max", "sum", "sum_abs"):
                arrays[name][row] /= scale
            arrays["sum_sq"][row] /= scale * scale
            start, end = arrays["hist_offsets"][row : row + 2]
            counts = arrays["hist"][start:end]
            smaller = shifted(int(arrays["hist_first"][row]), counts, int(arrays["hist_bits"][row]), shift)
            if smaller is None:
                arrays["hist_count"][row] = 0
                counts[:] = 0
                continue
            arrays["hist_first"][row], counts[:] = smaller

    def take(self) -> pa.RecordBatch:
        """All rows as one record batch (schema records.ROWS, no copy); the block is empty afterwards."""
        rows, counts, arrays = self.rows, int(self._struct.counts), self._arrays
        columns = []
        for field in ROWS:
            if field.name != "hist":
                columns.append(_arrow(field.type, arrays[field.name], rows))
                continue
            items = _arrow(pa.uint32(), arrays["hist"], counts)
            offsets = pa.py_buffer(arrays["hist_offsets"])
            columns.append(pa.ListArray.from_buffers(field.type, rows, [None, offsets], children=[items]))
        batch = pa.RecordBatch.from_arrays(columns, schema=ROWS)
        self._start()
        return batch


def _arrow(kind: pa.DataType, values: np.ndarray[Any, Any], length: int) -> pa.Array:
    return pa.Array.from_buffers(kind, length, [None, pa.py_buffer(values)])
