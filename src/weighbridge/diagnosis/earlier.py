"""What a run recorded before it goes on in a new attempt: the rules beside the training read it first.

Rules judge by how a training began. One that met a resumed run at step 700 would take trained weights for the first ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from weighbridge.diagnosis.rule import Needs
from weighbridge.diagnosis.stream import Block, RecordedRun

if TYPE_CHECKING:
    from weighbridge.store.views import Event, Tensor


class Earlier:
    """Of one rank: the steps before `start`, as the attempts before this one left them."""

    def __init__(self, run: Path, rank: int, attempt: int, start: int) -> None:
        self.run, self.rank, self.attempt, self.start = run, rank, attempt, start
        self.described: list[tuple[int, Tensor]] = []
        self.events: list[Event] = []

    def blocks(self, needs: Needs) -> Iterator[Block]:
        """All of these steps, each once; from the first on `described` and `events` say what was told up to there."""
        from weighbridge.store.record import open_run  # it brings the query engine, which no other training needs

        recorded = RecordedRun(open_run(self.run, self.rank, self.attempt - 1), needs)
        recorded.stop = min(recorded.stop, self.start)
        self.described, self.events = recorded.described, list(recorded.events)
        yield from recorded.blocks()
