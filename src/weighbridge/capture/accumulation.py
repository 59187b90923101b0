"""How large gradients are after each backward pass of a step, on some steps.

Two things follow. Where several passes add up, the gradient after the first of them and that after the last are gradients of
two batch sizes, and from their sizes follows the gradient noise scale (table `accumulation`; the algebra is in
store/coherence.py). And what has become of the gradient between the last pass and the step is the factor of clipping, also
where the user's own code clips.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch

from weighbridge.capture.kernel import Kernel
from weighbridge.capture.leftovers import Leftovers
from weighbridge.capture.losses import factors, multiple
from weighbridge.capture.recorder import Recorder
from weighbridge.capture.sketch import EPSILONS, Items, gather
from weighbridge.capture.snapshots import Weighed
from weighbridge.capture.tensors import TensorTable
from weighbridge.records import LOCAL, SHARD

MOST_PASSES: Final = 64  # looked at without a step
APART: Final = "clipped_apart"  # the event; its tensor is one of those of the optimizer
SMALL: Final = 0.1  # what is left of the norm of all gradients, below which it is worth an event
MOST_EVENTS: Final = 24  # of a run
_NAN: Final = float("nan")
_ALIKE: Final = 1e-5
Sums = dict[int, tuple[float, float]]  # by tensor: of squares, of absolute values; no entry = no gradient, or 0 throughout


class Accumulation:
    """Follows the backward passes of a sampled step."""

    def __init__(self, kernel: Kernel, table: TensorTable) -> None:
        self.kernel, self.table = kernel, table
        self.is_sampling = False
        self.looks = 0  # since the last step
        self.weighed: list[Weighed] = []
        self.leftovers = Leftovers()
        self.told_apart = 0
        self._start(None)

    def _start(self, sums: Sums | None) -> None:
        self.first: Sums = {}
        self.last = sums  # after the last pass; None = nothing is known
        self.is_clean = not sums
        self.scales: list[float] = []  # of the loss in each pass: a GradScaler's (NaN: a device knows),
        self.multiple = 1.0  # and whatever the last one was multiplied with
        self.passes = 0
        self.used: set[int] = set()  # tensors that an optimizer has stepped with since
        self.is_in_pass = self.has_stepped = False

    @property
    def has_measured(self) -> bool:
        """Is there anything to compare a step's gradients with?"""
        return self.last is not None and not self.is_in_pass

    def before_pass(self, root: torch.Tensor) -> None:
        """A backward pass begins at this root. Whatever the gradients have become since the last one, it adds to that."""
        self.leftovers.before_pass()
        if not self.is_sampling:
            self._let_go()
            return
        self.looks = 0 if self.has_stepped else self.looks + 1
        if self.looks > MOST_PASSES:
            self._let_go()
            return
        if self.last is None or self.has_stepped or self.is_in_pass:
            self.weighed = [w for w in self.table.alive() if not w.is_copy and w.parameter.device.type == "cpu"]
            self._start(self._measure())
        elif (sums := self._measure()) != self.last:  # set to zero without a step, or clipped: a new beginning
            self._start(sums)
        scale = factors(root)[0] if root.is_cpu else _NAN
        self.scales.append(scale if isinstance(scale, float) else _NAN)
        self.is_in_pass, self.multiple = True, multiple(root)

    def after_pass(self) -> None:
        """It has ended, and nobody has used its gradients yet."""
        if not self.is_in_pass:
            return
        self.is_in_pass = False
        sums = self._measure()
        if sums != self.last:  # it was a pass through these
            self.passes += 1
            self.first = sums if self.passes == 1 else self.first
            self.last = sums

    def _let_go(self) -> None:
        """Nobody steps, or very many passes add up: this step is left out."""
        self.is_sampling, self.last, self.weighed = False, None, []

    def _measure(self) -> Sums:
        items, alive = gather(self.weighed)
        self.kernel.sketch(items)
        alive.clear()
        return _by_tensor(self.weighed, items)

    def after_step(self, weighed: list[Weighed], items: Items, step: int, recorder: Recorder) -> float:
        """An optimizer has used these gradients. Writes the rows of `accumulation`, and gives the factor that the gradients
        were multiplied with since the last pass; NaN where it is not certain that there is one for all."""
        tensors = {w.tensor for w in weighed}
        if not self.has_measured or self.last is None or self.used & tensors:
            return _NAN
        self.used |= tensors
        self.weighed = []
        scale = self.scales[-1]
        if self.is_clean and self.passes > 1 and all(one == scale for one in self.scales):
            self._add_rows(weighed, items, step, recorder, scale)
        last = [self.last.get(w.tensor, (0.0, 0.0)) for w in weighed]
        factor, passes = factor_of(last, items, scale), self.passes if self.is_clean else 0
        if np.isnan(factor) and self.told_apart < MOST_EVENTS:
            of_all = apart(last, items, scale)
            if _is_clipping(of_all, self.multiple / scale, passes) and of_all < SMALL:
                self.told_apart += 1
                message = "each gradient was made smaller by a factor of its own between the backward pass and the step"
                recorder.event(step, APART, message, weighed[0].tensor, {"factor": of_all})
        return factor if _is_clipping(factor, self.multiple / scale, passes) else _NAN

    def _add_rows(self, weighed: list[Weighed], items: Items, step: int, recorder: Recorder, scale: float) -> None:
        assert self.last is not None
        for w, count in zip(weighed, items["count"].tolist(), strict=True):
            # Replicas: a pass without reduction leaves this process's gradient, the last one that of all processes.
            if self.table.known[w.tensor].placement.kind not in (LOCAL, SHARD) or not count:
                continue
            first, last = (sums.get(w.tensor, (0.0, 0.0))[0] / scale**2 for sums in (self.first, self.last))
            if np.isfinite(first) and np.isfinite(last):
                recorder.add("accumulation", step, recorder.attempt, w.tensor, count, self.passes, first, last)


def _by_tensor(weighed: list[Weighed], items: Items) -> Sums:
    sums = zip(items["sum_sq"].tolist(), items["sum_abs"].tolist(), strict=True)
    return {w.tensor: found for w, found in zip(weighed, sums, strict=True) if found[1]}


def factor_of(last: list[tuple[float, float]], items: Items, scale: float) -> float:
    """The one factor between these sums after the last pass and those at the step; NaN where there is not one for all.

    Clipping by value changes the sum of squares and that of absolute values by different factors, clipping tensor by tensor
    each tensor by its own. Rounding each product changes a sum by its dtype's epsilon over the root of the number of elements
    that it rests on, which is at least sum_abs^2 / sum_sq.
    """
    before = np.array(last, np.float64).reshape(-1, 2)
    now = np.stack([items["sum_sq"], items["sum_abs"]], axis=1)
    used = before[:, 1] != 0
    if not used.any() or now[~used].any():
        return _NAN
    before, now, codes = before[used], now[used], items["dtype"][used]
    with np.errstate(all="ignore"):
        ratios = now / before
        ratios[:, 0] = np.sqrt(ratios[:, 0])
        rounding = 4 * EPSILONS[codes] * np.sqrt(before[:, 0]) / before[:, 1] + 1e-6
        factor = float(np.sqrt(now[:, 0].sum() / before[:, 0].sum()))
        is_one = np.abs(ratios / factor - 1) <= rounding[:, None] + rounding[np.argmax(before[:, 0])]
    return factor * scale if is_one.all() else _NAN


def apart(last: list[tuple[float, float]], items: Items, scale: float) -> float:
    """What is left of the norm of all gradients where each tensor's was made smaller, as it is or row by row; else NaN."""
    before = np.array(last, np.float64).reshape(-1, 2)
    now = np.stack([items["sum_sq"], items["sum_abs"]], axis=1)
    used = before[:, 1] != 0
    if not used.any() or now[~used].any() or not np.isfinite(before).all():
        return _NAN
    largest = (now[used] / before[used]).max()
    return float(np.sqrt(now[:, 0].sum() / before[:, 0].sum())) * scale if largest * scale < 1 - _ALIKE else _NAN


def _is_clipping(factor: float, multiple: float, passes: int) -> bool:
    """Is it certain that this factor is no other? A loss that was enlarged (by a hand-made loss scale, perhaps), and the sum of
    several passes (0: nobody knows how many), may have been divided again before or after it was clipped."""
    if abs(factor - 1) < _ALIKE:
        return True
    may_be_mean = passes != 1 and not abs(multiple * passes - 1) < _ALIKE
    return not (may_be_mean or multiple > 1 + _ALIKE or abs(factor * multiple - 1) < _ALIKE)
