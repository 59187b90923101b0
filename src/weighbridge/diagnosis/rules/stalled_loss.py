"""The loss is no lower than at the start: a symptom, whose cause is what else is found.

Symptom        The curve of the loss is flat.
How it decides Of one optimizer's steps, the last WINDOW losses against the first WINDOW: the median has not fallen by LEAST,
               and the rank test of Mann and Whitney sees no fall either (z above -CLEAR). Asked once, after 2 WINDOW steps
               whose learning rate was not rising.
What to do     Look at the causes named beside it. Without one: train on one single batch. If it is learnt, the data carry no
               signal, else something in the model or the step is wrong.
When it errs   Several optimizers that work against each other (GAN), losses that fall below 0 and those of a model that had
               converged before tell nothing; the first two are left out.
References     Mann & Whitney 1947, "On a test of whether one of two random variables is stochastically larger than the other";
               Karpathy 2019, "A recipe for training neural networks" (overfit one batch).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, SeriesEvidence, ValueEvidence
from weighbridge.diagnosis.ranktest import z_of_fall
from weighbridge.diagnosis.stream import Block
from weighbridge.format import number

WINDOW = 30
LEAST = 0.01
CLEAR = 1.0


@dataclass
class _Course:
    """One optimizer's losses."""

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    rate: float = math.inf


class StalledLoss(Rule):
    id, title = "stalled-loss", "The loss does not fall"
    severity, certainty, since = "note", "test", "0.1"
    needs = Needs(tables=["steps"])

    def __init__(self) -> None:
        self.course = _Course()
        self.optimizer: int | None = None
        self.are_several = self.is_done = self.is_signed = False

    def read(self, block: Block) -> Iterator[Finding]:
        for row in block.rows("steps"):
            if row["skipped"] or row["loss"] is None or self.is_done:
                continue
            self.are_several |= self.optimizer not in (None, row["optimizer"])
            self.is_signed |= row["loss"] < 0
            self.is_done = self.are_several or self.is_signed
            self.optimizer = row["optimizer"]
            rate = max((r for r in row["lr"] or () if r is not None), default=0.0)
            is_rising, self.course.rate = rate > self.course.rate, rate
            if is_rising:
                self.course = _Course(rate=rate)
            self.course.steps.append(row["step"])
            self.course.losses.append(row["loss"])
            if len(self.course.steps) == 2 * WINDOW and not self.is_done:
                self.is_done = True
                yield from self._judge()

    def _judge(self) -> Iterator[Finding]:
        first, last = np.array(self.course.losses[:WINDOW]), np.array(self.course.losses[WINDOW:])
        fallen = 1 - float(np.median(last) / np.median(first)) if np.median(first) > 0 else math.nan
        if not np.isfinite(first).all() or not np.isfinite(last).all() or not fallen < LEAST or z_of_fall(first, last) < -CLEAR:
            return
        steps = self.course.steps
        yield Finding(
            place="",
            first_step=steps[0],
            told_step=steps[-1],
            message=f"After {len(steps)} steps the loss is no lower than at the start: medians of {WINDOW} steps "
            f"{number(float(np.median(first)))} "
            f"and {number(float(np.median(last)))}.",
            evidence=(
                ValueEvidence(f"fall of the median over {WINDOW} steps", fallen, LEAST),
                SeriesEvidence("loss", tuple(steps), tuple(self.course.losses)),
            ),
            fix="Look at the causes named beside it; without one, see whether the model can learn one single batch.",
            depth=0.99,
        )

    def lacking(self) -> tuple[Outcome, str] | None:
        if self.are_several or self.is_signed:
            return Outcome.NOT_APPLICABLE, "several optimizers, or a loss below 0: its course tells nothing"
        return None if self.is_done else (Outcome.NOT_ENOUGH_DATA, f"fewer than {2 * WINDOW} steps with a loss")
