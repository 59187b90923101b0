"""Has the loss come down? The second sign of rules whose first one healthy networks may show once they have learned."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from math import inf
from statistics import fmean, median
from typing import Any, Final

FIRST: Final = 3  # steps that say where it began; never more than half of those that there are
LAST: Final = 5  # steps that say where it is; likewise
FALLEN: Final = 0.1  # of its size at the start: less is noise of the batches
RISEN: Final = 0.5  # of its lowest, above it: it has been better,
UNDONE: Final = 0.25  # and of all that it had come down: what has been learnt by heart doubles its loss by a single batch


class _Way:
    """Of one optimizer's loss."""

    __slots__ = ("count", "first", "last", "lowest")

    def __init__(self) -> None:
        self.first: list[float] = []
        self.last: deque[float] = deque(maxlen=LAST)
        self.lowest = inf  # mean of LAST steps
        self.count = 0

    def add(self, loss: float) -> None:
        self.count += 1
        if self.count <= FIRST:
            self.first.append(loss)
        self.last.append(loss)
        now = sum(self.last) / len(self.last)
        if now < self.lowest:
            self.lowest = now

    @property
    def fall(self) -> float:
        half = max(1, self.count // 2)
        start = median(self.first[:half])
        return (start - fmean([*self.last][-half:])) / abs(start) if start else 0.0

    @property
    def has_risen(self) -> bool:
        risen = fmean(self.last) - self.lowest
        return risen > RISEN * abs(self.lowest) and risen > UNDONE * (median(self.first) - self.lowest)


class Progress:
    """Follows the losses of each optimizer. Memory does not grow with steps."""

    def __init__(self) -> None:
        self._ways: dict[int, _Way] = {}

    def read(self, row: Mapping[str, Any]) -> None:
        """A row of the table of steps; in order."""
        loss, optimizer = row["loss"], row["optimizer"]
        if loss is None or loss != loss:
            return
        if optimizer not in self._ways:
            self._ways[optimizer] = _Way()
        self._ways[optimizer].add(loss)

    @property
    def steps(self) -> int:
        """With a loss: the most that an optimizer has taken."""
        return max((way.count for way in self._ways.values()), default=0)

    def fall(self) -> float:
        """How far the losses have come down, as a share of their size at the start: the largest of all optimizers; 0 = none."""
        return max((way.fall for way in self._ways.values()), default=0.0)

    @property
    def is_stalled(self) -> bool:
        """No loss has come down by FALLEN, or each that had is well above its lowest again."""
        return all(self.has_stalled(optimizer) for optimizer in self._ways)

    def has_stalled(self, optimizer: int) -> bool:
        """The same of one optimizer's loss; True where it has none."""
        way = self._ways.get(optimizer)
        return way is None or way.fall < FALLEN or way.has_risen

    def is_no_lower(self, optimizer: int | None) -> bool:
        """Is this optimizer's loss where it began, or well above its lowest? None: that of all of them."""
        asked = [way for number, way in self._ways.items() if optimizer in (None, number)]
        return all(way.fall <= 0 or way.has_risen for way in asked)

    def now(self) -> float:
        """Mean of the last losses, of the optimizer with the highest; -inf without one."""
        return max((fmean(way.last) for way in self._ways.values()), default=-inf)

    @property
    def is_far_worse(self) -> bool:
        """Is the last loss of every optimizer above its lowest mean by RISEN? It is a single step: ask for a second sign."""
        return all(way.last[-1] > way.lowest + RISEN * abs(way.lowest) for way in self._ways.values())

    @property
    def is_worse(self) -> bool:
        """Is the last loss of every optimizer above its lowest mean? What has just happened did no good."""
        return all(way.last[-1] >= way.lowest for way in self._ways.values())
