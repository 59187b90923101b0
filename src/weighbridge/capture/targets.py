"""What a loss compares with, as autograd keeps it: of torch's loss functions, and of losses that are written by hand.

By hand, the root leads back through means, sums, signs and single factors to one of

    classes     `log_softmax(z)[torch.arange(n), y]`, `.gather(1, y[:, None])`, `logsumexp(z) - z[..., y]`, `log_softmax(z) *
                one_hot`
    yes and no  `y * log(p) + (1 - y) * log(1 - p)`, y of 0 and 1 alone
    numbers     a square or absolute value of `prediction - y`: y is what the model gave less what is kept of the difference

A weight for each sample, a sum of several errors and anything unknown on the way end it: nothing is told then. Nor beside
a term whose samples are weighted by numbers of both signs: that is a policy gradient, its size is no error, and what else is
in the loss has returns of that policy for targets (Sutton and Barto 2018, section 13.5).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from weighbridge.capture.graphwalk import TO_NUMPY, edges, maker, picked, result_of, saved
from weighbridge.capture.seats import is_plain

MOST_NODES: Final = 24  # between the loss's root and the targets
OF_TARGETS: Final = ("NllLoss", "MseLoss", "BinaryCrossEntropy", "SmoothL1Loss", "HuberLoss")
RESHAPES: Final = ("View", "UnsafeView", "Unsqueeze", "Squeeze", "Alias", "Clone", "ToCopy", "Select")
LINEAR: Final = ("Mean", "Sum", "Neg", "Add", "Sub", "Rsub", *RESHAPES)
WHOLE: Final = (*TO_NUMPY, torch.int64, torch.int32, torch.bool)
CHOICES: Final = ("Minimum", "Maximum", "Min", "Max")
LOGS: Final = ("LogSoftmax", "LogSigmoid", "Log")


class Targets(NamedTuple):
    """Of a loss: its function, by torch's name, and what it compares with."""

    loss: str  # empty = not known
    values: torch.Tensor | None = None
    mean_square: float = 0.0  # of the differences, where the values come from these and hold their rounding; 0 = they do not


def targets_of(root: torch.Tensor) -> Targets:
    """What the loss at this root compares with; of nothing where that is not known."""
    if (start := maker(root)) is None:
        return Targets("")
    ends = [*_linear(start)]
    if any(_is_policy_gradient(node) for node in ends):
        return Targets("")
    for node in _first_path(start):
        if (name := _name(node)).startswith(OF_TARGETS):
            return _checked(name, saved(node, "target"))
    found = [one for node in ends if (one := _by_hand(node)).loss]
    is_one = len(found) == 1 or (len(found) == 2 and {one.loss for one in found} == {"BinaryCrossEntropy"})
    return found[0] if is_one else Targets("")


def _is_policy_gradient(node: Any) -> bool:
    """Is it a product with constants of both signs, one for each sample, or the smaller of two such (PPO)?"""
    if _name(node) in CHOICES:
        return any(_is_policy_gradient(_behind(one)) for one, _ in node.next_functions if one is not None)
    if _name(node) != "Mul":
        return False
    for place, side in ((0, "self"), (1, "other")):
        constant = saved(node, side) if node.next_functions[place][0] is None else None
        if constant is not None and is_plain(constant) and constant.is_cpu and constant.dtype in TO_NUMPY:
            values = constant.numpy()
            if values.ndim and bool((values < 0).any()) and bool((values > 0).any()):
                return True
    return False


def _first_path(node: Any) -> Iterator[Any]:
    """From the root back, always by the first way."""
    for _ in range(MOST_NODES // 2):
        if node is None:
            return
        yield node
        node = next((before for before, _ in edges(node) if before is not None), None)


def _linear(root: Any) -> Iterator[Any]:
    """The nodes that end the linear part of a loss."""
    waiting = [root]
    for _ in range(MOST_NODES):
        if not waiting:
            return
        node = waiting.pop(0)
        name, behind = _name(node), [one for one, _ in edges(node) if one is not None]
        if name in LINEAR or _has_single_factor(node, name):
            waiting += behind
        else:
            yield node


def _by_hand(node: Any) -> Targets:
    name = _name(node)
    if name in ("Index", "Gather"):
        return _checked("NllLoss", picked(node)) if _is_of_logs(node) else Targets("")
    if name == "Mul":
        is_square = node.next_functions[0][0] is node.next_functions[-1][0]
        return _difference(node, "MseLoss") if is_square else _times_logs(node)
    if node.name() == "PowBackward0" and node._saved_exponent == 2:  # PowBackward1: of a tensor
        return _difference(node, "MseLoss")
    return _difference(node, "L1Loss") if name == "Abs" else Targets("")


def _is_of_logs(node: Any) -> bool:
    """Are the picked numbers log-probabilities, or logits (whose logsumexp is taken off beside)?"""
    return _name(node.next_functions[0][0]) in ("LogSoftmax", "Addmm", "Mm", "View", "Linear", "Add")


def _times_logs(node: Any) -> Targets:
    """Constants that multiply logarithms: of one class in each row, or of 0 and 1."""
    for place, side in ((0, "self"), (1, "other")):
        before, constant = node.next_functions[1 - place][0], saved(node, side)
        is_constant = node.next_functions[place][0] is None and _name(before) in LOGS
        if not is_constant or constant is None or not (is_plain(constant) and constant.is_cpu and constant.dtype in WHOLE):
            continue
        values = constant.numpy()
        if not ((values == 0) | (values == 1)).all():
            continue
        if _name(before) != "LogSoftmax":
            return _checked("BinaryCrossEntropy", constant)
        if values.ndim == 2 and (values.sum(1) == 1).all():
            return _checked("NllLoss", torch.from_numpy(values.argmax(1)))
    return Targets("")


def _difference(node: Any, name: str) -> Targets:
    before, kept = _behind(node.next_functions[0][0]), saved(node, "self")
    if _name(before) != "Sub" or kept is None or not is_plain(kept) or not kept.is_cpu or kept.dtype not in TO_NUMPY:
        return Targets("")
    sides = [one is not None for one, _ in before.next_functions]
    side = before.next_functions[sides.index(True)][0]
    given = result_of(_behind(side)) if sides.count(True) == 1 else None
    if given is None or given.dtype not in TO_NUMPY or not kept.dim():
        return Targets("")
    if not given.numel() == math.prod(side._input_metadata[0].shape) == kept.numel():  # a part of it, or one for several
        return Targets("")
    less = kept.numpy().astype(np.float64)
    values = given.numpy().reshape(less.shape) - (less if sides[0] else -less)
    return Targets(name, torch.from_numpy(values), float((less**2).mean()))


def _behind(node: Any) -> Any:
    """Through reshapes, and where one column is selected."""
    while _name(node) in RESHAPES:
        node = node.next_functions[0][0]
    return node


def _has_single_factor(node: Any, name: str) -> bool:
    """Is it a product with, or a quotient by, one number that needs no gradient?"""
    if name not in ("Mul", "Div") or any(one is not None for one, _ in node.next_functions[1:]):
        return False
    other = saved(node, "other")
    return other.numel() == 1 if other is not None else not hasattr(node, "_raw_saved_other")


def _checked(name: str, values: torch.Tensor | None) -> Targets:
    is_fit = values is not None and is_plain(values) and values.is_cpu and values.dim()
    return Targets(name, values) if is_fit else Targets("")


def _name(node: Any) -> str:
    return str(node.name()).partition("Backward")[0]
