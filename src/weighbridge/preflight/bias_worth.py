"""What a change of the model does to the loss of held-out data: the paired difference, its interval, and a verdict in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import torch

from weighbridge.format import counted
from weighbridge.teaching.compare import interval

# Differences within so much of the loss are none that matters. An interval inside of it shows "no effect", as in tests of
# equivalence (Schuirmann 1987, "A comparison of the two one-sided tests procedure and the power approach").
NEGLIGIBLE: Final = 0.01
FEW_UNITS: Final = 30  # from so many on, the mean of differences of whatever shape is close to normal
CANNOT_TELL: Final = "cannot tell from this much data"


@dataclass(frozen=True, slots=True)
class Worth:
    """The changed model's loss minus the unchanged one's, paired by unit."""

    mean: float
    low: float  # 95 % interval of the mean, Student's t; NaN, which decides nothing, from a single unit or infinite losses
    high: float
    loss: float  # mean of the unchanged model
    units: int
    unit: str  # "sample", "batch" where the loss gives no single samples, or "seed" of trainings

    @property
    def limit(self) -> float:
        """Below this a difference does not matter."""
        return NEGLIGIBLE * abs(self.loss)

    @property
    def is_decided(self) -> bool:
        """Whether the interval leaves no doubt about the sign."""
        return self.low > 0 or self.high < 0

    @property
    def is_negligible(self) -> bool:
        """Whether the interval leaves no doubt that the difference does not matter."""
        return -self.limit <= self.low and self.high <= self.limit

    @property
    def units_to_tell(self) -> int | None:
        """About so many units would decide, if mean and spread stay as they are. None where decided, or unknown."""
        half = (self.high - self.low) / 2
        if self.is_decided or self.is_negligible or not math.isfinite(half):
            return None
        aim = max(abs(self.mean), self.limit - abs(self.mean))
        return math.ceil(self.units * (half / aim) ** 2) if aim > 0 else None

    def record(self) -> dict[str, Any]:
        """As a dictionary."""
        facts = {name: getattr(self, name) for name in ("mean", "low", "high", "loss", "units", "unit")}
        return {**facts, "units_to_tell": self.units_to_tell}


def worth(before: torch.Tensor, after: torch.Tensor, unit: str, resolution: float = 0.0) -> Worth:
    """Of losses [units] of the same units, before and after a change. `resolution`: the step in which they move."""
    mean, low, high = interval((after - before).tolist(), resolution)
    return Worth(mean, low, high, float(before.mean()), len(before), unit)


def of_bias(found: Worth | None) -> str:
    """The verdict on a bias, from what taking it out does."""
    if found is None:
        return CANNOT_TELL
    if found.is_negligible:
        return "no effect"
    if not found.is_decided:
        return CANNOT_TELL
    return "needed" if found.mean > 0 else "better without"


def of_gap(found: Worth | None) -> str:
    """The verdict on a place without a bias, from what putting one in does."""
    if found is None:
        return CANNOT_TELL
    if found.high < 0 and found.mean < -found.limit:
        return "missing"
    return "not missed" if found.low > -found.limit else CANNOT_TELL


def more_data(found: Worth | None) -> str:
    """How much data would tell, in words; empty where that is not known."""
    needed = None if found is None else found.units_to_tell
    if found is None or needed is None:
        return ""
    return f"about {several(max(needed, found.units + 1), found.unit)} would, if it stays as it is"


def several(number: int, unit: str) -> str:
    """A number of samples, batches or seeds in words."""
    return counted(number, unit, "batches" if unit == "batch" else "")
