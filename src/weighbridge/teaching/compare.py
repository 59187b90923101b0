"""Variants set side by side: mean and spread over seeds, and the difference, paired by seed, with its interval.

Nothing is drawn anew for a variant: seed 3 of one variant has the split, the starting weights and the order of the rows of
seed 3 of the other, so what both share cancels in the difference. The interval is Student's t over these differences
(W. S. Gosset, "The probable error of a mean", Biometrika 6, 1908). It speaks of other seeds on the same data, not of other
data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

# Two-sided 95 % points of Student's t for 1 to 30 degrees of freedom (any statistics table).
_T: Final = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_Z: Final = 1.959964
# Several intervals at 95 % miss more often than one; from so many on, the text says so.
_SAY_MANY_FROM: Final = 3


@dataclass(frozen=True, slots=True)
class Summary:
    """Mean and spread (sample standard deviation; NaN for one value) over the seeds that stayed finite."""

    count: int
    mean: float
    std: float
    diverged: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Score of `other` minus score of `base`, seed by seed."""

    base: str
    other: str
    score_name: str
    differences: tuple[float, ...]  # pairs in which both are finite
    left_out: int  # pairs in which one is not
    mean: float
    low: float  # 95 % interval; NaN where there is none
    high: float

    @property
    def decided(self) -> bool:
        """Whether the interval leaves no doubt about the sign."""
        return bool(self.low > 0 or self.high < 0)

    @property
    def verdict(self) -> str:
        """In words: what the difference is, or why it cannot be told."""
        n, plural = len(self.differences), "s" if len(self.differences) != 1 else ""
        lost = f" ({self.left_out} pair(s) left out: a training diverged)" if self.left_out else ""
        if n == 0:
            return f"cannot tell: in every pair of trainings one diverged{lost}."
        if n == 1:
            return f"cannot tell from 1 seed: {self._says(self.mean)} there, and the spread is unknown; use --seeds 5{lost}."
        if all(d == 0 for d in self.differences):
            return f"no difference: the same {self.score_name} in each of {n} seeds{lost}."
        interval = f"95 % interval {self._number(self.low)} to {self._number(self.high)}, paired over {n} seed{plural}"
        if self.decided:
            word = "better" if self.mean > 0 else "worse"
            return f"{word} here, by {self._says(self.mean)} ({interval}){lost}."
        return f"cannot tell from {n} seed{plural}: {self._says(self.mean)} ({interval}){lost}."

    def _says(self, value: float) -> str:
        unit = " points of accuracy" if self.score_name == "accuracy" else f" of {self.score_name}"
        return f"{self._number(value)}{unit}"

    def _number(self, value: float) -> str:
        text = f"{value * 100:+.2f}" if self.score_name == "accuracy" else f"{value:+.4f}"
        return text.replace("-", "−") if float(text) else text[1:]  # 0.00 has no sign


def t_value(degrees: int) -> float:
    """The two-sided 95 % point of Student's t, within 0.001."""
    if degrees <= len(_T):
        return _T[degrees - 1]
    z = _Z  # Cornish-Fisher expansion (Abramowitz and Stegun 26.7.5)
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def summarise(values: Sequence[float]) -> Summary:
    finite = np.array([v for v in values if math.isfinite(v)])
    mean = float(finite.mean()) if len(finite) else math.nan
    std = float(finite.std(ddof=1)) if len(finite) > 1 else math.nan
    return Summary(len(finite), mean, std, len(values) - len(finite))


def compare(
    base: str,
    other: str,
    score_name: str,
    base_scores: Sequence[float],
    other_scores: Sequence[float],
    resolution: float = 0.0,
) -> Difference:
    """Pair two variants seed by seed; both sequences are in the order of the seeds.

    `resolution` is the step in which a score moves: an accuracy on 449 rows moves by 1/449.
    """
    pairs = list(zip(base_scores, other_scores, strict=True))
    found = [b - a for a, b in pairs if math.isfinite(a) and math.isfinite(b)]
    mean, low, high = interval(found, resolution)
    return Difference(base, other, score_name, tuple(found), len(pairs) - len(found), mean, low, high)


def interval(values: Sequence[float], resolution: float = 0.0) -> tuple[float, float, float]:
    """(mean, low, high) of the 95 % t interval of the mean; no interval from fewer than two values.

    Scores that move in steps are rounded, and three seeds that all differ by one row are no certainty. The spread counts as at
    least that of such a rounding: two scores, each uniform over one step, differ with variance 2 * resolution² / 12.
    """
    if not values:
        return math.nan, math.nan, math.nan
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, math.nan, math.nan
    spread = max(float(np.std(values, ddof=1)), resolution * math.sqrt(1 / 6))
    half = t_value(len(values) - 1) * spread / math.sqrt(len(values))
    return mean, mean - half, mean + half


def caution(count: int) -> str:
    """What to say where several differences stand together; empty for few."""
    if count < _SAY_MANY_FROM:
        return ""
    return f"Each of these {count} intervals holds by itself; that all hold at once is less certain."
