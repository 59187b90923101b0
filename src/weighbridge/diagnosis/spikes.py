"""One value that stands out of a series: far above what just was, by the series' own scatter and by its own extremes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from weighbridge.diagnosis.evidence import SeriesEvidence, ValueEvidence

WINDOW: Final = 200  # steps whose scatter counts
LEAST: Final = 10  # steps before anything can stand out of them
LATELY: Final = 20  # the last of them on their own: a series may scatter ever more, and the wider measure counts
NEAR: Final = 7  # steps whose median is what the next one is expected to be: a series that falls has no fixed level
SIGMA: Final = 1.4826  # sigma of a normal distribution over its median absolute deviation (Rousseeuw and Croux 1993)
LIMIT: Final = 7.0  # sigma: OLMo 2 counts 7 as a spike; by chance once in 10^11 steps of a normal series
BEYOND: Final = (
    2.5  # times the largest excess before: of heavy (exponential) tails in ln, n steps pass it by chance n^-2.5 each
)


@dataclass(frozen=True, slots=True)
class Spike:
    """How far a value stands out."""

    score: float  # in robust sigmas
    times: float  # the value over what was expected

    def shown(self, name: str, last: Iterable[tuple[int, float]]) -> tuple[ValueEvidence, SeriesEvidence]:
        """What shows it. last: the last steps and their values, its own among them."""
        steps, values = zip(*last, strict=True)
        score = ValueEvidence("robust sigmas above the steps before", min(self.score, 1e6), LIMIT)
        return score, SeriesEvidence(name, steps, values)


class SpikeWatch:
    """Of a positive series, looked at as logarithms; `least` is the smallest factor that is called a spike."""

    def __init__(self, least: float) -> None:
        self.least = np.log(least)
        self._last: deque[float] = deque(maxlen=NEAR)
        self._excess: deque[float] = deque(maxlen=WINDOW)  # over what was expected of each step
        self._largest = -np.inf  # of all of these, but for the first steps

    def add(self, value: float) -> Spike | None:
        """The next value; says whether it stands out of those before. A value that is not finite and positive is left out."""
        if not 0 < value < math.inf:
            return None
        x, spike = math.log(value), None
        if self._last:
            last = sorted(self._last)
            excess = x - (last[(len(last) - 1) // 2] + last[len(last) // 2]) / 2
            spike = self._judged(excess)
            if spike is None:
                self._excess.append(excess)
                self._largest = max(self._largest, excess) if len(self._excess) > NEAR else self._largest
        if spike is None:
            self._last.append(x)
        return spike

    def _judged(self, excess: float) -> Spike | None:
        if len(self._excess) < LEAST or excess < self.least:
            return None
        before = np.array(self._excess)
        middle = float(np.median(before))
        scatter = max(_scatter(before - middle), _scatter(before[-LATELY:] - middle))
        score = (excess - middle) / scatter if scatter > 0 else np.inf
        is_beyond = excess - middle > BEYOND * max(self._largest - middle, 0.0)
        return Spike(score, float(np.exp(excess))) if score > LIMIT and is_beyond else None


def _scatter(around: np.ndarray) -> float:
    return SIGMA * float(np.median(np.abs(around)))
