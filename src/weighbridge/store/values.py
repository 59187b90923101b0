"""The kept values of small tensors: raw bytes in the tensor's own dtype, little endian, C order."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weighbridge.records import Quantity
from weighbridge.store.tables import FOREVER


def kept_of(table: pa.Table, tensor: int, quantity: Quantity) -> pa.Table:
    """The rows of one quantity of one tensor in the table of values."""
    return table.filter(pc.and_(pc.equal(table.column("tensor"), tensor), pc.equal(table.column("quantity"), int(quantity))))


def kept_at(kept: pa.Table, step: int | None, shape: tuple[int, ...]) -> tuple[int, np.ndarray] | None:
    """The last of these rows at or before `step` (None = the last of all): its step and its numbers."""
    steps = kept.column("step").to_numpy()
    possible = np.flatnonzero(steps <= (FOREVER if step is None else step))
    if not len(possible):
        return None
    row = int(possible[np.argmax(steps[possible])])
    data, dtype = kept.column("data")[row].as_py(), kept.column("dtype")[row].as_py()
    return int(steps[row]), decode_values(data, dtype, shape)


def decode_values(data: bytes, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers as an array; bfloat16, which NumPy does not have, becomes float32 (exactly)."""
    if dtype == "bfloat16":
        array = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        array = np.frombuffer(data, np.dtype(dtype).newbyteorder("<"))
    array = array.reshape(shape) if array.size == int(np.prod(shape, dtype=np.int64)) else array
    array.setflags(write=False)
    return array
