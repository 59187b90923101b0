"""The loss grows: a symptom, whose cause is what else is found.

Symptom        The curve of the loss goes up.
How it decides The last WINDOW losses against the first WINDOW of one optimizer: their median is above RAISED times as high,
               and the rank test of Mann and Whitney is clear (z above CLEAR: chance gives that once in 100,000 windows).
What to do     Look at the causes named beside it: first the learning rate.
When it errs   Several optimizers that work against each other (GAN), and losses that fall below 0, tell nothing and are left
               out. A curriculum that gets harder looks the same.
References     Mann & Whitney 1947, "On a test of whether one of two random variables is stochastically larger than the other".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, SeriesEvidence, ValueEvidence
from weighbridge.diagnosis.ranktest import z_of_fall
from weighbridge.diagnosis.stream import Block
from weighbridge.format import number

WINDOW = 15
RAISED = 1.5
CLEAR = 4.2


class GrowingLoss(Rule):
    id, title = "growing-loss", "The loss grows"
    severity, certainty, since = "note", "test", "0.1"
    needs = Needs(tables=["steps"])

    def __init__(self) -> None:
        self.first: list[tuple[int, float]] = []
        self.last: deque[tuple[int, float]] = deque(maxlen=WINDOW)
        self.optimizer: int | None = None
        self.limit = -1.0  # for the median; no window can pass it whose last loss has not
        self.are_several = self.is_told = self.is_signed = False

    def read(self, block: Block) -> Iterator[Finding]:
        for row in block.rows("steps"):
            if row["skipped"] or row["loss"] is None or not np.isfinite(row["loss"]):
                continue
            self.are_several |= self.optimizer not in (None, row["optimizer"])
            self.optimizer = row["optimizer"]
            self.is_signed |= row["loss"] < 0
            if self.are_several or self.is_signed or self.is_told:
                return
            if len(self.first) < WINDOW:
                self.first.append((row["step"], row["loss"]))
                continue
            self.last.append((row["step"], row["loss"]))
            if self.limit < 0:
                self.limit = RAISED * float(np.median([loss for _, loss in self.first]))
            if len(self.last) == WINDOW and row["loss"] > self.limit and self._has_grown():
                self.is_told = True
                yield self._finding()

    def _has_grown(self) -> bool:
        first, last = (np.array([loss for _, loss in part]) for part in (self.first, self.last))
        return bool(np.median(last) > self.limit and z_of_fall(first, last) > CLEAR)

    def _finding(self) -> Finding:
        first, last = (float(np.median([loss for _, loss in part])) for part in (self.first, self.last))
        steps, losses = zip(*self.first, *self.last, strict=True)
        return Finding(
            place="",
            first_step=self.last[0][0],
            told_step=self.last[-1][0],
            message=f"The loss grows: the median of {WINDOW} steps was {number(first)} and is {number(last)}.",
            evidence=(
                ValueEvidence(f"median over {WINDOW} steps over the first one", last / first, RAISED),
                SeriesEvidence("loss", steps, losses),
            ),
            fix="Look at the causes named beside it; without one, lower the learning rate.",
            depth=0.99,
        )

    def lacking(self) -> tuple[Outcome, str] | None:
        if self.are_several or self.is_signed:
            return Outcome.NOT_APPLICABLE, "several optimizers, or a loss below 0: its course tells nothing"
        return None if self.last else (Outcome.NOT_ENOUGH_DATA, f"fewer than {2 * WINDOW} steps with a loss")
