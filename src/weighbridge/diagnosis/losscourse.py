"""How the loss goes: where it began, where it is now, and whether it is any better. State of a few numbers."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import Final

import numpy as np

START: Final = 3  # steps whose median is where it began: one batch alone may be an easy one
RECENT: Final = 5  # steps whose median is where it is now


def median_of(values: Sequence[float] | deque[float]) -> float:
    """The median; NaN where there is none, or where a value is NaN. Of a handful of numbers, where NumPy's takes long."""
    if not values or not math.isfinite(sum(values)):
        return float(np.median(values)) if values else math.nan
    inorder = sorted(values)
    return (inorder[(len(inorder) - 1) // 2] + inorder[len(inorder) // 2]) / 2


class LossCourse:
    """The loss of one optimizer, step by step. NaN and infinity are left out (nonfinite-origin is about them)."""

    def __init__(self) -> None:
        self._early: list[float] = []
        self._late: deque[float] = deque(maxlen=RECENT)
        self.steps = 0
        self.now = math.nan  # where it is
        self.best = math.inf  # the lowest that it has been

    def add(self, loss: float) -> None:
        """The next step's."""
        if not math.isfinite(loss):
            return
        self.steps += 1
        self._late.append(loss)
        if self.steps <= START:
            self._early.append(loss)
        self.now = median_of(self._late)
        if self.steps >= RECENT:
            self.best = min(self.best, self.now)

    @property
    def first(self) -> float:
        """Where it began."""
        return median(self._early) if self._early else math.nan

    def has_improved(self, by: float) -> bool:
        """Is it lower than at the beginning by this share of it?"""
        return self.first - self.now > by * abs(self.first)

    def has_worsened(self, by: float) -> bool:
        """Is it higher than its best by this share of the way from the beginning to there?"""
        return math.isfinite(self.best) and self.now - self.best > by * max(self.first - self.best, 0.0) > 0
