"""In one step the loss is far above what it was just before.

Symptom        The curve of the loss has a peak, or leaves its course for good.
How it decides The loss, as a logarithm, over the median of the steps just before: above LEAST times, above 7 robust sigmas
               (median absolute deviation) of the last 200 steps, 2.5 times as far out as any of them, and more than UNDONE
               of all that was won since the beginning is undone; below FAR times, all of it. While it is no higher than at the
               start, it is told only when it has come down again: within BACK steps a loss is below LEAST times what it was
               before. Where it stays up, what is asked for has changed (a Q-learner's target network was renewed). Higher than
               at the start: at once where one of the two updates before was above THROWN times the median of the last MOVES,
               so that the weights have left their way, or where updates are not known. Else it is the data that are others,
               and told when most of it was one batch's: within BACK steps half of the jump, as a logarithm, is gone again. New
               data are learnt by steps no longer than those before, of which each takes its small share. A spike of the
               gradient in a step before is its cause. A step over fewer samples than usual (what an epoch leaves over) counts
               as if they stood among as many as usual: b of B samples move the mean by b / B of what they differ by.
What to do     Look at the batch of this step, and at what the step before did. If the loss does not come back: go on from a
               checkpoint about 100 steps earlier without the next few hundred batches, or with a lower learning rate.
When it errs   Not before 10 steps, and not where the loss is or was 0 or negative, which has no ratio. Where it scatters
               widely by nature (batches of one sample, reinforcement learning), its own scatter and extremes are the
               measure. The next part of a curriculum, a new task and a head that is begun anew stay up, and are not told.
References     Chowdhery et al. 2022, "PaLM", section 5.1 (rewind and skip); OLMo Team 2025, "2 OLMo 2 Furious", section 3
               (spike score); Molybog et al. 2023, "A Theory on Adam Instability in Large-Scale Machine Learning".
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule
from weighbridge.diagnosis.losscourse import LossCourse
from weighbridge.diagnosis.spikes import LEAST as WAIT
from weighbridge.diagnosis.spikes import Sizes, Spike, SpikeWatch, among_usual
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.taken import Taken, taken, whole_norm
from weighbridge.format import counted, factor, number

LEAST = 2.0  # times; a bad batch of a healthy run rarely doubles the loss
UNDONE = 0.25  # of the way from the first loss to the one before: a hard batch of a model that fits all others undoes less
FAR = 3.0  # times; between LEAST and this the loss must be worse than at the very start
BACK = 2  # steps: the batch after a bad one is a good one
THROWN = 3.0  # times the usual update, as for promises in high-learning-rate: batches of usual size differ by less
MOVES = 20  # steps whose updates say what is usual
SHOWN = 8


@dataclass(slots=True)
class State:
    """Of one optimizer."""

    watch: SpikeWatch = field(default_factory=lambda: SpikeWatch(LEAST))
    course: LossCourse = field(default_factory=LossCourse)
    sizes: Sizes = field(default_factory=Sizes)
    last: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=SHOWN))
    is_positive: bool = True
    waiting: tuple[Finding, int, float] | None = None  # what is to be said, until this many steps, if a loss is below this
    has_changed: bool = False  # it has waited, and the loss is still up
    is_of_data: bool = False  # the weights had not left their way when it jumped
    moves: deque[float] = field(default_factory=lambda: deque(maxlen=MOVES))  # norms of the updates before

    @property
    def is_on_its_way(self) -> bool:
        """Were the last updates known, and like those before?"""
        return len(self.moves) == MOVES and max([*self.moves][-BACK:]) <= THROWN * float(np.median(self.moves)) > 0

    def is_back(self, loss: float, steps: int) -> Finding | None:
        """Has a spike come down again? It is forgotten where it has not in time."""
        if self.waiting is None or steps > self.waiting[1]:
            self.waiting = None
        elif loss < self.waiting[2]:
            return self.waiting[0]
        return None


class LossSpike(Rule):
    id, title = "loss-spike", "The loss jumps up in one step"
    severity, certainty, since = "warning", "heuristic", "0.1"
    causes = ("gradient-spike", "growing-loss")
    is_event = True
    needs = Needs(update=["l2_norm"], tables=["steps", "groups"])
    experiment = "The same step with another batch: if the loss is as high, it is the weights and not the data."

    def __init__(self) -> None:
        self.states: defaultdict[int, State] = defaultdict(State)  # by optimizer
        self.is_told = False

    def read(self, block: Block) -> Iterator[Finding]:
        for one in taken(block, skipped=True):
            state = self.states[one.optimizer]
            if np.isfinite(one.loss) and not self.is_told:
                finding = self._judged(one, state)
                if finding is not None:
                    self.is_told = True
                    yield finding
            if (move := whole_norm(block, "update.l2_norm", one)) > 0:
                state.moves.append(move)

    def _judged(self, one: Taken, state: State) -> Finding | None:
        state.is_positive &= one.loss > 0
        before = state.course.now
        loss = among_usual(one.loss, before, state.sizes.part(one.samples))
        state.last.append((one.step, one.loss))
        state.course.add(loss)
        spike = state.watch.add(loss)
        back = state.is_back(loss, state.course.steps)
        if back is not None:
            return dataclasses.replace(back, told_step=one.step)
        state.has_changed &= spike is not None
        is_far = spike is not None and (spike.times >= FAR or loss > state.course.first)
        if spike is None or not is_far or not state.is_positive:
            return None
        if loss - before <= UNDONE * (state.course.first - before):
            return None
        finding = _finding(one, spike, state, before)
        is_high = loss > state.course.first
        if not state.has_changed:
            state.is_of_data = state.is_on_its_way
        if loss > state.course.first * (FAR if state.has_changed else 1.0) and not state.is_of_data:
            return finding
        if not state.has_changed:
            limit = max(LEAST * before, math.sqrt(loss * before) if is_high else 0.0)
            state.waiting, state.has_changed = (finding, state.course.steps + BACK, limit), True
        return None

    def lacking(self) -> tuple[Outcome, str] | None:
        seen = max((state.course.steps for state in self.states.values()), default=0)
        if seen <= WAIT:
            return Outcome.NOT_ENOUGH_DATA, f"{counted(seen, 'step')} with a loss; more than {WAIT} are needed"
        if not any(state.is_positive for state in self.states.values()):
            return Outcome.NOT_APPLICABLE, "the loss is or was 0 or negative"
        return None


def _finding(one: Taken, spike: Spike, state: State, before: float) -> Finding:
    return Finding(
        place="",
        first_step=one.step,
        told_step=one.step,
        message=f"At step {one.step} the loss is {number(one.loss)}, {factor(one.loss / before)} of what it was just before "
        f"({number(before)}).",
        evidence=spike.shown("loss", state.last),
        fix=f"Look at the batch of step {one.step} and at the update of the step before. If the loss does not come back, go "
        "on from a checkpoint before it with other batches or a lower learning rate.",
        depth=0.99,
    )
