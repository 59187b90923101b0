"""Steps are so short that nothing can come of them: the learning rate is too low.

Symptom        The loss stays where it began, although successive gradients agree and all layers receive them.
How it decides Within LATEST steps of the start, or of the end of a warm-up, at WINDOW steps in a row: the pace (size of the
               step over that of the weights) is below PACE, the promise (the share of the loss that the step takes away if
               the loss is a straight line) below PROMISE, and the leverage (relative change of the loss for a relative change
               of the weights) above LEVERAGE: there is something to gain. And successive gradients point the same way, their
               cosine above COSINE in the median: it is no noise. Below TINY, noise is no excuse. Nor is it LATEST steps after
               the start, where the rate still rises. Nor is it where the rate has been lowered within LATEST steps and the
               loss is not HALVED: a schedule that is stepped at each batch in place of each epoch ends before the training
               has begun.
               AT_ONCE steps are enough where no scheduler holds the rate below what it was set to, and all of them are
               TINY, or below CLEARLY of both limits (with what momentum will make of them) and every cosine is above
               STRONGLY; and where the rate is 0. A rate that rises by the same amount at each step is told where a pace of
               PACE is more than FAR steps away.
What to do     Ten times the learning rate, again and again, until the loss falls or swings; then a third.
When it errs   A rate that waits for a warm-up by whole epochs, and finetuning of a model that has nothing left to learn, look
               alike in their first steps; the second has gradients without a common direction.
References     Smith 2017, "Cyclical learning rates" (range test); McCandlish et al. 2018, "An empirical model of large-batch
               training" (gain of a step; signal and noise); design notes O1, O3.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, SeriesEvidence, SettingEvidence, ValueEvidence
from weighbridge.diagnosis.incode import setting
from weighbridge.diagnosis.losscourse import LossCourse
from weighbridge.diagnosis.pace import READS, Step, matrices, steps_taken, whole_cosines
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.format import number, share

PACE = 1e-4  # the low end of the usual band, 1e-4 to 1e-2 (design notes, O1): 10,000 steps to turn a layer once
PROMISE = 1e-4  # 10,000 steps to lower the loss by a factor e, were every promise kept
LEVERAGE = 0.005  # that of a model that has converged falls to 0 with the gradient; at the start it is near 1
COSINE = 0.1  # the median of so many independent directions in more than 100 dimensions is below it
COMPARED = 5
WINDOW = 10
LATEST = 40  # steps after the start (or the end of a warm-up): later, short steps may be those of a model that has learnt
LOWERED = 0.5  # of the highest rate so far: the end of a schedule, or one that was stepped too often
HALVED = 0.5  # of the loss: a schedule that ends after so much has done its work
AT_ONCE = 3
CLEARLY = 0.3  # of PACE and of PROMISE
STRONGLY = 0.3  # of two independent directions in 100 dimensions, one in 700 has a cosine above it
FAR = 1e4  # steps: long warm-ups take so many, and have the usual pace, 100 times PACE, at their end
EVEN = 1e-3  # relative: of the amounts by which a rate rises
TINY = 2e-6  # so short that noise is no excuse: half a million steps
SET = -0.6  # depth of a setting: there before the forward pass
REACH = 0.1  # rms of the update over the rate; above it gradients are not why steps are short: the rate is
AT_REST = 30.0  # leverage; of a loss near 0 any change is large


@dataclass
class _Course:
    """One optimizer, from its first step on."""

    rate: float = math.nan
    steps: list[Step] = field(default_factory=list)  # the last WINDOW that were short
    cosines: list[float] = field(default_factory=list)
    count: int = 0  # steps at this rate
    total: int = 0
    losses: LossCourse = field(default_factory=LossCourse)
    rising: list[Step] = field(default_factory=list)  # the last ones, each with a higher rate than the one before
    is_done: bool = False

    @property
    def agree(self) -> bool:
        """Do successive gradients point the same way?"""
        return len(self.cosines) >= COMPARED and float(np.median(self.cosines)) > COSINE

    @property
    def is_clear(self) -> bool:
        """Are AT_ONCE steps enough?"""
        last = self.steps[-AT_ONCE:]
        if len(last) < AT_ONCE:
            return False
        is_strong = len(self.cosines) >= AT_ONCE - 1 and min(self.cosines) > STRONGLY
        return all(_is_tiny(s, s.growth) for s in last) or (is_strong and all(_is_clearly_short(s) for s in last))

    @property
    def is_far(self) -> bool:
        """Is the rate in a straight warm-up whose end nobody will see?"""
        rates = [step.rate for step in self.rising]
        more = np.diff(rates)
        if len(rates) <= AT_ONCE or float(np.ptp(more)) > EVEN * float(more.mean()) or not all(map(_is_tiny, self.rising)):
            return False
        return (PACE / max(self.rising[-1].pace, 1e-300) - 1) * rates[-1] > FAR * float(more.mean())


def _is_tiny(step: Step, growth: float = 1.0) -> bool:
    return growth * step.pace < TINY and growth * abs(step.promise) < 10 * TINY and step.leverage < AT_REST


def _is_clearly_short(step: Step) -> bool:
    return step.growth * step.pace < CLEARLY * PACE and step.growth * abs(step.promise) < CLEARLY * PROMISE


class LowLearningRate(Rule):
    id, title = "low-learning-rate", "The learning rate is too low"
    severity, certainty, since = "warning", "heuristic", "0.1"
    needs = Needs(**{**READS, "tables": ["steps", "groups", "coherence"]})
    causes = ("stalled-loss",)
    experiment = "50 steps with ten times the learning rate: if the finding is right, the loss falls about ten times as fast."

    def __init__(self) -> None:
        self.courses: defaultdict[int, _Course] = defaultdict(_Course)  # by optimizer

    def start(self, tensors: Tensors) -> None:
        self.tensors, self.weights = tensors, matrices(tensors)

    def read(self, block: Block) -> Iterator[Finding]:
        open_ones = {row["optimizer"] for row in block.rows("steps")} - {n for n, c in self.courses.items() if c.is_done}
        if not open_ones:
            return
        cosines = whole_cosines(block, self.tensors)
        for step in steps_taken(block, self.weights):
            course = self.courses[step.optimizer]
            if course.is_done:
                continue
            if (step.step, step.optimizer) in cosines:
                course.cosines.append(cosines[step.step, step.optimizer])
            if self._is_short(course, step, self._is_held_back(block, step)):
                course.is_done = True
                yield self._finding(course, block)

    def _is_held_back(self, block: Block, step: Step) -> bool:
        """Does a scheduler hold the rate below what it was set to? So it may be about to rise."""
        held = (g.settings.get("initial_lr") for g in block.groups if g.optimizer == step.optimizer)
        return any(isinstance(rate, float) and step.rate < rate for rate in held)

    def _is_short(self, course: _Course, step: Step, is_held_back: bool) -> bool:
        """Are there now WINDOW short steps in a row, soon after the start, with gradients that agree or a pace of nothing?"""
        is_rising = not step.rate <= course.rate  # the first step, or warm-up
        course.rising = [*course.rising, step][-AT_ONCE - 1 :] if is_rising and step.rate > 0 and step.is_whole else []
        if course.is_far:
            course.steps = course.rising
            return True
        if is_rising:
            course.rate, course.count = step.rate, 0
            if not 0 <= course.total - LATEST < 2 * WINDOW or not _is_tiny(step):  # else a warm-up that never gets anywhere
                course.steps.clear()
        course.count += 1
        course.total += 1
        course.losses.add(step.loss)
        is_lowered = step.rate < LOWERED * course.rate
        has_learnt = is_lowered and not course.losses.now > HALVED * course.losses.first  # medians: one batch may be easy
        is_short = step.is_whole and step.pace < PACE and abs(step.promise) < PROMISE and step.leverage > LEVERAGE
        has_begun = bool(course.steps) and is_lowered  # what was lowered too soon is watched until it is clear
        course.is_done = has_learnt or (course.count > LATEST and not has_begun)
        is_over = step.rate == 0 and is_lowered and not has_learnt  # nothing moves, and there is much to gain
        if course.is_done or not (is_short or is_over) or (step.rate == 0 and not is_over):
            course.steps.clear()
            return False
        course.steps = [*course.steps, step][-WINDOW:]
        if is_over and all(s.rate == 0 for s in course.steps[-AT_ONCE:]) and len(course.steps) >= AT_ONCE:
            return True
        if not is_lowered and not is_held_back and course.is_clear:
            return True
        return len(course.steps) == WINDOW and (course.agree or is_lowered or all(_is_tiny(s) for s in course.steps))

    def _finding(self, course: _Course, block: Block) -> Finding:
        steps, last = course.steps, course.steps[-1]
        pace, promise = (float(np.median([getattr(s, name) for s in steps])) for name in ("pace", "promise"))
        cosine = float(np.median(course.cosines or [math.nan]))
        return Finding(
            place="",
            first_step=steps[0].step,
            told_step=last.step,
            message=f"A step changes the weights by {number(pace)} of their size and the loss by at most "
            f"{number(promise)} of it: "
            f"the loss needs {number(1 / max(promise, 1e-300))} steps to fall to a third, although there is much to gain "
            f"(a change "
            f"of the weights by 1 % would change it by {share(last.leverage / 100)}).",
            evidence=(
                ValueEvidence("size of a step over the size of the weights", pace, PACE),
                ValueEvidence("promised share of the loss in one step", promise, PROMISE),
                ValueEvidence(f"median of {len(course.cosines)} cosines of successive gradients", cosine, COSINE),
                SeriesEvidence("loss", tuple(s.step for s in steps), tuple(s.loss for s in steps)),
                SettingEvidence("lr", f"{last.rate:g}"),
            ),
            fix=f"{setting(block.groups, last.optimizer, 'lr', f'{10 * last.rate:.1g}')}, ten times as much, and again, until "
            "the loss falls.",
            depth=SET if self._is_of_the_rate(last) else 2.1,
        )

    def _is_of_the_rate(self, step: Step) -> bool:
        """Are updates as long as the rate allows? Then gradients are not why they are short; lost ones would be."""
        is_lossy = any(self.tensors[c].dtype in ("bfloat16", "float16") for c in step.columns.tolist())
        return step.reach > REACH and not is_lossy

    def lacking(self) -> tuple[Outcome, str] | None:
        if any(len(c.cosines) >= COMPARED for c in self.courses.values()):
            return None
        return Outcome.NOT_ENOUGH_DATA, f"fewer than {COMPARED} comparisons of successive gradients"
