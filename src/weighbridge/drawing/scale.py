"""Where numbers lie on an axis, and which of them are written beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from weighbridge.format import count, number

WIDE = 1000.0  # what spans this factor is read on a log axis only


@dataclass(frozen=True, slots=True)
class Axis:
    """From the least to the greatest number drawn; linear, or log of positive numbers."""

    low: float
    high: float
    is_log: bool

    def place(self, value: float) -> float | None:
        """0 at the low end, 1 at the high one; None for what has no place."""
        if not math.isfinite(value) or (self.is_log and value <= 0):
            return None
        low, high, at = (math.log(v) if self.is_log else v for v in (self.low, self.high, value))
        return (at - low) / (high - low)

    def marks(self, most: int) -> list[float]:
        """Round numbers; on a log axis decades, every so many that they fit."""
        if not self.is_log:
            return round_marks(self.low, self.high, most)
        first, last = math.floor(math.log10(self.low) + 1e-9), math.ceil(math.log10(self.high) - 1e-9)
        every = max(1, math.ceil((last - first) / max(1, most)))
        digits = (1, 2, 5) if self.high / self.low < 30 else (1,)
        found = [digit * 10.0**power for power in range(first, last + 1, every) for digit in digits]
        return [mark for mark in found if self.low * (1 - 1e-9) <= mark <= self.high * (1 + 1e-9)]


def axis_of(values: np.ndarray, limit: float | None = None) -> Axis:
    """An axis for these numbers: log where all are positive and span a factor of WIDE."""
    finite = values[np.isfinite(values)]
    finite = np.append(finite, limit) if limit is not None and math.isfinite(limit) else finite
    if not len(finite):
        return Axis(0.0, 1.0, False)
    low, high = float(finite.min()), float(finite.max())
    if low > 0 and high / low > WIDE:
        return Axis(10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high)), True)
    if low == high:
        return Axis(min(0.0, 2 * low), max(0.0, 2 * high), False) if low else Axis(-1.0, 1.0, False)
    air = 0.06 * (high - low)
    return Axis(0.0 if 0 <= low < 0.35 * (high - low) else low - air, high + air, False)


def decade(power: float) -> str:
    """A power of ten as it is written beside a log axis.

    >>> decade(1e-11), decade(0.1), decade(10.0)
    ('10⁻¹¹', '0.1', '10')
    """
    exponent = round(math.log10(power))
    return number(power, 1).removeprefix("1×") if exponent < -2 or exponent >= 5 else f"{power:g}"


def round_marks(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten."""
    raw = (high - low) / max(1, most)
    if not raw > 0 or not math.isfinite(raw):
        return [low]
    power = 10.0 ** math.floor(math.log10(raw))
    gap = next((k for k in (1, 2, 2.5, 5) if k * power >= raw * (1 - 1e-9)), 10) * power
    first, last = math.ceil(low / gap - 1e-9), math.floor(high / gap + 1e-9)
    return [float(f"{i * gap:.12g}") for i in range(first, last + 1)]


def written(marks: Sequence[float]) -> Callable[[float], str]:
    """How the numbers of one axis are written: all with the same decimals where they are near to each other."""
    size = max((abs(mark) for mark in marks), default=0.0)
    if not size or size >= 1e5 or size < 1e-2 or len(marks) < 2:
        return lambda value: number(value, 2) if abs(value) != round(abs(value)) or abs(value) >= 1e5 else count(int(value))
    gap = min(b - a for a, b in pairwise(marks))
    decimals = max(0, -math.floor(math.log10(gap) + 1e-9)) if gap < 1 or gap != int(gap) else 0
    decimals += int(abs(gap * 10**decimals - round(gap * 10**decimals)) > 1e-6)
    return lambda value: f"{value:,.{decimals}f}".replace("-", "\u2212")
