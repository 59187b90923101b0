"""What is kept of gradients to compare them with later ones: their numbers, or a linear sketch of 1,024 (reference.sketch)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import torch

from weighbridge.capture.kernel import BF16, F16, F32, F64
from weighbridge.capture.shards import is_partial, is_sharded, local
from weighbridge.capture.snapshots import Weighed, as_real
from weighbridge.records import SKETCH_NUMBERS

# Tensors of at most so many elements are kept whole; in models with very many of them, only those no larger than a sketch.
WHOLE_ELEMENTS: Final = 4096
WHOLE_MODEL_ELEMENTS: Final = 1 << 20

# One gradient (wb_sketched in native/weighbridge_sketch.h). The kernel writes `numbers` doubles to the address `kept` (0 =
# none) and the two sums, which are NaN or infinite where an element is. An item with the address 0 is left as it is.
SKETCHED: Final = np.dtype(
    [
        ("address", np.uint64),
        ("count", np.int64),
        ("kept", np.uint64),
        ("dtype", np.int32),
        ("numbers", np.int32),
        ("sum_sq", np.float64),
        ("sum_abs", np.float64),
    ]
)
Items = np.ndarray[Any, np.dtype[np.void]]
_CODES: Final = {torch.float32: F32, torch.float64: F64, torch.float16: F16, torch.bfloat16: BF16}
EPSILONS: Final = np.array([torch.finfo(dtype).eps for dtype in _CODES])  # by code


def numbers_of(counts: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """How many numbers are kept of tensors with so many elements."""
    small = counts <= WHOLE_ELEMENTS
    whole = WHOLE_ELEMENTS if counts[small].sum() <= WHOLE_MODEL_ELEMENTS else SKETCH_NUMBERS
    return np.where(counts <= whole, counts, SKETCH_NUMBERS)


def gather(weighed: Iterable[Weighed], lent: Mapping[int, torch.Tensor] | None = None) -> tuple[Items, list[torch.Tensor]]:
    """Where the gradients lie, in the order of `weighed`; those that are not there have the address 0 and sums of 0.

    `lent`: gradients by tensor, in the place of the parameters' own. The tensors that are given back must live until the
    items have been read.
    """
    keep: list[torch.Tensor] = []
    found: list[tuple[int, int, int]] = []
    for w in weighed:
        gradient = w.parameter.grad if lent is None else lent.get(w.tensor)
        dense = None if gradient is None else in_order(gradient)
        if dense is None:
            found.append((0, 0, 0))
        else:
            keep.append(dense)
            found.append((dense.data_ptr(), dense.numel(), _CODES[dense.dtype]))
    items = np.zeros(len(found), SKETCHED)
    if found:
        items["address"], items["count"], items["dtype"] = zip(*found, strict=True)
    return items, keep


def in_order(gradient: torch.Tensor) -> torch.Tensor | None:
    """This process's numbers of a gradient in C order, a sparse one made dense; None where they cannot be read here."""
    if type(gradient) is not torch.Tensor and is_sharded(gradient):
        if is_partial(gradient):
            return None
        gradient = local(gradient)
    gradient = gradient.detach()
    if gradient.layout is not torch.strided:
        gradient = gradient.to_dense()
    if gradient.device.type != "cpu":
        return None
    real = as_real(gradient).contiguous()
    return real if real.dtype in _CODES else None


_PIECE: Final = 1024 * SKETCH_NUMBERS  # elements at once: bounds the temporaries; whole rows
_LOW: Final = 0xFFFFFFFF
_GOLDEN: Final = 0x9E3779B9


def sketch_of(flat: torch.Tensor) -> torch.Tensor:
    """The sketch in torch operations: float64 [1024] on the tensor's own device, without waiting for it."""
    kept = torch.zeros(SKETCH_NUMBERS, dtype=torch.float64, device=flat.device)
    for first in range(0, flat.numel(), _PIECE):
        values = flat[first : first + _PIECE].double()
        place = torch.arange(first, first + values.numel(), device=flat.device)
        column = place % SKETCH_NUMBERS
        row = _mixed((place // SKETCH_NUMBERS + _GOLDEN) & _LOW)
        is_negative = _mixed((row + column * _GOLDEN) & _LOW) >> 31 == 1
        kept.index_add_(0, (column + (row >> 22)) % SKETCH_NUMBERS, torch.where(is_negative, -values, values))
    return kept


def _mixed(h: torch.Tensor) -> torch.Tensor:
    """32 bits in int64: products wrap around, their lower half is right all the same."""
    h = h ^ h >> 16
    h = h * 0x85EBCA6B & _LOW
    h = h ^ h >> 13
    return h * 0xC2B2AE35 & _LOW
