"""The loss, from the root that was given to backward.

GradScaler multiplies the loss by its scale, and accumulation divides it by the number of micro-steps, or a sum over tokens
by the tokens of all micro-steps. Each leaves a `MulBackward0` or `DivBackward0` node at the root that still holds its factor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

_SUM = 2  # torch's number for reduction="sum"
_EXACT = 1e-6  # relative: shares of 1/n add up to 1 but for rounding
_DEPTH = 4  # a loss is scaled once or twice; a longer chain of factors is the user's own formula


@dataclass(slots=True)
class Passes:
    """Backward passes since the last step of an optimizer."""

    given: list[float] = field(default_factory=list)  # as given to backward
    scales: list[float] = field(default_factory=list)  # factor that GradScaler put on
    shares: list[float] = field(default_factory=list)  # of the step's loss: 1 / micro-steps, or own tokens / all tokens
    count: int = 0
    scale: float = 1.0  # of the last pass; stays for an optimizer that steps after another one
    are_sums: bool = True  # each over its own targets, divided by a number that is the same for all
    before: Passes | None = None  # those before somebody else's optimizer stepped

    def add(self, loss: torch.Tensor) -> float:
        """Note one root. Reads the value only where that does not wait for a device; gives NaN elsewhere."""
        self.count += 1
        if not loss.is_cpu or loss.is_complex():
            return float("nan")
        given = loss.item()
        if self.count <= 4096:  # beyond it nobody steps: keep counting, stop keeping
            self.scale, share, is_sum = factors(loss)
            self.are_sums &= is_sum
            self.given.append(given)
            self.scales.append(self.scale)
            self.shares.append(share)
        return given

    def set_apart(self) -> None:
        """An optimizer that is not watched has stepped: what came before it was its loss, if more passes follow."""
        if self.count:
            self.before = Passes(self.given, self.scales, self.shares, self.count, self.scale, self.are_sums)
            self._empty()

    def settle(self) -> None:
        """A watched optimizer steps without a pass since: the passes set apart were for both."""
        if self.before is not None and not self.count:
            earlier = self.before
            self.given, self.scales, self.shares, self.count = earlier.given, earlier.scales, earlier.shares, earlier.count
            self.are_sums = earlier.are_sums
        self.before = None

    def mean(self) -> float | None:
        """The loss of the step: the sum of the passes where they are its parts, else their mean; without loss scale.

        None where no pass was seen.
        """
        n = len(self.given)
        if n == 0:
            return None
        if n == 1 and self.scales[0] == 1.0:
            return self.given[0]
        total = sum(given / scale for given, scale in zip(self.given, self.scales, strict=True))
        share = sum(self.shares) if n > 1 else 0.0
        are_parts = abs(share - 1) < _EXACT or (self.are_sums and 0 < share < 1)
        return total if are_parts else total / n

    def clear(self) -> None:
        """Forget the passes: an optimizer has stepped."""
        if self.count:
            self._empty()
            self.before = None

    def _empty(self) -> None:
        self.given, self.scales, self.shares, self.count, self.are_sums = [], [], [], 0, True


def factors(loss: torch.Tensor) -> tuple[float, float, bool]:
    """(loss scale, share of the step's loss, whether that is targets added up over those counted) from the root's products.

    autograd keeps a plain number as a 0-dim float64 or int64 tensor, and GradScaler's scale as the float32 that it is. A
    scale is a power of two (it begins at 2^16 and is doubled and halved); any other tensor is a weight of the user's own.
    """
    scale = share = 1.0
    node = loss.grad_fn
    for _ in range(_DEPTH):
        if node is None or type(node).__name__ not in ("MulBackward0", "DivBackward0"):
            break
        other = getattr(node, "_saved_other", None)
        if not isinstance(other, torch.Tensor) or other.numel() != 1 or other.requires_grad or other.device.type != "cpu":
            break
        value = float(other)
        if value == 0:
            break
        value = value if type(node).__name__ == "MulBackward0" else 1 / value
        below = next((n for n, _ in node.next_functions if n is not None), None)
        if other.dtype is torch.float32 and value >= 2 and math.frexp(value)[0] == 0.5:
            scale *= value
        elif other.dtype is torch.float32 and _summed(below) is None:
            break
        else:
            share *= value
        node = below
    targets = _summed(node)
    return scale, share * (1 if targets is None else targets), targets is not None


def _summed(node: object) -> float | None:
    """How many targets a cross entropy has added up (those ignored not counted); None where it has a mean, or is none."""
    if type(node).__name__ not in ("NllLossBackward0", "NllLoss2DBackward0") or getattr(node, "_saved_reduction", 0) != _SUM:
        return None
    return float(node._saved_total_weight)  # type: ignore[attr-defined]
