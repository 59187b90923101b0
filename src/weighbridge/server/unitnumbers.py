"""The kept values of a layer unit by unit: whose they are, in which order they are shown, and which part of them is sent.

A matrix is [units, inputs]; a convolution is one small kernel for each unit and each input channel. However large a tensor is,
a page gets a window of it: so many units, so many inputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from weighbridge.errors import NothingRecorded
from weighbridge.server.layers import Layer
from weighbridge.store.record import RunRecord, Tensor

SORTS: Final = ("unit", "active", "bias")
UNITS: Final = 64  # rows of a picture
INPUTS: Final = 256  # columns of a matrix
CHANNELS: Final = 32  # input channels of a picture of kernels
KERNEL_NUMBERS: Final = 512  # of one unit
KERNELS: Final = 512  # of a picture


@dataclass(frozen=True, slots=True)
class Wish:
    """Which part is looked at: the order of the units, and the first unit and input in it."""

    sort: str = "unit"
    unit: int = 0
    input: int = 0


@dataclass(frozen=True, slots=True)
class Numbers:
    """All of one step, float64."""

    step: int
    weight: np.ndarray | None  # [units, inputs, numbers of one kernel]; of a matrix the last is 1
    kernel: tuple[int, int] | None  # rows and columns of a kernel; None: a matrix
    bias: np.ndarray | None  # [units]
    gradient_rms: np.ndarray | None  # [units]: of the weights of each unit

    @property
    def units(self) -> int:
        """How many there are."""
        main = self.weight if self.weight is not None else self.bias
        return 0 if main is None else len(main)


def numbers_of(record: RunRecord, layer: Layer, weight: Tensor | None, bias: Tensor | None, step: int) -> Numbers | None:
    """What was kept last at or before this step; of a weight that is too large its bias alone. None: nothing."""
    main = weight if weight is not None and kept(record, weight, "parameter", step) is not None else bias
    found = kept(record, main, "parameter", step)
    if main is None or found is None or not main.shape:
        return None
    at = found[0]
    rows = by_unit(found[1].astype(np.float64), layer, main, bias)
    gradient = kept(record, main, "gradient", at)
    size = None
    if gradient is not None and gradient[0] == at:
        squares = np.square(by_unit(gradient[1].astype(np.float64), layer, main, bias))
        size = np.sqrt(squares.reshape(len(rows), -1).mean(axis=1))
    if main is bias:
        return Numbers(at, None, None, rows.ravel(), size)
    beside = kept(record, bias, "parameter", at)
    added = beside[1].ravel().astype(np.float64) if beside is not None and beside[1].size == len(rows) else None
    return Numbers(at, rows, kernel_of(layer, main), added, size)


def kept(record: RunRecord, tensor: Tensor | None, quantity: str, step: int) -> tuple[int, np.ndarray] | None:
    """The step and the numbers that were kept last."""
    if tensor is None:
        return None
    try:
        return record.values(f"{tensor.model}:{tensor.name}", quantity, step)
    except NothingRecorded:
        return None


def kernel_of(layer: Layer, tensor: Tensor) -> tuple[int, int] | None:
    """Rows and columns of one kernel; the depth of a kernel in three dimensions counts as rows."""
    shape = tensor.shape
    is_kernel = len(shape) > 3 or (len(shape) == 3 and "Conv" in layer.kind)
    if not is_kernel or math.prod(shape[2:]) <= 1:
        return None
    return math.prod(shape[2:-1]), shape[-1]


def by_unit(values: np.ndarray, layer: Layer, tensor: Tensor, bias: Tensor | None) -> np.ndarray:
    """[units, inputs, numbers of one kernel]. A transposed convolution has its inputs first, in groups."""
    if "ConvTranspose" in layer.kind and len(tensor.shape) > 2:
        inputs, each = tensor.shape[:2]
        groups = max(1, (bias.count if bias is not None else each) // each)
        turned = values.reshape(groups, inputs // groups, each, -1).swapaxes(1, 2)
        return turned.reshape(groups * each, inputs // groups, -1)
    numbers = math.prod(tensor.shape[2:]) if kernel_of(layer, tensor) else 1
    return values.reshape(tensor.shape[0], -1, numbers) if values.size else values.reshape(tensor.shape[0], 0, 1)


def order(count: int, sort: str, fires: np.ndarray | None, bias: np.ndarray | None) -> np.ndarray:
    """The units in the order in which they are shown; what is no number comes first."""
    by = fires if sort == "active" else bias if sort == "bias" else None
    if by is None or len(by) != count:
        return np.arange(count)
    return np.argsort(np.nan_to_num(by, nan=-np.inf, posinf=np.inf, neginf=-np.inf), kind="stable")


def windowed(numbers: Numbers | None, units: dict[str, Any] | None, wish: Wish) -> dict[str, Any]:
    """The part of both that is shown: `shown` says which, `values` and `units` hold the numbers of these units only.

    What units gave is left out where they are others than those of the values.
    """
    count = numbers.units if numbers is not None else len(units["fires"]) if units is not None else 0
    fires = np.array(units["fires"]) if units is not None and len(units["fires"]) == count else None
    weight = numbers.weight if numbers is not None else None
    inputs, most_inputs, most = _sizes(weight, numbers.kernel if numbers is not None else None)
    first, start = _first(wish.unit, most, count), _first(wish.input, most_inputs, inputs)
    chosen = order(count, wish.sort, fires, numbers.bias if numbers is not None else None)[first : first + most]
    told: dict[str, Any] = {"shown": {"units": chosen.tolist(), "count": count, "first": first, "most": most}}
    told["shown"] |= {"inputs": [start, min(start + most_inputs, inputs)], "input_count": inputs, "most_inputs": most_inputs}
    told["units"] = None if units is None else _part_of_units(units, chosen if fires is not None else chosen[:0])
    told["values"] = None if numbers is None else _part(numbers, chosen, start, start + most_inputs)
    return told


def _sizes(weight: np.ndarray | None, kernel: tuple[int, int] | None) -> tuple[int, int, int]:
    """Inputs, how many of them a picture has, and how many units."""
    if weight is None:
        return 0, INPUTS, UNITS
    inputs = weight.shape[1]
    if kernel is None:
        return inputs, INPUTS, UNITS
    most = max(4, min(CHANNELS, KERNEL_NUMBERS // math.prod(kernel)))
    return inputs, most, max(8, min(UNITS, KERNELS // max(1, min(most, inputs))))


def _first(asked: int, most: int, count: int) -> int:
    """The start of the window that holds it; windows lie side by side."""
    return max(0, min(asked, count - 1)) // most * most


def _part(numbers: Numbers, chosen: np.ndarray, start: int, stop: int) -> dict[str, Any]:
    weight, bias, gradient = numbers.weight, numbers.bias, numbers.gradient_rms
    main = weight if weight is not None else bias
    finite = np.abs(main[np.isfinite(main)]) if main is not None else np.empty(0)
    sizes = gradient[np.isfinite(gradient) & (gradient > 0)] if gradient is not None else np.empty(0)
    return {
        "step": numbers.step,
        "kernel": numbers.kernel,
        "weight": None if weight is None else weight[chosen, start:stop].reshape(len(chosen), -1).tolist(),
        "bias": None if bias is None else bias[chosen].tolist(),
        "gradient_rms": None if gradient is None else gradient[chosen].tolist(),
        "gradient_range": [float(sizes.min()), float(sizes.max())] if sizes.size else None,
        "edge": float(finite.max()) if finite.size else 1.0,
    }


def _part_of_units(units: dict[str, Any], chosen: np.ndarray) -> dict[str, Any]:
    return {name: [each[i] for i in chosen] if isinstance(each, list) else each for name, each in units.items()}
