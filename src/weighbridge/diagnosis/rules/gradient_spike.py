"""In one step the gradient is many times what it was before, and the optimizer uses all of it.

Symptom        A jump of the loss in the next steps, or weights that are thrown far off at once.
How it decides The norm of the gradient that the optimizer used (after any clipping), as a logarithm, over the median of the
               steps just before: above LEAST times, above 7 robust sigmas (median absolute deviation) of the last 200 steps,
               2.5 times as far out as any of them, and larger than all since the first EARLY steps. Where the loss of the
               same batch is LEAST times what it was, too, the batch is a hard one, and that is harm only if more than UNDONE
               of all that was won is undone: near the end of a training gradients are as small as the losses of their
               batches, and differ as widely (of a smooth loss above 0, the gradient's square is at most 2 L times the loss).
               Below GREAT times it is told only if its batch, or one of the SHOWS steps after it, has a loss above the last
               RECENT ones, and SIGMAS robust standard deviations above their median: the norm of the mean over b samples is
               sqrt(B / b) times that over B, where it is mostly noise, and up to B / b times where one sample is far out: a
               step over fewer samples than usual (what an epoch leaves over) counts as if they stood among as many as usual,
               which b of B move by at most b / B of what they differ by.
               Where its own batch has a loss of LEAST times what it was, the next SHOWS steps
               say what it is: a loss that comes back by half of the way (as a logarithm) was that batch's, one of LEAST times
               more is that of weights that were thrown; one that stays where it is asks for something else (new targets of a
               Q-learner, a head that was begun anew), and its gradients are no fault. At once, whatever the loss, where
               the step that it made is THROWN times as long as all weights of the optimizer are: of what they had learnt
               nothing is left, and that the loss stays up is no new task. The place is the tensor with the
               largest share of the squared norm.
What to do     Look at the batch of this step. Clip by the norm (`clip_grad_norm_`) at a few times its usual size.
When it errs   Not before 10 steps; they are counted anew when a tensor gets its first gradient (layers that are thawed).
               Where gradients scatter widely by nature (batches of one sample, reinforcement learning), their own scatter and
               extremes are the measure. A spike that clipping has cut off does no harm and is not told.
References     Nesterov 2018, Lectures on Convex Optimization, theorem 2.1.5 (gradient and loss). OLMo Team 2025, "2 OLMo 2
               Furious", section 3 (spike score: more than 7 sigma); Takase et al. 2023, "Spike No More"; Rousseeuw and Croux
               1993 on the median absolute deviation.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, TableEvidence
from weighbridge.diagnosis.losscourse import LossCourse
from weighbridge.diagnosis.spikes import LEAST as WAIT
from weighbridge.diagnosis.spikes import SIGMA, Sizes, Spike, SpikeWatch, among_usual
from weighbridge.diagnosis.stream import Block, summed
from weighbridge.diagnosis.taken import Taken, taken, whole_norm
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.format import counted, factor, share

LEAST = 3.0  # times; half an order of magnitude: less is what batches do
UNDONE = 0.25  # of the way from the first loss to the one before, as for a spike of the loss
EARLY = 3  # steps whose gradients are still those of the initialisation
GREAT = 10.0  # times: no batch does that
SHOWS, RECENT = 2, 10  # steps after which its harm would show; steps whose losses are usual
SIGMAS = 4.0  # above these, as for stale-second-moment: the highest of eleven is a new one by chance once in eleven
THROWN = 1.0  # times the norm of the weights: a straight line says nothing of the loss so far away
SHOWN = 8
MOST_TOLD = 3  # of one run: whoever has seen three needs no fourth


@dataclass(frozen=True, slots=True)
class Waiting:
    """A spike that is not told yet."""

    found: Finding
    is_sure: bool  # a loss that is usual does not clear it
    since: int  # steps; its own is one
    until: int
    stays: tuple[float, float] | None  # of losses between these what is asked for has changed; None: its loss had not risen

    def is_harm(self, loss: float, steps: int, usual: float) -> bool:
        """Does the loss of this step, its own or a later one, say that it did harm? One that is not known says so."""
        if self.stays is None:
            return self.is_sure or not loss <= usual
        return steps > self.since and not self.stays[0] <= loss <= self.stays[1]


@dataclass(slots=True)
class State:
    """Of one optimizer."""

    watch: SpikeWatch = field(default_factory=lambda: SpikeWatch(LEAST))
    steps: int = 0
    sizes: Sizes = field(default_factory=Sizes)
    largest: float = 0.0  # norm, after the first steps
    had: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))  # by column: has it had a gradient?
    last: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=SHOWN))
    course: LossCourse = field(default_factory=LossCourse)
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    waiting: Waiting | None = None  # a spike, until it is said or has shown no harm

    @property
    def usual(self) -> float:
        """The largest loss that is no surprise after the last ones."""
        if not self.losses:
            return math.inf
        middle = median(self.losses)
        return max(*self.losses, middle + SIGMAS * SIGMA * median(abs(loss - middle) for loss in self.losses))

    def harmful(self, loss: float) -> Finding | None:
        """The last spike, if this loss says that it did harm."""
        one = self.waiting
        if one is None:
            return None
        is_harm = one.is_harm(loss, self.steps, self.usual)
        if is_harm or self.steps >= one.until:
            self.waiting = None
        if self.waiting is None and not is_harm and one.stays is not None:
            self.watch = SpikeWatch(LEAST)  # of other targets gradients have another size
        return one.found if is_harm else None

    def wait(self, found: Finding, spike: Spike, loss: float, is_thrown: bool) -> None:
        """Keep a spike until later losses have shown what it is, or its step has."""
        before, stays = self.course.now, None
        if self.waiting is not None and self.waiting.stays is not None:
            return  # is what is asked for another? It may ask for even more at the next step
        if loss > LEAST * before > 0:
            stays = math.sqrt(loss * before), LEAST * loss
        stays = None if is_thrown else stays
        self.waiting = Waiting(found, is_thrown or spike.times >= GREAT, self.steps, self.steps + SHOWS, stays)

    def has_met(self, columns: np.ndarray) -> bool:
        """Has each of these tensors had a gradient?"""
        return bool((columns < len(self.had)).all() and self.had[columns].all())

    def meets_new(self, columns: np.ndarray, count: int) -> bool:
        """Has one of these of so many tensors its first gradient? Then the norm is not that of the same tensors as before."""
        had = np.zeros(count, bool)
        had[: len(self.had)] = self.had
        self.had = had
        is_new = not had[columns].all()
        had[columns] = True
        return is_new

    def is_of_a_hard_batch(self, loss: float) -> bool:
        """Has the loss, which is not yet in the course, risen as well, and undone little of what was won?"""
        risen = loss - self.course.now
        return loss > LEAST * self.course.now >= 0 and risen <= UNDONE * (self.course.first - self.course.now)


class GradientSpike(Rule):
    id, title = "gradient-spike", "The gradient is suddenly many times larger"
    severity, certainty, since = "warning", "heuristic", "0.1"
    is_event = True
    needs = Needs(parameter=["l2_norm"], gradient=["l2_norm"], update=["l2_norm"], tables=["steps", "groups"])
    causes = (  # one step as many times too long, and what a rate that is too high brings
        *(
            "loss-spike",
            "growing-loss",
            "high-learning-rate",
            "exploding-gradient",
            "exploding-weights",
            "exploding-activation",
        ),
        *("dead-units", "saturated-units", "collapsed-output", "rank-collapse", "nonfinite-origin", "stalled-loss"),
        "stale-second-moment",
    )
    experiment = "The same step with another batch: if the gradient is as large, it is not the data."

    def __init__(self) -> None:
        self.states: defaultdict[int, State] = defaultdict(State)  # by optimizer
        self.told = 0

    def start(self, tensors: Tensors) -> None:
        self.tensors = tensors

    def read(self, block: Block) -> Iterator[Finding]:
        norms = np.where(np.isfinite(block["gradient.l2_norm"]), block["gradient.l2_norm"], 0.0)
        wholes: dict[int, list[float]] = {}  # by optimizer: of all its tensors together, at each step
        settled: set[int] = set()  # optimizers of which every tensor has had a gradient: nearly all, after the first block
        for one in taken(block):
            if one.optimizer not in wholes:
                wholes[one.optimizer] = np.sqrt(summed(norms[:, one.columns] ** 2)).tolist()
                settled |= {one.optimizer} if self.states[one.optimizer].has_met(one.columns) else set()
            whole = wholes[one.optimizer][one.at]
            if not whole > 0:
                continue
            state = self.states[one.optimizer]
            part = state.sizes.part(one.samples)
            norm, loss = among_usual(whole, state.watch.usual, part), among_usual(one.loss, state.course.now, part)
            state.steps += 1
            is_settled = one.optimizer in settled
            if not is_settled and state.meets_new(one.columns[norms[one.at, one.columns] > 0], len(self.tensors)):
                state.watch = SpikeWatch(LEAST)
            state.last.append((one.step, whole))
            spike = state.watch.add(norm)
            is_largest = norm > state.largest
            if state.steps > EARLY:
                state.largest = max(state.largest, norm)
            is_hard = state.is_of_a_hard_batch(loss)
            if spike is not None and is_largest and not is_hard and self.told < MOST_TOLD:
                found = self._finding(one, norms[one.at, one.columns], whole, spike.times * whole / norm, spike, state)
                state.wait(found, spike, loss, _is_thrown(block, one))
            harmful = state.harmful(loss)
            if math.isfinite(loss):
                state.losses.append(loss)
            state.course.add(loss)
            if harmful is not None:
                self.told += 1
                yield dataclasses.replace(harmful, told_step=one.step)

    def _finding(self, one: Taken, norms: np.ndarray, norm: float, times: float, spike: Spike, state: State) -> Finding:
        shares = (norms / norm) ** 2
        order = np.argsort(-shares)[:SHOWN].tolist()
        culprit = self.tensors.name(int(one.columns[order[0]]))
        rows = tuple((self.tensors.name(int(one.columns[i])), float(norms[i]), float(shares[i])) for i in order)
        return Finding(
            place=culprit,
            first_step=one.step,
            told_step=one.step,
            message=f"At step {one.step} the gradient is {factor(times)} of what it was just before; "
            f"{share(rows[0][2])} of its square is that of {culprit}.",
            evidence=(
                *spike.shown("norm of the gradient", state.last),
                TableEvidence("whose it is", ("tensor", "norm", "share of the square"), rows),
            ),
            fix=f"Look at the batch of step {one.step}; clip gradients by their norm, at three times its usual size: "
            f"torch.nn.utils.clip_grad_norm_(model.parameters(), {3 * norm / times:.1g}) before optimizer.step().",
            depth=1.5,
        )

    def lacking(self) -> tuple[Outcome, str] | None:
        seen = max((state.steps for state in self.states.values()), default=0)
        if seen <= WAIT:
            return Outcome.NOT_ENOUGH_DATA, f"{counted(seen, 'step')} with gradients; more than {WAIT} are needed"
        return None


def _is_thrown(block: Block, one: Taken) -> bool:
    """Is this step as long as the weights that it moves?"""
    step, weights = (whole_norm(block, f"{quantity}.l2_norm", one) for quantity in ("update", "parameter"))
    return step > THROWN * weights > 0
