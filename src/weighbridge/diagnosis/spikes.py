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


class Sizes:
    """Of how many samples the steps were: how much one counts among those before it."""

    def __init__(self) -> None:
        self._last: deque[int] = deque(maxlen=LATELY)

    def part(self, samples: int | None) -> float:
        """Of this step: its samples over the usual number, at most 1; 1 where that is not known."""
        if not samples:
            return 1.0
        usual = sorted(self._last)[len(self._last) // 2] if self._last else samples
        self._last.append(samples)
        return min(1.0, samples / usual)


def among_usual(value: float, usual: float, part: float) -> float:
    """What a mean over few samples would have been over as many as usual, the others being like those before.

    b of B samples move a mean by b / B of what theirs differs by, whatever their distribution; of a norm this is a bound
    (triangle inequality). Of samples that are as always it leaves sqrt(b / B) of the usual scatter.
    """
    return usual + part * (value - usual) if part < 1 and math.isfinite(usual) else value


class SpikeWatch:
    """Of a positive series, looked at as logarithms; `least` is the smallest factor that is called a spike."""

    def __init__(self, least: float) -> None:
        self.least = np.log(least)
        self._last: deque[float] = deque(maxlen=NEAR)
        self._excess: deque[float] = deque(maxlen=WINDOW)  # over what was expected of each step
        self._largest = -np.inf  # of all of these, but for the first steps

    @property
    def usual(self) -> float:
        """What is expected of the next value; NaN at first."""
        return math.exp(self._middle()) if self._last else math.nan

    def _middle(self) -> float:
        last = sorted(self._last)
        return (last[(len(last) - 1) // 2] + last[len(last) // 2]) / 2

    def add(self, value: float) -> Spike | None:
        """The next value; says whether it stands out of those before. A value that is not finite and positive is left out."""
        if not 0 < value < math.inf:
            return None
        x, spike = math.log(value), None
        if self._last:
            excess = x - self._middle()
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
