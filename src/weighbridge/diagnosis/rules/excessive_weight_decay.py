"""Weight decay shrinks the weights faster than the gradient builds them: what was learned, or could be, dies away.

Symptom        Weights shrink towards 0, outputs become the same for all inputs, the loss stops at that of a constant guess.
How it decides For all weights that decay together: the update points back along the weights, cosine(u, w) below -RADIAL (a
               gradient is nearly at right angles to the weights), and shortens them by more than RATE per step, in PATIENCE
               recorded steps in a row; or they have lost half of their norm since the first step, with decay that alone
               accounts for as much. And the loss is no better than IMPROVED below where it began, or has lost LOST of what
               it had won.
What to do     Divide `weight_decay` by 10 or more; lr times weight_decay is the share of every weight that is lost per step,
               usually 10^-6 to 10^-4. With Adam use AdamW: added to the gradient, decay is blown up to steps of lr.
When it errs   A model that has converged without weight decay in mind may also shrink; its loss has improved, so it is left
               alone. A penalty on the weights that is part of the loss is not known as decay.
References     Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization"; Kosson et al. 2023, "Rotational
               Equilibrium": in balance, decay and gradient leave the norm as it is, and updates are at right angles to it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, SeriesEvidence, SettingEvidence, ValueEvidence
from weighbridge.diagnosis.losscourse import LossCourse
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.taken import Taken, norm_of, taken
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.format import number, share

RADIAL = 0.7  # Adam with L2: u is lr * sign(w), of cosine 0.80 (normal w) or 0.87 (uniform w) with it
RATE = 0.01  # per step: half of the norm in 70 steps, 100 to 10,000 times what is usual
PATIENCE = 3
HALF = 0.5
IMPROVED = 0.3  # a constant guess is this much better than a freshly made model at most (digits: 2.45 to 2.30)
LOST = 0.5
SHOWN = 20


@dataclass(slots=True)
class State:
    """Of one optimizer."""

    course: LossCourse = field(default_factory=LossCourse)
    norm: float = 0.0  # of its decaying weights at the first step
    since: int = 0  # that step
    decayed: float = 0.0  # sum of lr times decay: -ln of what decay alone would leave
    run: list[tuple[int, float, float]] = field(default_factory=list)  # step, cosine, rate of the steps in a row


class ExcessiveWeightDecay(Rule):
    id, title = "excessive-weight-decay", "Weight decay kills the weights"
    severity, certainty, since = "warning", "heuristic", "0.1"
    needs = Needs(parameter=["l2_norm"], update=["l2_norm", "dot_update_parameter"], tables=["steps", "groups"])
    causes = ("vanishing-gradient", "collapsed-output", "dead-units", "rank-collapse", "stalled-loss")
    experiment = "20 steps from the last checkpoint with weight_decay=0: if the weights still shrink, this finding is wrong."

    def __init__(self) -> None:
        self.states: defaultdict[int, State] = defaultdict(State)  # by optimizer
        self.is_told = self.has_decay = False

    def start(self, tensors: Tensors) -> None:
        self.tensors = tensors

    def read(self, block: Block) -> Iterator[Finding]:
        for one in taken(block):
            state = self.states[one.optimizer]
            state.course.add(one.loss)
            if self.is_told or not len(decaying := one.columns[one.weight_decay > 0]):
                continue
            self.has_decay = True
            found = self._look(block, one, state, decaying)
            if found is not None:
                self.is_told = True
                yield found

    def _look(self, block: Block, one: Taken, state: State, decaying: np.ndarray) -> Finding | None:
        dot = block["update.dot_update_parameter"][one.at, decaying]
        there = decaying[np.isfinite(dot)]
        weight, update = (norm_of(block[f"{q}.l2_norm"][one.at, there]) for q in ("parameter", "update"))
        if not weight > 0 or not update > 0 or len(there) < len(decaying):
            return None
        if not state.norm:
            state.norm, state.since = weight, one.step
        decay = one.weight_decay
        state.decayed += float(np.nanmean((one.lr * decay)[decay > 0]))
        cosine, rate = float(dot.sum()) / (weight * update), -float(dot.sum()) / weight**2
        if cosine < -RADIAL and rate > RATE:
            state.run = [*state.run, (one.step, cosine, rate)][-SHOWN:]
        else:
            state.run.clear()
        has_halved = weight < HALF * state.norm and state.decayed > -np.log(HALF)
        is_bad = not state.course.has_improved(IMPROVED) or state.course.has_worsened(LOST)
        if is_bad and (len(state.run) >= PATIENCE or has_halved):
            return self._finding(one, state, there, weight)
        return None

    def _finding(self, one: Taken, state: State, columns: np.ndarray, weight: float) -> Finding:
        roles = {self.tensors[c].role for c in columns}
        among = self.tensors.is_parameter & self.tensors.where(t.role in roles for t in self.tensors)
        places = self.tensors.together(columns.tolist(), among)
        left, decay = weight / state.norm, float(np.nanmax(one.weight_decay))
        steps = tuple(step for step, _, _ in state.run)
        series = SeriesEvidence("share of the weights lost per step", steps, tuple(r for _, _, r in state.run), RATE)
        return Finding(
            place=places[0][0] if len(places) == 1 else "",
            first_step=state.run[0][0] if state.run else state.since,
            told_step=one.step,
            message=f"Weight decay of {number(decay)} outweighs the gradient: {share(left)} of the norm that the weights had "
            f"at step {state.since} is left, and the loss is {number(state.course.now)} after {number(state.course.first)} "
            "at first.",
            evidence=(
                ValueEvidence("norm of the decaying weights, of that at the first step", left, HALF),
                *((series,) if state.run else ()),
                SettingEvidence("weight_decay", number(decay)),
            ),
            fix=f"weight_decay={number(decay / 100)} or less (lr times weight_decay is the share lost per step; 10⁻⁶ to 10⁻⁴ "
            "is usual), and AdamW in place of Adam.",
            depth=2.0,
        )

    def lacking(self) -> tuple[Outcome, str] | None:
        return None if self.has_decay else (Outcome.NOT_APPLICABLE, "no parameter has weight decay")
