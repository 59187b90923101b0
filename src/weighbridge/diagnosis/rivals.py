"""Several optimizers in one step: do they follow one loss, or rivals (a GAN's two)?"""

from __future__ import annotations

import math

from weighbridge.diagnosis.stream import Block


class Rivals:
    """Reads the table of steps."""

    def __init__(self) -> None:
        self.since = math.inf  # the first step in which two optimizers stepped with different losses
        self._last: tuple[int, float | None] = (-1, None)

    def read(self, block: Block) -> None:
        """All rows of a block."""
        for row in block.rows("steps"):
            step, loss = row["step"], row["loss"]
            if step == self._last[0] and loss != self._last[1] and loss == loss:
                self.since = min(self.since, step)
            self._last = (step, loss)
