"""Is the loss clearly worse than at the start? A single batch may be hard; three in a row, or one by far, are not chance."""

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

    def read(self, loss: float | None) -> bool:
        """One more loss; None = none was recorded. A first loss that is not above 0 is no measure: never worse."""
        if loss is None:
            return False
        if math.isnan(self.first) and math.isfinite(loss):
            self.first = loss
        self._last.append(not loss <= RAISED * self.first)
        is_far = not loss <= FAR * self.first
        return self.first > 0 and (is_far or (len(self._last) == IN_A_ROW and all(self._last)))
