"""Weighing in torch operations: where the C kernel was not built, and for tensors on cuda or mps.

Some fifteen passes instead of one, so many times slower; the numbers are the same. `summarize` never waits for the
device: it returns one vector on the tensor's own device, which the caller copies and reads when it is ready.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any, Final

import numpy as np
import torch

from weighbridge.capture.kernel import ALL_ROWS, BF16, F16, F32, F64, ITEM_SIZES, NO_HISTOGRAM, Items
from weighbridge.capture.rowblock import BlockFull, RowBlock
from weighbridge.capture.sketch import sketch_of
from weighbridge.capture.valueblock import ValueBlock
from weighbridge.records import (
    EXPONENT_LOW,
    HISTOGRAM_BINS,
    HISTOGRAM_LINE_BYTES,
    HISTOGRAM_STRIDE,
    HISTOGRAM_WHOLE_BELOW,
    Quantity,
    histogram_bins,
)

DTYPES: Final = {F32: torch.float32, F64: torch.float64, F16: torch.float16, BF16: torch.bfloat16}
# The vector of `summarize`: these columns of a row, then the counts of all bins.
ADDED_BEFORE: Final = ("count", "nan", "pos_inf", "neg_inf", "zero", "subnormal")
VECTOR: Final = (*ADDED_BEFORE, "min", "max", "sum", "sum_abs", "sum_sq", "hist_count")
_MIN, _MAX, _COUNTED = VECTOR.index("min"), VECTOR.index("max"), len(VECTOR)
VECTOR_LENGTH: Final = len(VECTOR) + HISTOGRAM_BINS
_PIECE: Final = 1 << 22  # elements at once: bounds the temporaries; a multiple of the histogram's period


def summarize(tensor: torch.Tensor, itemsize: int | None = None, bits: int = 0) -> torch.Tensor:
    """One vector (see VECTOR) in float64 on the tensor's own device, without waiting for it.

    mps has no float64: there the vector is float32, and counts above 2^24 are rounded. `itemsize`: of the tensor whose
    lines the histogram looks at, where `tensor` is an update computed in a wider dtype. `bits`: of its mantissa that the
    histogram tells apart.
    """
    flat = _real(tensor.detach()).reshape(-1)
    line = HISTOGRAM_LINE_BYTES // (itemsize or flat.element_size())
    whole = flat.numel() < HISTOGRAM_WHOLE_BELOW
    pieces = [_summarize_piece(piece, 0 if whole else line, bits) for piece in torch.split(flat, _PIECE)]
    merged = torch.stack(pieces).sum(0)
    merged[_MIN] = torch.stack([piece[_MIN] for piece in pieces]).min()
    merged[_MAX] = torch.stack([piece[_MAX] for piece in pieces]).max()
    return merged


def _real(tensor: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _summarize_piece(x: torch.Tensor, line: int, fine: int) -> torch.Tensor:
    wide = torch.float32 if x.device.type == "mps" else torch.float64
    bits, infinite, mantissa, bias = _bits(x)
    magnitude = bits & (2 ** (bits.element_size() * 8 - 1) - 1)
    finite = magnitude < infinite
    negative = bits < 0
    normal = ((bias - 14) << mantissa) if x.dtype == torch.float16 else (1 << mantissa)
    zero = magnitude == 0
    values = torch.where(finite, x, torch.zeros_like(x)).to(wide)
    ends = [values.new_full((1,), math.inf), values.new_full((1,), -math.inf)]  # so that nothing is empty
    parts = [
        torch.ones_like(bits).sum(),
        (magnitude > infinite).sum(),
        ((magnitude == infinite) & ~negative).sum(),
        ((magnitude == infinite) & negative).sum(),
        zero.sum(),
        ((magnitude < normal) & ~zero).sum(),
        torch.cat([torch.where(finite, values, math.inf), ends[0]]).min(),
        torch.cat([torch.where(finite, values, -math.inf), ends[1]]).max(),
        values.sum(),
        values.abs().sum(),
        (values * values).sum(),
    ]
    counts, looked_at = _histogram(bits, magnitude, finite & ~zero, (mantissa, bias, fine), line)
    vector = torch.stack([part.to(wide) for part in [*parts, looked_at]])
    return torch.cat([vector, counts.to(wide)])


def _bits(x: torch.Tensor) -> tuple[torch.Tensor, int, int, int]:
    """The bits as integers (half precision widened, exactly), those of infinity, bits of the mantissa, bias."""
    if x.dtype == torch.float64:
        return x.view(torch.int64), 0x7FF0000000000000, 52, 1023
    return x.float().view(torch.int32), 0x7F800000, 23, 127


def _histogram(
    bits: torch.Tensor, magnitude: torch.Tensor, has_bin: torch.Tensor, form: tuple[int, int, int], line: int
) -> tuple[torch.Tensor, torch.Tensor]:
    mantissa, bias, fine = form
    number = histogram_bins(fine)
    half = number // 2
    low = ((bias + EXPONENT_LOW) << fine) - 1
    place = ((magnitude >> (mantissa - fine)) - low).clamp(0, half - 1).to(torch.int64)
    bins = torch.where(bits < 0, half - 1 - place, half + place)
    bins = torch.where(has_bin, bins, number)  # zeros and non-finite ones: counted one past the end
    looked_at = torch.ones_like(bins)
    if line:
        index = torch.arange(len(bins), device=bits.device)
        looked_at = (index // line % HISTOGRAM_STRIDE == 0).to(torch.int64)
    counts = torch.zeros(number + 1, dtype=torch.int64, device=bits.device)  # integers: any order, same counts
    return counts.scatter_add_(0, bins, looked_at)[:number], looked_at.sum()


def row_from_vector(vector: np.ndarray[Any, Any] | torch.Tensor) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    """The columns of a row and the 132 counts, for RowBlock.add, from a vector that is on the CPU by now."""
    vector = np.asarray(vector, dtype=np.float64)
    values: dict[str, Any] = dict(zip(VECTOR, vector[:_COUNTED].tolist(), strict=True))
    if values["min"] > values["max"]:
        values["min"] = values["max"] = math.nan
    none = dict.fromkeys(("dot_gradient_parameter", "dot_gradient_update", "dot_update_parameter"), math.nan)
    return values | none, vector[_COUNTED:].astype(np.uint32)


class TorchKernel:
    """The same as the native kernel, in torch operations. `note` says why it is used."""

    look = None
    helper_seconds = 0.0

    def __init__(self, note: str = "") -> None:
        self.name, self.note = "torch", note

    def weigh(
        self, items: Items, step: int, attempt: int, block: RowBlock, values: ValueBlock | None = None, keep: int = 0
    ) -> None:
        _check_room(items, block, values, keep)
        for item in items:
            key = {"step": step, "attempt": attempt, "tensor": item["tensor"]}
            if item["snapshot"]:
                if values is not None and item["values"] & keep:
                    _keep_values(item, step, attempt, values)
                _weigh_step(item, key, block)
            else:
                after = _view(item["parameter"], item["count"], item["dtype"])
                _add(block, key | {"quantity": item["quantity"]}, after, item)

    def moved(self, items: Items) -> list[int]:
        differ = [bool(item["snapshot"]) and _bytes(item, "parameter") != _bytes(item, "snapshot") for item in items]
        return [i for i, differs in enumerate(differ) if differs]

    def sketch(self, items: Items) -> None:
        for item in items:
            if not item["address"]:
                continue
            flat = _view(item["address"], item["count"], item["dtype"])
            wide = flat.double()
            item["sum_sq"], item["sum_abs"] = float((wide * wide).sum()), float(wide.abs().sum())
            if item["kept"]:
                kept = (wide if item["numbers"] == item["count"] else sketch_of(flat)).contiguous()
                ctypes.memmove(int(item["kept"]), kept.data_ptr(), 8 * int(item["numbers"]))


def _check_room(items: Items, block: RowBlock, values: ValueBlock | None, keep: int) -> None:
    copied = items["snapshot"] != 0
    kept = items["count"][copied & (items["values"] & keep != 0)]
    full = not block.room_for(int(copied.sum()) * 3 + int((~copied).sum()), rows_each=1)
    if full or (values is not None and not values.room_for(3 * len(kept), 12 * int(kept.sum()))):
        raise BlockFull("a block is full: take what is in it, or make a larger one")


def _keep_values(item: np.void, step: int, attempt: int, values: ValueBlock) -> None:
    before, after = (np.frombuffer(_bytes(item, name), np.float32) for name in ("snapshot", "parameter"))
    with np.errstate(all="ignore"):  # infinity minus infinity is what is recorded, not something to warn the user of
        update = after - before
    key = (step, attempt, int(item["tensor"]))
    values.add(*key, Quantity.PARAMETER, before.tobytes())
    if item["gradient"]:
        values.add(*key, Quantity.GRADIENT, _bytes(item, "gradient"))
    values.add(*key, Quantity.UPDATE, update.tobytes())


def _weigh_step(item: np.void, key: dict[str, Any], block: RowBlock) -> None:
    after = _view(item["parameter"], item["count"], item["dtype"])
    before = _view(item["snapshot"], item["count"], item["dtype"])
    gradient = _view(item["gradient"], item["count"], item["gradient_dtype"]) if item["gradient"] else None
    wide = torch.float64 if after.dtype == torch.float64 else torch.float32
    update = after.to(wide) - before.to(wide)
    rows = ALL_ROWS & ~int(item["skip"])
    if rows & 1 << Quantity.PARAMETER:
        _add(block, key | {"quantity": Quantity.PARAMETER}, before, item)
    if gradient is not None and rows & 1 << Quantity.GRADIENT:
        _add(block, key | {"quantity": Quantity.GRADIENT}, gradient, item)
    if rows & 1 << Quantity.UPDATE:
        cross = _cross(update, before, gradient)
        _add(block, key | {"quantity": Quantity.UPDATE} | cross, update, item, ITEM_SIZES[item["dtype"]])
    size = int(item["count"]) * ITEM_SIZES[item["dtype"]]
    ctypes.memmove(int(item["snapshot"]), int(item["parameter"]), size)


def _cross(update: torch.Tensor, before: torch.Tensor, gradient: torch.Tensor | None) -> dict[str, float]:
    cross: dict[str, float] = {"dot_update_parameter": _dot(update, before)}
    if gradient is not None:
        cross["dot_gradient_parameter"] = _dot(gradient, before)
        cross["dot_gradient_update"] = _dot(gradient, update)
        cross["lost"] = int(((gradient != 0) & (update == 0)).sum())
    return cross


def _add(block: RowBlock, known: dict[str, Any], tensor: torch.Tensor, item: np.void, itemsize: int | None = None) -> None:
    bits = int(item["histogram"])
    values, hist = row_from_vector(summarize(tensor, itemsize, max(bits, 0)).numpy())
    if bits == NO_HISTOGRAM:
        values["hist_count"], hist = 0, hist[:0]
    block.add(values | known | {"hist_bits": max(bits, 0)}, hist)


def _dot(a: torch.Tensor, b: torch.Tensor) -> float:
    both = torch.isfinite(a) & torch.isfinite(b)
    return float((torch.where(both, a, 0).double() * torch.where(both, b, 0).double()).sum())


def _view(address: np.uint64, count: np.int64, dtype: np.int32) -> torch.Tensor:
    """The tensor at an address, without a copy unless it lies unaligned, where torch would not read it."""
    code = int(dtype)
    if not count:
        return torch.empty(0, dtype=DTYPES[code])
    raw = (ctypes.c_char * (int(count) * ITEM_SIZES[code])).from_address(int(address))
    aligned: Any = raw if int(address) % ITEM_SIZES[code] == 0 else bytearray(raw)
    return torch.frombuffer(aligned, dtype=DTYPES[code])


def _bytes(item: np.void, which: str) -> bytes:
    return ctypes.string_at(int(item[which]), int(item["count"]) * ITEM_SIZES[item["dtype"]])
