"""Tensors as raw bytes at any address, weighed by any kernel, compared with reference.py (the oracle of these tests)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from weighbridge.capture.kernel import BF16, F16, F32, F64, ITEM, ITEM_SIZES, Kernel
from weighbridge.capture.rowblock import RowBlock
from weighbridge.records import histogram_bins
from weighbridge.reference import CrossTerms, Summary

NUMPY = {F32: np.float32, F64: np.float64, F16: np.float16}
CODES = {"float32": F32, "float64": F64, "float16": F16, "bfloat16": BF16}
BITS = {2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass
class Placed:
    """A tensor's bytes, `shift` bytes off an aligned address."""

    room: np.ndarray[Any, Any]
    start: int
    code: int
    count: int

    @property
    def address(self) -> int:
        return int(self.room.ctypes.data) + self.start

    @property
    def raw(self) -> bytes:
        return self.room[self.start : self.start + self.count * ITEM_SIZES[self.code]].tobytes()

    @property
    def values(self) -> np.ndarray[Any, Any]:
        """The elements as the reference takes them (a copy)."""
        if self.code == BF16:
            return (np.frombuffer(self.raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
        return np.frombuffer(self.raw, NUMPY[self.code])

    @property
    def itemsize(self) -> int:
        return ITEM_SIZES[self.code]


def place(data: np.ndarray[Any, Any], code: int, shift: int = 0) -> Placed:
    """Put values (any float array) or raw bits (an unsigned one) into memory."""
    if data.dtype.kind == "u":
        raw = data
    elif code == BF16:
        raw = (data.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    else:
        with np.errstate(over="ignore", under="ignore"):
            raw = data.astype(NUMPY[code])
    room = np.empty(raw.nbytes + 128, np.uint8)
    start = -room.ctypes.data % 64 + shift
    room[start : start + raw.nbytes] = np.frombuffer(raw.tobytes(), np.uint8)
    return Placed(room, start, code, len(data))


def item_of(
    parameter: Placed, snapshot: Placed | None = None, gradient: Placed | None = None, **more: int
) -> np.ndarray[Any, Any]:
    item = np.zeros(1, ITEM)
    item["parameter"], item["count"], item["dtype"] = parameter.address, parameter.count, parameter.code
    if snapshot is not None:
        item["snapshot"] = snapshot.address
    if gradient is not None:
        item["gradient"], item["gradient_dtype"] = gradient.address, gradient.code
    for name, value in more.items():
        item[name] = value
    return item


def rows_of(kernel: Kernel, items: np.ndarray[Any, Any], step: int = 0, attempt: int = 0) -> list[dict[str, Any]]:
    """Weigh, and give each row as a dict with all counts of its histogram."""
    bins = histogram_bins(int(items["histogram"].max(initial=0)))
    block = RowBlock(len(items) * 3, len(items) * 3 * bins, bins)
    kernel.weigh(items, step, attempt, block)
    batch = block.take()
    batch.validate(full=True)
    rows: list[dict[str, Any]] = batch.to_pylist()
    for row in rows:
        hist = np.zeros(histogram_bins(row["hist_bits"]), np.int64)
        hist[row["hist_first"] : row["hist_first"] + len(row["hist"])] = row["hist"]
        assert not row["hist"] or (row["hist"][0] and row["hist"][-1]), "leading and trailing zeros are left out"
        row["hist"] = hist
    return rows


def agrees(row: dict[str, Any], expected: Summary) -> None:
    """Counts, extremes and histogram exactly; each sum within 1e-7 of the sum of its terms' absolute values."""
    for name in ("count", "nan", "pos_inf", "neg_inf", "zero", "subnormal", "hist_count"):
        assert row[name] == getattr(expected, name), name
    for name in ("min", "max"):
        assert same(row[name], getattr(expected, name)), name
    assert np.array_equal(row["hist"], expected.hist)
    near(row["sum"], expected.sum, expected.sum_abs)
    near(row["sum_abs"], expected.sum_abs, expected.sum_abs)
    near(row["sum_sq"], expected.sum_sq, expected.sum_sq)


def crosses(row: dict[str, Any], expected: CrossTerms, scales: CrossTerms) -> None:
    """`scales`: the cross terms of the absolute values."""
    assert row["lost"] == expected.lost
    for name in ("dot_gradient_parameter", "dot_gradient_update", "dot_update_parameter"):
        near(row[name], getattr(expected, name), getattr(scales, name))


def near(found: float, expected: float, scale: float) -> None:
    if math.isfinite(scale):  # where a double overflows, the order of the terms decides what comes out
        assert abs(found - expected) <= 1e-7 * scale, (found, expected)


def same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))
