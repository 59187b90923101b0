"""Is the loss clearly worse than at the start? A single batch may be hard; three in a row, or one by far, are not chance.

A loss without a lowest value (a critic without a bound, a penalty with a minus) that falls and falls is no better: it is as bad
where it lies below 0 and is FAR times as large as it began, three times in a row.
"""

from __future__ import annotations

import math
from collections import deque

RAISED = 2.0
IN_A_ROW = 3
FAR = 10.0


class Worse:
    """Fed with the losses of a run in order."""

    def __init__(self) -> None:
        self.first = math.nan
        self._last: deque[bool] = deque(maxlen=IN_A_ROW)
        self._below: deque[bool] = deque(maxlen=IN_A_ROW)

    def read(self, loss: float | None) -> bool:
        """One more loss; None = none was recorded. A first loss that is not above 0 is no measure of what lies above it."""
        if loss is None:
            return False
        if math.isnan(self.first) and math.isfinite(loss):
            self.first = loss
        self._last.append(not loss <= RAISED * self.first)
        self._below.append(loss < 0 and -loss > FAR * abs(self.first))
        if len(self._below) == IN_A_ROW and all(self._below):
            return True
        is_far = not loss <= FAR * self.first
        return self.first > 0 and (is_far or (len(self._last) == IN_A_ROW and all(self._last)))
