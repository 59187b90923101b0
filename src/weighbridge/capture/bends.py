"""Which function bends what a module gives, and how much of it lies where that function is flat.

A functional activation (`torch.tanh(self.first(x))`) has no module. It is seen where its result is given to the next module:
the autograd node behind that argument says which function it was, the one behind that says whose output it took, and the
argument itself holds the values. Nothing is unpacked from the graph (a checkpoint would compute anew), so only changes of
shape may lie between. What ends a network is given to no module and has no bend.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch

from weighbridge.capture.spread import evenly

if TYPE_CHECKING:
    from weighbridge.capture.closely import Closely

SAMPLES: Final = 64
POSITIONS: Final = 8
FEATURES: Final = 1024
MOST_NODES: Final = 6  # changes of shape in a row
ALWAYS: Final = 0.95  # of the numbers of a unit
SHAPES: Final = frozenset(
    {
        *("ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0", "TransposeBackward0", "PermuteBackward0"),
        *("CloneBackward0", "UnsqueezeBackward0", "SqueezeBackward0", "SqueezeBackward1", "SelectBackward0", "SliceBackward0"),
    }
)
SUMS: Final = frozenset({"AddBackward0", "NativeLayerNormBackward0", "NativeBatchNormBackward0", "ToCopyBackward0"})


class Function(NamedTuple):
    """One that bends."""

    name: str
    is_flat: Callable[[torch.Tensor], torch.Tensor]  # of results: where?
    bounds: tuple[float, float] = (0.0, 0.0)  # of one that cuts off


# Of a result: is the slope there below 1e-2 (of what saturates), 1e-3 (of what dies)? The same in native/weighbridge_closely.c.
FLAT: Final[Mapping[str, Function]] = {
    "TanhBackward0": Function("tanh", lambda a: 1 - a * a < 1e-2),
    "SigmoidBackward0": Function("sigmoid", lambda a: a * (1 - a) < 1e-2),
    "ReluBackward0": Function("relu", lambda a: a <= 0),
    "GeluBackward0": Function("gelu", lambda a: a.abs() < 1e-4),  # x < -4.1
    "SiluBackward0": Function("silu", lambda a: a.abs() < 9e-4),  # x < -9.2
}
CUT_OFF: Final = {"HardtanhBackward0": ("_saved_min_val", "_saved_max_val"), "ClampBackward1": ("_saved_min", "_saved_max")}
Names = dict[int, Any]  # sequence number of an autograd node: whose output it made


class Bend(NamedTuple):
    """The columns of the table `spread` after the logit."""

    function: str  # "tanh", ...; empty = none was seen
    flat: float  # share of the numbers looked at where it is flat
    flat_units: float  # share of the units for which nearly all (ALWAYS) of them are
    asleep_units: float  # share of the units for which all are


NONE: Final = Bend("", math.nan, math.nan, math.nan)


def bend_of(given: Any, made: Names, closely: Closely | None = None) -> tuple[Any, Bend] | None:
    """Of what a module is given: whose output was bent, and how. None where it is not the result of a known function."""
    if type(given) is not torch.Tensor or given.dim() < 2 or not given.numel():
        return None
    node = given.grad_fn
    for _ in range(MOST_NODES):
        if node is None or node.name() not in SHAPES:
            break
        node = node.next_functions[0][0]
    function = None if node is None else FLAT.get(node.name()) or cut_off(node)
    if node is None or function is None:
        return None
    maker = maker_of(node.next_functions[0][0], made)
    return None if maker is None else (maker, _measured(given, function, closely))


def cut_off(node: Any) -> Function | None:
    """Of numbers that are cut off at two bounds, or at 0 (as ReLU and ReLU6 do); None for any other function."""
    low, high = (getattr(node, name, None) for name in CUT_OFF.get(node.name(), ("", "")))
    if not isinstance(low, int | float):
        return None
    if low == 0:
        return FLAT["ReluBackward0"]
    if not isinstance(high, int | float) or not low < high:
        return None
    return Function("hardtanh", lambda a: (a <= low) | (a >= high), (low, high))


def of_tanh(result: torch.Tensor, closely: Closely | None = None) -> Bend:
    """Of what a recurrent module with tanh gives."""
    return _measured(result, FLAT["TanhBackward0"], closely)


def maker_of(node: Any, made: Names) -> Any:
    """Whose output this node made, sums and norms followed by their first part, and constant factors."""
    for _ in range(MOST_NODES):
        if node is None:
            return None
        if (found := made.get(node._sequence_nr())) is not None:
            return found
        if node.name() not in SHAPES | SUMS and not _is_factor(node):
            return None
        node = node.next_functions[0][0]
    return None


def _is_factor(node: Any) -> bool:
    """Is it a product with what is no output of a module: a temperature, a mask?"""
    return node.name() in ("MulBackward0", "DivBackward0") and node.next_functions[1][0] is None


def _measured(result: torch.Tensor, function: Function, closely: Closely | None) -> Bend:
    told = closely.bend(result, function.name, function.bounds) if closely is not None else None
    if told is not None:
        return Bend(function.name, *told)
    return bend_from(function.name, shares_flat(result.detach(), function.is_flat)[0])


def bend_from(name: str, flat: np.ndarray) -> Bend:
    """flat: float [units], the share of each unit's numbers at which the function is flat."""
    return Bend(name, float(flat.mean()), float((flat > ALWAYS).mean()), float((flat == 1).mean()))


def shares_flat(values: torch.Tensor, is_flat: Callable[[torch.Tensor], torch.Tensor]) -> tuple[np.ndarray, int]:
    """Of each unit of [samples, ...] (along axis 1 of four or five dimensions, else the last), the share that is flat, among
    the numbers looked at; and how many samples these are of."""
    y = values.movedim(1, -1) if values.dim() in (4, 5) else values
    y = y[evenly(y.shape[0], SAMPLES)][..., evenly(y.shape[-1], FEATURES)]
    y = y.flatten(1, -2)[:, evenly(math.prod(y.shape[1:-1]), POSITIONS)] if y.dim() > 2 else y
    flat = is_flat(y.to(torch.float32)).reshape(-1, y.shape[-1]).numpy().mean(axis=0)
    return flat, len(y)
