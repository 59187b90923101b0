"""The numbers themselves of small tensors, on their way to the writer: preallocated columns that a kernel fills."""

from __future__ import annotations

import ctypes
from typing import Any, Final

import numpy as np
import pyarrow as pa

from weighbridge.capture.rowblock import BlockFull
from weighbridge.records import VALUES

_COLUMNS: Final = {"step": np.int64, "attempt": np.int16, "tensor": np.int32, "quantity": np.int8}
_DTYPE: Final = "float32"


class ValuesStruct(ctypes.Structure):
    """wb_values (native/weighbridge_kernel.h): room and fill, then one address per column."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("capacity_rows", "capacity_bytes", "rows", "bytes")),
        *((name, ctypes.c_void_p) for name in (*_COLUMNS, "offsets", "data")),
    ]


class ValueBlock:
    """Room for `capacity_rows` rows of the table of values, of `capacity_bytes` bytes together; all of them float32.

    As with RowBlock, `take` gives the arrays away and starts fresh ones, and the training thread owns the block.
    """

    def __init__(self, capacity_rows: int, capacity_bytes: int) -> None:
        self._struct = ValuesStruct(capacity_rows=capacity_rows, capacity_bytes=capacity_bytes)
        self.address: Final = ctypes.addressof(self._struct)
        self._start()

    def _start(self) -> None:
        rows, size = self._struct.capacity_rows, self._struct.capacity_bytes
        self._arrays: dict[str, Any] = {name: np.empty(rows, dtype) for name, dtype in _COLUMNS.items()}
        self._arrays["offsets"] = np.empty(rows + 1, np.int32)
        self._arrays["offsets"][0] = 0
        self._arrays["data"] = np.empty(size, np.uint8)
        for name, array in self._arrays.items():
            setattr(self._struct, name, array.ctypes.data)
        self._struct.rows = self._struct.bytes = 0

    @property
    def rows(self) -> int:
        """Rows written since the last `take`."""
        return int(self._struct.rows)

    def room_for(self, rows: int, size: int) -> bool:
        """Is there room for so many rows more, of so many bytes together?"""
        struct = self._struct
        return bool(struct.rows + rows <= struct.capacity_rows and struct.bytes + size <= struct.capacity_bytes)

    def add(self, step: int, attempt: int, tensor: int, quantity: int, data: bytes) -> None:
        """One row from Python."""
        if not self.room_for(1, len(data)):
            raise BlockFull("the block of values is full: ask room_for first, then take")
        row, filled, arrays = self.rows, int(self._struct.bytes), self._arrays
        for name, value in zip(_COLUMNS, (step, attempt, tensor, quantity), strict=True):
            arrays[name][row] = value
        arrays["data"][filled : filled + len(data)] = np.frombuffer(data, np.uint8)
        arrays["offsets"][row + 1] = filled + len(data)
        self._struct.rows, self._struct.bytes = row + 1, filled + len(data)

    def take(self) -> pa.RecordBatch:
        """All rows as one record batch (schema records.VALUES, no copy); the block is empty afterwards."""
        rows, arrays = self.rows, self._arrays
        columns = [
            pa.Array.from_buffers(VALUES.field(name).type, rows, [None, pa.py_buffer(arrays[name])]) for name in _COLUMNS
        ]
        data = pa.py_buffer(arrays["data"]).slice(0, int(self._struct.bytes))
        columns.append(pa.repeat(pa.scalar(_DTYPE), rows))
        columns.append(pa.Array.from_buffers(pa.binary(), rows, [None, pa.py_buffer(arrays["offsets"]), data]))
        batch = pa.RecordBatch.from_arrays(columns, schema=VALUES)
        self._start()
        return batch
