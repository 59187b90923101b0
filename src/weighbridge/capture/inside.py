"""Activations inside a module's own forward pass: `torch.relu(x @ self.w1 + self.b1)`, of which no hook knows.

At the steps at which outputs are looked at, the graph of the loss is walked when its backward pass begins, and what autograd
has saved of each known function is measured as a bend. It is told of the weight behind it, whose tensor stands in the row.
What ends the network is left out: an output may lie at its bounds by right. A model in which no such function is found in the
first passes is not walked again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import torch

from weighbridge.capture.bends import CUT_OFF, FLAT, SHAPES, Names, bend_from, cut_off, maker_of, shares_flat
from weighbridge.capture.graphwalk import LEAF, THROUGH, saved
from weighbridge.capture.seats import is_readable
from weighbridge.capture.spread import Spread

MOST_NODES: Final = 4096  # about 2 us each
MOST_BENDS: Final = 64
IN_VAIN: Final = 3  # passes in which nothing was found
REACH: Final = 12  # operations between a function and the weight behind it
AFFINE: Final = ("Addmm", "Mm", "Bmm", "Baddbmm", "Addmv", "Mv", "Linear", "Convolution")
# What is saved by functions that keep what they are given, and where they are flat then (as `FLAT` has it of the result).
OF_GIVEN: Final[dict[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "GeluBackward0": lambda x: x < -4.1,
    "SiluBackward0": lambda x: x < -9.2,
}
GATE: Final = "SigmoidBackward0"
Key = tuple[int, str]  # tensor of a weight, function


class Inside:
    """What was seen in this step and is not yet written. id_of: the id of the tensor under which a parameter is watched."""

    def __init__(self, id_of: Callable[[torch.Tensor], int | None]) -> None:
        self.id_of = id_of
        self.vain, self.has_found = 0, False
        self._seen: dict[Key, tuple[np.ndarray, int, int]] = {}  # share flat per unit, summed over calls; calls; samples

    def on_backward(self, root: torch.Tensor, made: Names) -> None:
        """A backward pass begins at this root; made: whose output the nodes of this step made."""
        if root.grad_fn is None or self._seen or (self.vain >= IN_VAIN and not self.has_found):
            return
        for node in _inner(root.grad_fn):
            if len(self._seen) >= MOST_BENDS:
                break
            if maker_of(node.next_functions[0][0], made) is None:
                self._measure(node)
        self.has_found |= bool(self._seen)
        self.vain += not self._seen

    def _measure(self, node: Any) -> None:
        if (tensor := self._weight_behind(node)) is None or (found := _values(node)) is None:
            return
        name, values, is_flat = found
        flat, samples = shares_flat(values, is_flat)
        before, calls, _ = self._seen.get((tensor, name), (np.zeros(len(flat)), 0, 0))
        if len(before) == len(flat):
            self._seen[tensor, name] = before + flat, calls + 1, samples

    def _weight_behind(self, node: Any) -> int | None:
        """The nearest watched weight that this function takes something from; no other function lies between."""
        waiting = [node.next_functions[0][0]]
        for _ in range(REACH):
            for one in waiting:
                if one.name() == LEAF and one.variable.dim() > 1 and (found := self.id_of(one.variable)) is not None:
                    return found
            behind = (b for one in waiting if one.name() not in FLAT for b, _ in one.next_functions if b is not None)
            waiting = [*dict.fromkeys(map(_untransposed, behind))]
        return None

    def rows(self, step: int, attempt: int) -> list[tuple[Any, ...]]:
        """What was seen, as rows of `spread`; it is over."""
        seen, self._seen = self._seen, {}
        nan = float("nan")
        return [
            (
                step,
                attempt,
                tensor,
                *Spread(samples, 0, len(flat), nan, nan, nan, 0, nan, nan),
                nan,
                *bend_from(name, flat / calls),
            )
            for (tensor, name), (flat, calls, samples) in seen.items()
        ]


def _untransposed(node: Any) -> Any:
    while node.name() in THROUGH:
        node = node.next_functions[0][0]
    return node


def _inner(root: Any) -> Iterator[Any]:
    """The nodes of known functions behind which lies at least one layer on the way to the loss. A sigmoid that multiplies is a
    gate, and may begin closed."""
    known = {*FLAT, *CUT_OFF}
    waiting, seen, told = [(root, False, False)], set[tuple[Any, bool, bool]](), set[Any]()
    while waiting and len(seen) < MOST_NODES:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        node, is_inner, is_factor = one
        name = node.name()
        if is_inner and name in known and node not in told and not (is_factor and name == GATE):
            told.add(node)
            yield node
        is_inner |= name.startswith(AFFINE)
        is_factor = name == "MulBackward0" or (is_factor and name in SHAPES)
        waiting += [(before, is_inner, is_factor) for before, _ in node.next_functions if before is not None]


def _values(node: Any) -> tuple[str, torch.Tensor, Callable[[torch.Tensor], torch.Tensor]] | None:
    """Name of the function, what autograd saved of it, and where that is flat."""
    function, values = FLAT.get(node.name()) or cut_off(node), saved(node, "result")
    if function is None:
        return None
    name, is_flat = function.name, function.is_flat
    if values is None:
        values, is_flat = saved(node, "self"), OF_GIVEN.get(node.name(), is_flat)
    if values is None or values.dim() < 2 or not values.numel() or not is_readable(values):
        return None
    return name, values, is_flat
