"""The loss, from the root that was given to backward.

GradScaler multiplies the loss by its scale, and accumulation divides it by the number of micro-steps, or a sum over tokens
by the tokens of all micro-steps. Each leaves a `MulBackward0` or `DivBackward0` node at the root that still holds its factor.
A factor that somebody's hooks keep (a checkpoint, a saving to disk) is not asked for: it would be computed or fetched anew.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from weighbridge.capture.graphwalk import edges, maker, saved
from weighbridge.capture.late import held, is_capturing

Number = float | torch.Tensor  # a 0-dim tensor: a device has yet to give it
_SUM = 2  # torch's number for reduction="sum"
_EXACT = 1e-6  # relative: shares of 1/n add up to 1 but for rounding
_DEPTH = 4  # a loss is scaled once or twice; a longer chain of factors is the user's own formula


@dataclass(slots=True)
class Passes:
    """Backward passes since the last step of an optimizer."""

    given: list[Number] = field(default_factory=list)  # as given to backward
    scales: list[Number] = field(default_factory=list)  # factor that GradScaler put on
    shares: list[float] = field(default_factory=list)  # of the step's loss: 1 / micro-steps, or own tokens / all tokens
    count: int = 0
    is_all_here: bool = True  # no number of these is awaited from a device
    scale: Number = 1.0  # of the last pass; stays for an optimizer that steps after another one
    bound: float = 1.0  # shares of sums add up to less where they are parts of one loss; 0 = one pass is no sum
    samples: int = 0  # of all of them together, as far as it is known
    before: Passes | None = None  # those before somebody else's optimizer stepped

    def add(self, loss: torch.Tensor, samples: int = 0) -> float:
        """Note one root, of so many samples (0 = not known, or those of the pass before). Gives its value where that can be
        read without waiting for a device, NaN elsewhere."""
        self.count += 1
        self.samples += samples
        if loss.is_complex() or (not loss.is_cpu and is_capturing(loss.device)):
            return float("nan")
        given: Number = loss.item() if loss.is_cpu else held(loss)
        if self.count <= 4096:  # beyond it nobody steps: keep counting, stop keeping
            self.scale, share, bound = factors(loss)
            self.bound = min(self.bound, bound) if self.given else bound
            self.is_all_here &= isinstance(given, float) and isinstance(self.scale, float)
            self.given.append(given)
            self.scales.append(self.scale)
            self.shares.append(share)
        return given if isinstance(given, float) else float("nan")

    def note(self, loss: float, samples: int) -> None:
        """A pass whose root has nothing at it but this value (capture/usual.py)."""
        self.count, self.scale, self.bound = self.count + 1, 1.0, 0.0
        self.samples += samples
        self.given.append(loss)
        self.scales.append(1.0)
        self.shares.append(1.0)

    def taken(self) -> Passes:
        """These passes on their own; this one may be cleared."""
        return dataclasses.replace(self, given=[*self.given], scales=[*self.scales], shares=[*self.shares], before=None)

    def awaited(self) -> list[torch.Tensor]:
        """Numbers that a device has yet to give."""
        return [number for number in (*self.given, *self.scales, self.scale) if isinstance(number, torch.Tensor)]

    def settled(self, arrived: list[float]) -> Passes:
        """The same with these numbers in the place of those awaited."""
        numbers = iter(arrived)
        given = [next(numbers) if isinstance(n, torch.Tensor) else n for n in self.given]
        scales = [next(numbers) if isinstance(n, torch.Tensor) else n for n in (*self.scales, self.scale)]
        *all_scales, scale = [scale if is_scale(scale) else 1.0 for scale in scales]
        return Passes([*given], [*all_scales], self.shares, self.count, scale=scale, bound=self.bound, samples=self.samples)

    def set_apart(self) -> None:
        """An optimizer that is not watched has stepped: what came before it was its loss, if more passes follow."""
        if self.count:
            self.before = self.taken()
            self._empty()

    def settle(self) -> None:
        """A watched optimizer steps without a pass since: the passes set apart were for both."""
        if self.before is not None and not self.count:
            earlier = self.before
            self.given, self.scales, self.shares, self.count = earlier.given, earlier.scales, earlier.shares, earlier.count
            self.is_all_here, self.bound, self.samples = earlier.is_all_here, earlier.bound, earlier.samples
        self.before = None

    def mean(self, each: float = 0.0) -> float | None:
        """The loss of the step: the sum of the passes where they are its parts, else their mean; without loss scale.

        each: the share that each pass had in a step before that had all of them (0 = not known). A step that has fewer (an
        epoch ends) still divides each by as many: its loss is their mean, not a part of one.
        None where no pass was seen.
        """
        n = len(self.given)
        if n == 0:
            return None
        total = sum(float(given) / float(scale) for given, scale in zip(self.given, self.scales, strict=True))
        share = sum(self.shares)
        if abs(share - 1) < _EXACT or 0 < share < self.bound:
            return total
        is_cut_short = 0 < share < 1 and all(abs(one - each) < _EXACT * each for one in self.shares)
        return total / share if is_cut_short else total / n

    @property
    def each(self) -> float:
        """The share of each pass where they are all parts of one loss and as large; else 0."""
        n = len(self.shares)
        return 1 / n if n > 1 and all(abs(n * share - 1) < _EXACT for share in self.shares) else 0.0

    def clear(self) -> None:
        """Forget the passes: an optimizer has stepped."""
        self.before = None
        self._empty()

    def _empty(self) -> None:
        self.given, self.scales, self.shares, self.count, self.samples = [], [], [], 0, 0
        self.is_all_here, self.bound = True, 1.0


def is_scale(value: float) -> bool:
    """Can this be the scale of a GradScaler?"""
    return value >= 2 and math.frexp(value)[0] == 0.5


def factors(loss: torch.Tensor) -> tuple[Number, float, float]:
    """(loss scale, share of the step's loss, bound) from the root's products.

    The share of targets added up is theirs of those counted. Those of all passes add up to less than 1, the bound; of several
    processes each takes its loss as many times as there are processes, and the bound with it, for some have more targets than
    others. 0 where no targets are added up.

    autograd keeps a plain number as a 0-dim float64 or int64 tensor, and GradScaler's scale as the float32 that it is. A
    scale is a power of two (it begins at 2^16 and is doubled and halved); any other tensor is a weight of the user's own.
    """
    scale: Number = 1.0
    share, bound, below = 1.0, 1.0, maker(loss)
    for value, is_tensor, below in _products(loss):
        if isinstance(value, torch.Tensor):  # on its device: whether it is a scale is seen when it arrives
            if isinstance(scale, torch.Tensor):
                break
            scale = held(value)
        elif not is_tensor:
            share, bound = share * value, bound * max(1.0, value)
        elif is_scale(value):
            scale = scale * value
        elif _summed(below) is not None:
            share *= value
        else:
            break
    targets = _summed(below)
    return (scale, share, 0.0) if targets is None else (scale, share * targets, bound)


def _summed(node: object) -> float | None:
    """How many targets a cross entropy has added up (those ignored not counted); None where it has a mean, or is none."""
    if type(node).__name__ not in ("NllLossBackward0", "NllLoss2DBackward0") or getattr(node, "_saved_reduction", 0) != _SUM:
        return None
    weight = saved(node, "total_weight")
    return float(weight) if weight is not None and weight.is_cpu else None  # a device would have to be waited for


def multiple(loss: torch.Tensor) -> float:
    """What the loss was multiplied with, whatever for; NaN where a device knows."""
    factors = [value for value, _, _ in _products(loss)]
    return math.prod(value if isinstance(value, float) else math.nan for value in factors)


def _products(loss: torch.Tensor) -> Iterator[tuple[Number, bool, Any]]:
    """The factors at the root, the last one first; whether each was a tensor; the node of what it multiplies."""
    node = maker(loss)
    for _ in range(_DEPTH):
        if node is None or type(node).__name__ not in ("MulBackward0", "DivBackward0"):
            return
        other = saved(node, "other")
        if other is None or other.numel() != 1 or _is_learned(node):
            return
        is_product = type(node).__name__ == "MulBackward0"
        if not other.is_cpu:
            if not is_product:
                return
            yield other, True, _below(node)
        else:
            value = float(other)
            if value == 0:
                return
            yield value if is_product else 1 / value, other.dtype is torch.float32, _below(node)
        node = _below(node)


def _is_learned(node: Any) -> bool:
    return any(n is not None for n, _ in node.next_functions[1:])


def _below(node: Any) -> Any:
    return next((n for n, _ in edges(node) if n is not None), None)
