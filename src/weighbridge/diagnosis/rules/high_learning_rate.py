"""Steps are so long that they leap over what they aim at: the learning rate is too high.

Symptom        The loss rises, swings or stays far above where it began; weights, gradients and outputs grow; units die; NaN.
How it decides Of each step, its promise (the share of the loss that it takes away if the loss is a straight line) and its pace
               (its size over that of the weights), of matrices that are not 0. A step is wild where the promise is above
               PROMISE, more than all of the loss there is, and the pace above PACE. Told where wild steps were taken and the
               loss shows it, in one of three ways. It leaps: it is above RAISED times its first value (SINCE times in a row,
               or above FAR times, if it had fallen below LEFT, or the optimizer is Adagrad, whose steps grow shorter by what a
               leap adds to the squares that it divides by), or not finite, at most SINCE steps after one that promised twice
               as much. It is held up: wild steps made up HELD_UP of some WINDOW, and either the loss, above LEFT of its first
               value, swings (SWINGS times in the window it rose by SWING of its first value in one step), or as many steps
               later the median over the last WINDOW is not below STUCK of its first value. It is stuck: WINDOW steps and more
               after a wild one, the median over the last WINDOW is not below STUCK of its first value. Of rivals (a GAN's two)
               only leaps count: either holds up the other's loss, that is the game.
What to do     A third of the learning rate; warm-up; clipping of the norm for what comes now and then.
When it errs   The promise supposes a loss that is not negative; where one is seen below 0 the rule says nothing more. Some
               early steps of a rate that is too high are harmless (the "catapult" of Lewkowycz et al. 2020), and what lies
               behind batch norms (of its weights only the direction counts) or at the edge of stability leaps and learns: hence
               the second sign.
References     Nesterov 2018, Lectures on Convex Optimization, section 1.2.3 (divergence above 2 / lambda); Cohen et al. 2021,
               2022 (edge of stability, and its form for Adam); Lewkowycz et al. 2020; Wortsman et al. 2024, "Small-scale
               proxies"; Ward, Wu and Bottou 2020, "AdaGrad stepsizes" (converges from any rate).
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, SeriesEvidence, SettingEvidence, ValueEvidence
from weighbridge.diagnosis.incode import setting
from weighbridge.diagnosis.losscourse import median_of
from weighbridge.diagnosis.pace import READS, Step, matrices, steps_taken
from weighbridge.diagnosis.rivals import Rivals
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.format import factor, number

PROMISE = 1.0  # all of the loss in one step: no step can keep it. From 4 on the loss must rise (pace.py)
PACE = 0.05  # two signs are asked for: a hundredth is usual, seven hundredths were the best run of the design notes' table
RAISED = 2.0
FAR = 10.0
SINCE = 3
WINDOW = 10
HELD_UP = 0.7
SWING, SWINGS = 0.25, 2  # a step that leaps over must raise the loss, and not only once
LEFT = 0.5  # lower down the best of rates leap, too, and come back (edge of stability)
STUCK = 0.95
RISEN = 3.0  # times the usual promise: of steps just before a wild one, it had begun there
SET = 2.0  # times the rate before: somebody has set it, and what comes within WINDOW steps comes of that
CULPRIT = 0.9  # share of the promise of one group, to name it
SHOWN = 24
SETTLING = frozenset({"Adagrad"})  # its rate over the root of all squares so far comes down by itself, and soonest after a leap


@dataclass
class _Course:
    """One optimizer, and how its training goes."""

    first_loss: float = math.nan
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    wild: deque[bool] = field(default_factory=lambda: deque(maxlen=WINDOW))
    shown: deque[Step] = field(default_factory=lambda: deque(maxlen=SHOWN))
    first_wild: int = -1  # of the last of them, where they came again after a calm
    rate: float = math.nan  # of the last step
    set_at: int = -1  # the step at which it was last raised by SET
    raised: float = 1.0  # times what it was
    is_calm: bool = True  # no step was wild of late
    count: int = 0
    held_up: int = -1  # the count at which so many steps were wild
    last_wild: tuple[int, float] = (-(10**9), 0.0)  # its count of steps, and the promise
    worst: Step | None = None
    has_learnt: bool = False
    settles: bool = False  # its optimizer shortens its own steps
    is_signed: bool = False
    is_told: bool = False

    @property
    def since(self) -> int:
        """The step from which the rate was too high: that at which it was set, where wild steps came of it soon."""
        return self.set_at if self.set_at >= 0 and 0 <= self.first_wild - self.set_at <= WINDOW else self.first_wild

    @property
    def how_set(self) -> str:
        """In words, where somebody has raised it."""
        return (
            f" Its learning rate was raised {factor(self.raised)} at step {self.set_at}." if self.since == self.set_at else ""
        )

    def better(self, worst: Step) -> float:
        """A rate to try in the place of this step's."""
        return worst.rate / self.raised if self.how_set else float(f"{worst.rate / 3:.1g}")

    @property
    def how_better(self) -> str:
        """What is said of it."""
        if self.how_set:
            return f", as it was before step {self.set_at}."
        return ", a third of now, and lower until the loss falls from the first steps on; with warm-up it may be higher."

    def look_at(self, step: Step, is_wild: bool) -> None:
        """Since when steps are wild: at a much lower rate, or more than WINDOW steps ago, they did no harm."""
        if step.rate > SET * self.rate > 0:
            self.set_at, self.raised, self.is_calm = step.step, step.rate / self.rate, True
        self.rate = step.rate
        self.is_calm |= self.count - self.last_wild[0] > WINDOW
        if is_wild and self.is_calm:
            self.first_wild, self.is_calm = self._risen(step), False

    def _risen(self, step: Step) -> int:
        """The first of the steps up to this one whose promises stand out: a rate swings up over several, a bad batch in one."""
        before = [one.promise for one in self.shown]
        usual, first = (median_of(before) if len(before) >= WINDOW else math.inf), step.step
        for one in reversed(self.shown):
            if one.step < self.set_at or not one.promise > RISEN * usual > 0:
                break
            first = one.step
        return first

    @property
    def swings(self) -> bool:
        """Has it risen much in one step, again and again?"""
        rises = np.diff(self.losses)
        return int((rises > SWING * self.first_loss).sum()) >= SWINGS

    @property
    def leaps(self) -> bool:
        """Is the loss far above where it began? Once it has fallen well, or where steps settle, one is not enough: it heals."""
        high = [not loss <= RAISED * self.first_loss for loss in self.losses][-SINCE:]
        is_far = not self.losses[-1] <= FAR * self.first_loss
        return is_far or (all(high) if self.has_learnt or self.settles else high[-1])


class HighLearningRate(Rule):
    id, title = "high-learning-rate", "The learning rate is too high"
    severity, certainty, since = "warning", "heuristic", "0.1"
    needs = Needs(**READS)
    causes = (
        *(
            "nonfinite-origin",
            "growing-loss",
            "stalled-loss",
            "exploding-gradient",
            "exploding-weights",
            "exploding-activation",
        ),
        *("dead-units", "saturated-units", "rank-collapse", "collapsed-output", "loss-spike", "gradient-spike"),
        *("attention-logit-growth", "overtight-clipping", "stale-second-moment", "vanishing-gradient", "scaler-starvation"),
    )
    experiment = "20 steps from the start with a third of the learning rate: if the finding is right, the loss falls."

    def __init__(self) -> None:
        self.courses: defaultdict[int, _Course] = defaultdict(_Course)  # by optimizer
        self.rivals = Rivals()

    def start(self, tensors: Tensors) -> None:
        self.tensors, self.weights = tensors, matrices(tensors)

    def read(self, block: Block) -> Iterator[Finding]:
        self.rivals.read(block)
        for step in steps_taken(block, self.weights):
            course = self.courses[step.optimizer]
            if course.is_told or course.is_signed:
                continue
            why = self._judge(course, step)
            if why:
                course.is_told = True
                yield self._finding(course, step, why, block)

    def _judge(self, course: _Course, step: Step) -> str:
        """The loss of this step shows what the steps before it did; then the step itself."""
        course.is_signed |= step.loss < 0
        if course.is_signed:
            return ""
        if math.isnan(course.first_loss):
            course.first_loss = step.loss
        course.losses.append(step.loss)
        course.settles = not step.kinds.isdisjoint(SETTLING)
        course.count += 1
        why = self._shown_by_loss(course, step)
        is_wild = step.scaled > PROMISE and (step.pace > PACE or math.isinf(step.scaled))
        course.look_at(step, is_wild)
        if is_wild:
            course.last_wild = course.count, step.scaled
            course.worst = max((s for s in (course.worst, step) if s), key=lambda s: s.scaled)
        course.wild.append(is_wild)
        course.shown.append(step)
        return why

    def _shown_by_loss(self, course: _Course, step: Step) -> str:
        if course.worst is None and course.has_learnt:
            return ""
        middle = median_of(course.losses) if len(course.losses) == WINDOW else math.nan
        course.has_learnt |= middle < LEFT * course.first_loss
        if course.worst is None or not course.first_loss > 0:
            return ""
        ago, promise = course.count - course.last_wild[0], course.last_wild[1]
        if ago <= SINCE and promise > 2 * PROMISE and course.leaps:
            return "the loss leaps"
        if step.step >= self.rivals.since:
            return ""
        is_held_up = sum(course.wild) >= HELD_UP * WINDOW
        course.held_up = course.count if is_held_up and course.held_up < 0 else course.held_up
        is_stuck = middle >= STUCK * course.first_loss
        if is_held_up and middle > LEFT * course.first_loss and course.swings:
            return f"the loss swings around {number(middle)}"
        if is_stuck and 0 <= course.held_up <= course.count - WINDOW:
            return f"the loss is held up at {number(middle)}"
        was_wild = ago >= WINDOW and course.worst.scaled > 2 * PROMISE
        return f"the loss is stuck at {number(middle)}, no lower than it began" if is_stuck and was_wild else ""

    def _finding(self, course: _Course, step: Step, why: str, block: Block) -> Finding:
        worst = course.worst or step
        steps, losses = [s.step for s in course.shown], [s.loss for s in course.shown]
        place, group = self._place(worst, block)
        return Finding(
            place=place,
            first_step=course.since,
            told_step=step.step,
            message=f"Step {worst.step} changed the weights by {number(worst.pace)} of their size and would have taken "
            f"{number(worst.scaled)} times the whole loss away were it straight; it leapt over: {why} (first "
            f"{number(course.first_loss)}).{course.how_set}",
            evidence=(
                ValueEvidence("promised share of the loss in one step, the largest", worst.scaled, PROMISE),
                ValueEvidence("size of that step over the size of the weights", worst.pace, PACE),
                SeriesEvidence("loss", tuple(steps), tuple(losses)),
                SeriesEvidence("promised share of the loss", tuple(steps), tuple(s.promise for s in course.shown), PROMISE),
                SettingEvidence("lr", f"{worst.rate:g}"),
            ),
            fix=setting(block.groups, worst.optimizer, "lr", f"{course.better(worst):.2g}", group) + course.how_better,
            depth=2.0,
        )

    def _place(self, worst: Step, block: Block) -> tuple[str, int | None]:
        """The module of one group and its number, where it alone holds nearly all of the promise and there are others."""
        mine = [g for g in block.groups if g.optimizer == worst.optimizer]
        parts = np.minimum(np.abs(worst.parts), np.finfo(float).max / len(worst.parts))
        for group in mine:
            if len(mine) > 1 and parts[np.isin(worst.columns, group.columns)].sum() > CULPRIT * parts.sum():
                places = self.tensors.together(group.columns, self.tensors.is_parameter)
                return places[0][0] if len(places) == 1 else "", group.number
        return "", None

    def lacking(self) -> tuple[Outcome, str] | None:
        if any(c.count > 1 for c in self.courses.values()):
            return None
        if any(c.is_signed for c in self.courses.values()):
            return Outcome.NOT_APPLICABLE, "the loss can be negative: how much of it there is to take away is not known"
        return Outcome.NOT_ENOUGH_DATA, "fewer than 2 steps with a loss were taken"
