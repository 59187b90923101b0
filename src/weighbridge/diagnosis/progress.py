"""Has the loss come down? The second sign of rules whose first one healthy networks may show once they have learned."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from statistics import fmean, median
from typing import Any, Final

FIRST: Final = 3  # steps that say where it began; never more than half of those that there are
LAST: Final = 5  # steps that say where it is; likewise
FALLEN: Final = 0.1  # of its size at the start: less is noise of the batches
RISEN: Final = 0.5  # of its lowest, above it: it has been better,
UNDONE: Final = 0.25  # and of all that it had come down: what has been learnt by heart doubles its loss by a single batch


class Progress:
    """Follows the losses of each optimizer. Memory does not grow with steps."""

    def __init__(self) -> None:
        self._first: dict[int, list[float]] = {}
        self._last: dict[int, deque[float]] = {}
        self._lowest: dict[int, float] = {}
        self._count: dict[int, int] = {}

    def read(self, row: Mapping[str, Any]) -> None:
        """A row of the table of steps; in order."""
        loss, optimizer = row["loss"], row["optimizer"]
        if loss is None or loss != loss:
            return
        self._count[optimizer] = self._count.get(optimizer, 0) + 1
        first = self._first.setdefault(optimizer, [])
        if len(first) < FIRST:
            first.append(loss)
        last = self._last.setdefault(optimizer, deque(maxlen=LAST))
        last.append(loss)
        now = fmean(last)
        self._lowest[optimizer] = min(self._lowest.get(optimizer, now), now)

    @property
    def steps(self) -> int:
        """With a loss: the most that an optimizer has taken."""
        return max(self._count.values(), default=0)

    def fall(self) -> float:
        """How far the losses have come down, as a share of their size at the start: the largest of all optimizers; 0 = none."""
        return max((self._fall(o) for o in self._first), default=0.0)

    @property
    def is_stalled(self) -> bool:
        """No loss has come down by FALLEN, or each that had is well above its lowest again."""
        return all(self.has_stalled(optimizer) for optimizer in self._first)

    def has_stalled(self, optimizer: int) -> bool:
        """The same of one optimizer's loss; True where it has none."""
        return optimizer not in self._first or self._fall(optimizer) < FALLEN or self._has_risen(optimizer)

    @property
    def is_worse(self) -> bool:
        """Is the last loss of every optimizer above its lowest mean? What has just happened did no good."""
        return all(last[-1] >= self._lowest[o] for o, last in self._last.items() if last)

    def _fall(self, optimizer: int) -> float:
        half = max(1, self._count[optimizer] // 2)
        start = median(self._first[optimizer][:half])
        return (start - fmean([*self._last[optimizer]][-half:])) / abs(start) if start else 0.0

    def _has_risen(self, optimizer: int) -> bool:
        lowest, start = self._lowest[optimizer], median(self._first[optimizer])
        risen = fmean(self._last[optimizer]) - lowest
        return risen > RISEN * abs(lowest) and risen > UNDONE * (start - lowest)
