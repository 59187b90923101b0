"""Weight decay shrinks the weights faster than the gradient builds them: what was learned, or could be, dies away.

Symptom        Weights shrink towards 0, outputs become the same for all inputs, the loss stops at that of a constant guess.
How it decides For all weights that decay together, by the optimizer or by a penalty in the loss (its graph shows a term that
               knows the weights alone): the update points back along the weights, cosine(u, w) below -RADIAL (a gradient is
               nearly at right angles to the weights), and shortens them by more than RATE per step, in PATIENCE recorded
               steps in a row; of fewer than ENOUGH numbers the angle tells nothing. Decay that is added to the gradients by
               hand does the same without a word in the optimizer; it is known by taking the same share of every matrix
               (within EVEN). Or weights lose more than RATE per step outside the optimizer, which is exact: they are shorter
               than the last step left them. Or they have lost half of their norm since the first step, with decay that alone
               accounts for as much. And the loss is no better than IMPROVED below where it began, or has lost LOST of what it
               had won; where the penalty is a part of it, it tells nothing and is not asked.
What to do     Divide `weight_decay`, or the factor of the penalty, by 10 or more; lr times weight_decay is the share of every
               weight that is lost per step, usually 10^-6 to 10^-4. With Adam use AdamW: added to the gradient, decay is
               blown up to steps of lr.
When it errs   A model that has converged without weight decay in mind may also shrink; its loss has improved, so it is left
               alone. Weights that are put back to a length, or cut off at a bound, after each step do not shrink on.
References     Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization"; Kosson et al. 2023, "Rotational
               Equilibrium": in balance, decay and gradient leave the norm as it is, and updates are at right angles to it.
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
from weighbridge.diagnosis.lossterms import penalised
from weighbridge.diagnosis.pace import matrices
from weighbridge.diagnosis.stream import Block, summed
from weighbridge.diagnosis.taken import Taken, taken
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.firstpass import from_text
from weighbridge.format import number, share

RADIAL = 0.7  # Adam with L2: u is lr * sign(w), of cosine 0.80 (normal w) or 0.87 (uniform w) with it
ENOUGH = 10  # numbers: the cosine of unrelated directions deviates by n^-1/2, and 0.7 is 2.2 of these; of one number it is 1
RATE = 0.01  # per step: half of the norm in 70 steps, 100 to 10,000 times what is usual
PATIENCE = 3
HALF = 0.5
IMPROVED = 0.3  # a constant guess is this much better than a freshly made model at most (digits: 2.45 to 2.30)
LOST = 0.5
EVEN = 1.25  # the largest share that a step takes of a matrix over the smallest: decay is alike for all, a gradient is not
SHOWN = 20


BY_OPTIMIZER, BY_PENALTY, BY_HAND = "Weight decay", "The penalty on the weights in the loss", "What shrinks them by hand"


@dataclass(slots=True)
class State:
    """Of one optimizer."""

    course: LossCourse = field(default_factory=LossCourse)
    norm: float = 0.0  # of its decaying weights at the first step
    since: int = 0  # that step
    decayed: float = 0.0  # sum of lr times decay: -ln of what decay alone would leave
    left: float = math.nan  # norm of its decaying weights as its last step left them
    before: float = 0.0  # and at the beginning of that step
    run: list[tuple[int, float, float]] = field(default_factory=list)  # step, cosine, rate of the steps in a row


class Decaying:
    """The weights of one optimizer that shrink together, by what, and their sums at each step of a block."""

    def __init__(self, block: Block, by: str, columns: np.ndarray) -> None:
        self.by, self.columns = by, columns
        self.count = sum(block.tensors[c].count for c in columns.tolist())
        weights, updates = (np.sqrt(summed(block[f"{q}.l2_norm"][:, columns] ** 2)) for q in ("parameter", "update"))
        dots = summed(block["update.dot_update_parameter"][:, columns])  # NaN where one of them was not weighed
        with np.errstate(all="ignore"):
            each = -block["update.dot_update_parameter"][:, columns] / block["parameter.l2_norm"][:, columns] ** 2
        self.is_even = (each.shape[1] > 1) & (each.min(axis=1, initial=np.inf) * EVEN >= each.max(axis=1, initial=0.0))
        self.sums = list(zip(weights.tolist(), updates.tolist(), dots.tolist(), strict=True))

    def decay(self, one: Taken) -> float:
        """Share of these weights that the optimizer's own decay takes in this step."""
        if self.by == BY_HAND:
            return 0.0
        decay = one.weight_decay
        return float(np.nanmean((one.lr * decay)[decay > 0])) if (decay > 0).any() else 0.0


class ExcessiveWeightDecay(Rule):
    id, title = "excessive-weight-decay", "Weight decay kills the weights"
    severity, certainty, since = "warning", "heuristic", "0.1"
    needs = Needs(parameter=["l2_norm"], update=["l2_norm", "dot_update_parameter"], tables=["steps", "groups", "graph"])
    causes = ("vanishing-gradient", "collapsed-output", "dead-units", "rank-collapse", "stalled-loss")
    experiment = "20 steps from the last checkpoint with weight_decay=0: if the weights still shrink, this finding is wrong."

    def __init__(self) -> None:
        self.states: defaultdict[int, State] = defaultdict(State)  # by optimizer
        self.penalised: set[str] = set()
        self.is_told = self.has_decay = False

    def start(self, tensors: Tensors) -> None:
        self.tensors, self.matrices = tensors, matrices(tensors)
        self.is_penalised = tensors.where(tensors.name(c) in self.penalised for c in range(len(tensors)))

    def read(self, block: Block) -> Iterator[Finding]:
        for row in block.rows("graph"):
            self.penalised |= penalised(from_text(row["detail"]).graph)
            self.is_penalised = self.tensors.where(self.tensors.name(c) in self.penalised for c in range(len(self.tensors)))
        held: dict[int, Decaying] = {}
        for one in taken(block):
            state = self.states[one.optimizer]
            state.course.add(one.loss)
            if self.is_told:
                continue
            if one.optimizer not in held:
                held[one.optimizer] = Decaying(block, *self._decaying(one))
            found = self._look(block, one, state, held[one.optimizer])
            if found is not None:
                self.is_told = True
                yield found

    def _decaying(self, one: Taken) -> tuple[str, np.ndarray]:
        """By what weights shrink, and which; without decay all matrices, as far as somebody shrinks them."""
        if self.is_penalised[one.columns].any():
            return BY_PENALTY, one.columns[self.is_penalised[one.columns]]
        if (one.weight_decay > 0).any():
            return BY_OPTIMIZER, one.columns[one.weight_decay > 0]
        return BY_HAND, one.columns[self.matrices[one.columns]]

    def _look(self, block: Block, one: Taken, state: State, held: Decaying) -> Finding | None:
        by, (weight, update, dot) = held.by, held.sums[one.at]
        self.has_decay |= by != BY_HAND
        left, state.left = state.left, math.sqrt(max(weight**2 + 2 * dot + update**2, 0.0)) if dot == dot else math.nan
        if not weight > 0 or not update > 0 or dot != dot:
            return None
        if not state.norm:
            state.norm, state.since = weight, one.step
        by_hand = 1 - weight / left if left > 0 else 0.0
        state.decayed += held.decay(one)
        cosine, rate = dot / (weight * update), -dot / weight**2
        is_radial = held.count >= ENOUGH and cosine < -RADIAL and (by != BY_HAND or bool(held.is_even[one.at]))
        is_shrunk = by_hand > RATE and weight < (1 - RATE) * state.before
        state.before = weight
        if is_shrunk or (is_radial and rate > RATE):
            state.run = [*state.run, (one.step, cosine, max(rate, by_hand))][-SHOWN:]
        else:
            state.run.clear()
        is_by_penalty = by == BY_PENALTY and is_radial
        has_halved = weight < HALF * state.norm and (state.decayed > -math.log(HALF) or is_by_penalty)
        if len(state.run) < PATIENCE and not has_halved:
            return None
        is_bad = is_by_penalty or not state.course.has_improved(IMPROVED) or state.course.has_worsened(LOST)
        return self._finding(block, one, state, held.columns, weight, BY_HAND if is_shrunk else by) if is_bad else None

    def _finding(self, block: Block, one: Taken, state: State, columns: np.ndarray, weight: float, by: str) -> Finding:
        roles = {self.tensors[c].role for c in columns}
        among = self.tensors.is_parameter & self.tensors.where(t.role in roles for t in self.tensors)
        places = self.tensors.together(columns.tolist(), among)
        left, decay = weight / state.norm, float(np.nanmax(one.weight_decay, initial=0.0))
        steps = tuple(step for step, _, _ in state.run)
        series = SeriesEvidence("share of the weights lost per step", steps, tuple(r for _, _, r in state.run), RATE)
        of = f" of {number(decay)}" if by == BY_OPTIMIZER else ""
        lost = (
            f"{share(left)} of the norm that the weights had at step {state.since} is left"
            if left < 1
            else f"the weights lose {share(state.run[-1][2])} of their norm per step"
        )
        return Finding(
            place=places[0][0] if len(places) == 1 else "",
            first_step=state.run[0][0] if state.run else state.since,
            told_step=one.step,
            message=f"{by}{of} outweighs the gradient: {lost}, and the loss is {number(state.course.now)} after "
            f"{number(state.course.first)} at first.",
            evidence=(
                ValueEvidence("norm of the decaying weights, of that at the first step", left, HALF),
                *((series,) if state.run else ()),
                SettingEvidence("weight_decay", number(decay)),
            ),
            fix=_FIXES.get(by)
            or f"{setting(block.groups, one.optimizer, 'weight_decay', f'{decay / 100:.1g}')} or less: lr times weight_decay "
            f"is the share lost per step, 10⁻⁶ to 10⁻⁴ is usual.{_OF_ADAM if 'Adam' in one.held.kinds else ''}",
            depth=2.0,
        )

    def lacking(self) -> tuple[Outcome, str] | None:
        return None if self.has_decay else (Outcome.NOT_APPLICABLE, "no parameter has weight decay")


_OF_ADAM = " AdamW in place of Adam, whose division makes L2 of any size the same."
_FIXES = {
    BY_PENALTY: "A hundredth of the factor before the penalty, or weight_decay in AdamW in its place.",
    BY_HAND: "Multiply by a factor nearer to 1 (1 - 10⁻⁴), or leave it to weight_decay of AdamW.",
}
