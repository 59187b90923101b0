"""What to record, and within which bounds."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Final

from weighbridge.errors import BadPlan

_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def size_in_bytes(text: str | int) -> int:
    """Read a size such as "2 GB" or "512 MiB"; a number is bytes.

    >>> size_in_bytes("2 GB")
    2000000000
    """
    if isinstance(text, int):
        return text
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]+)\s*", text) if isinstance(text, str) else None
    if found is None or found[2].lower() not in _UNITS:
        raise BadPlan(f"{text!r} is not a size. Write a number and a unit, such as '2 GB' or '512 MiB'.")
    return int(float(found[1]) * _UNITS[found[2].lower()])


@dataclass(frozen=True, slots=True)
class Plan:
    """The bounds of what a run records.

    disk       limit of the run's folder, e.g. "2 GB"; beyond it the oldest full-resolution ranges give way to buckets
    snapshot   limit of the memory that holds the parameters as they were before the step; beyond it the update of each
               tensor is weighed on rotating steps only
    values     keep the actual numbers of small tensors (architecture decision 15)

    Raises BadPlan for a size that cannot be read.
    """

    disk: str | int = "2 GB"
    snapshot: str | int = "1 GB"
    values: bool = True

    def __post_init__(self) -> None:
        for name in ("disk", "snapshot"):
            if size_in_bytes(getattr(self, name)) < 0:
                raise BadPlan(f"Plan({name}={getattr(self, name)!r}) is negative; a size is 0 or more.")

    @property
    def disk_bytes(self) -> int:
        """The limit of the run's folder in bytes."""
        return size_in_bytes(self.disk)

    @property
    def snapshot_bytes(self) -> int:
        """The limit of the snapshots in bytes."""
        return size_in_bytes(self.snapshot)


# Architecture decision 15. The last bound is ours: a thousand layers of 64 x 64 would otherwise write 49 MB on each such step.
EVERY_STEP_ELEMENTS: Final = 64
EVERY_STEP_MODEL_ELEMENTS: Final = 1_024
EVERY_STEP_UNTIL: Final = 10_000
SAMPLED_ELEMENTS: Final = 4_096
SAMPLED_MODEL_ELEMENTS: Final = 65_536
SAMPLES_PER_DECADE: Final = 20


def is_sampled_step(step: int) -> bool:
    """Steps 0 to 9, then 20 a decade, evenly on a log scale.

    >>> [s for s in range(30) if is_sampled_step(s)]
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 15, 17, 19, 22, 25, 28]
    """
    return step < 10 or step in _sampled_from(len(str(step)) - 1)


@functools.cache
def _sampled_from(decade: int) -> frozenset[int]:
    return frozenset(int(10**decade * 10 ** (i / SAMPLES_PER_DECADE)) for i in range(SAMPLES_PER_DECADE))
