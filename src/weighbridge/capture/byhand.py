"""Steps that no optimizer takes: `p -= rate * p.grad` written by hand, and an optimizer's step inside a compiled graph.

No hook tells of them. But the parameters stand still from the end of one backward pass to that update, and have moved
when the next pass begins: what lies between is the step. Its gradient is the one that the backward pass left; whoever
clips it by hand before using it, we do not see that.
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch

from weighbridge.capture.snapshots import Weighed
from weighbridge.capture.tensors import TensorTable

ELEMENTS: Final = 1 << 20  # parameters and gradients are copied after each backward pass: for small models only
# The first step of any descent goes along the gradient or its sign. Weights that were loaded or drawn anew do not.
FIRST_COSINE: Final = 0.5
PASSES: Final = 3  # in a row, after each of which the weights have moved somehow: a step with decay or momentum of its own
# A parameter that stays where its gradient times the rate of those that move would show: nobody steps it.
SHOWS: Final = 2.0**-20  # of its largest element; the spacing of float32 is 2^-23
NOTE: Final = (
    "no step of an optimizer was seen, yet the weights move along their gradients: what changes between two backward passes "
    "is weighed as a step, its gradient as the backward pass left it. Activations are not weighed"
)


class StandIn:
    """Stands where an optimizer would: it holds the parameters, and has no settings."""

    def __init__(self) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": []}]
        self.state: dict[Any, Any] = {}


class ByHand:
    """Watches whether parameters move between backward passes. Made until the first optimizer steps."""

    def __init__(self, table: TensorTable, copy_bytes: int) -> None:
        self.table, self.copy_bytes = table, copy_bytes
        self.optimizer = StandIn()
        self.is_certain = self.has_risen = False
        self.moves = 0  # passes in a row after which something has moved
        self.stepped: set[int] = set()  # tensors that have moved, or of which nobody can tell
        self.before: dict[int, torch.Tensor] = {}  # by tensor: as the last backward pass found it
        self.gradients: dict[int, torch.Tensor] = {}

    def after_backward(self, step: int) -> bool:
        """Copy parameters and gradients. False where the model is too large for that, or has nothing to copy."""
        self.table.rescan(step)  # an update by hand may put new parameters in the place of the old ones
        weighed = self._weighed()
        sizes = [(w.parameter.numel(), w.parameter.element_size()) for w in weighed]
        too_large = sum(n for n, _ in sizes) > ELEMENTS or 2 * sum(n * size + 64 for n, size in sizes) > self.copy_bytes
        if too_large or not weighed:
            return False
        self.before = {w.tensor: w.parameter.detach().clone() for w in weighed}
        self.gradients = {w.tensor: w.parameter.grad.detach().clone() for w in weighed if w.parameter.grad is not None}
        return True

    def has_stepped(self, step: int) -> bool:
        """Have the parameters moved since the last backward pass, along their gradients the first time?"""
        if not self.before:
            return False
        self.table.rescan(step)
        weighed = [w for w in self._weighed() if w.tensor in self.before and _alike(w.parameter, self.before[w.tensor])]
        moved = {w.tensor for w in weighed if not _same(w.parameter, self.before[w.tensor])}
        self.moves = self.moves + 1 if moved else 0
        if not moved:
            return False
        if not self.is_certain and self.moves < PASSES and not self._goes_along_the_gradient(weighed):
            return False
        self.is_certain = True
        self.stepped |= moved
        if still := [w for w in weighed if w.tensor not in self.stepped]:
            rate = min((self._rate(w) for w in weighed if w.tensor in moved), default=0.0)
            self.stepped |= {w.tensor for w in still if not self._would_show(w, rate)}
        self.optimizer.param_groups = [{"params": [w.parameter for w in weighed if w.tensor in self.stepped]}]
        return True

    def _rate(self, w: Weighed) -> float:
        """Of what has moved: its largest change over its largest gradient; 0 where it has none."""
        gradient = self._largest_gradient(w)
        change = float((w.parameter.detach() - self.before[w.tensor]).abs().max())
        return change / gradient if gradient > 0 and math.isfinite(change) else 0.0

    def _would_show(self, w: Weighed, rate: float) -> bool:
        """Would a step at this rate move it?"""
        is_exact = w.parameter.dtype in (torch.float32, torch.float64)
        step = rate * self._largest_gradient(w)
        return is_exact and math.isfinite(step) and step > SHOWS * float(w.parameter.detach().abs().max())

    def _largest_gradient(self, w: Weighed) -> float:
        found = self.gradients.get(w.tensor)
        return float(found.to_dense().abs().max()) if found is not None and found.numel() else 0.0

    def _weighed(self) -> list[Weighed]:
        return [w for w in self.table.alive() if w.is_direct and not w.is_copy and w.parameter.requires_grad]

    def _goes_along_the_gradient(self, weighed: list[Weighed]) -> bool:
        """Uphill only at the second time: sharpness-aware minimisation (Foret et al. 2021) climbs before its first step."""
        cosine = self._cosine(weighed)
        may_be_a_climb, self.has_risen = cosine > 0 and not self.has_risen, self.has_risen or cosine > 0
        return abs(cosine) >= FIRST_COSINE and not may_be_a_climb

    def _cosine(self, weighed: list[Weighed]) -> float:
        """Between the change and the gradient or its sign, the farther from 0; over all parameters together."""
        sums = torch.zeros(5, dtype=torch.float64)
        for w in weighed:
            found = self.gradients.get(w.tensor)
            if found is None or found.is_complex():
                continue
            u = w.parameter.detach().double() - self.before[w.tensor].double()
            u = torch.where(u.isfinite(), u, 0.0)  # a weight that has become NaN shows no direction, the others do
            g = found.to_dense().double()
            sums += torch.stack([(u * u).sum(), *(x for d in (g, g.sign()) for x in ((u * d).sum(), (d * d).sum()))]).cpu()
        update, *each = sums.tolist()
        cosines = [both / math.sqrt(update * size) for both, size in (each[:2], each[2:]) if update * size > 0]
        return max(cosines, key=abs, default=0.0)


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)  # NaN in a weight is no movement


def _alike(parameter: torch.Tensor, before: torch.Tensor) -> bool:
    same_form = (parameter.shape, parameter.dtype, parameter.stride()) == (before.shape, before.dtype, before.stride())
    return same_form and parameter.device == before.device
