"""Adam's second moment lags behind the gradients: it divides by what they were, and the steps are too large.

Symptom        With a beta2 near 1, the loss jumps a few steps after the gradients have become larger.
How it decides Per tensor RMS = sqrt(mean(g^2) / mean(v)), v being the second moment after the step, corrected for its start:
               above LIMIT in PATIENCE recorded steps in a row, while updates are above PACE of the learning rate (about twice
               what a second moment that fits makes of noise) and the losses of the last PATIENCE steps are above all of the
               AGO before, and SIGMAS robust standard deviations above their median, as logarithms: what is positive and near 0
               scatters by factors. The first of these steps and the PATIENCE before it must not have begun so high: the loss
               is RISES times what it was there, else batches or targets have changed, and not the steps. Where it was above
               GREAT times the median before, a third of the whole way up (as a logarithm) must come after it: a Q-learner's
               new targets are a thousand times as hard as those that it has learnt by heart, and batches of them differ. A
               second moment that is older than the run (a state that was loaded) is judged from the first step on, by the loss
               alone: all of the last PATIENCE are RISES times the first.
What to do     A lower beta2 (0.95 to 0.99), a longer warm-up, clipping by the norm, or an optimizer that clips updates
               (Adafactor, StableAdamW).
When it errs   Gradients that grow while the loss falls, as at the end of a plateau, are healthy: the loss must rise. A
               single large gradient is gradient-spike's. Of rivals (a GAN's two) a loss rises because the other one learns:
               nothing is said.
References     Wortsman et al. 2023, "Stable and low-precision training for large-scale vision-language models", section 3.4
               (RMS of 2.3 or more precedes loss spikes by 1 to 8 steps); Bai et al. 2025, "Adaptive Preconditioners Trigger
               Loss Spikes in Adam".
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, SettingEvidence, TableEvidence, ValueEvidence
from weighbridge.diagnosis.incode import setting
from weighbridge.diagnosis.rivals import Rivals
from weighbridge.diagnosis.secondmoments import SecondMoments, own_updates
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.taken import Taken, taken
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.format import counted, number

LIMIT = 2.3
PATIENCE = 2
AGO = 20  # losses before those of the steps in a row
SIGMAS = 4.0  # robust ones (1.4826 MAD) above the median of those: by chance once in 30,000 steps each
PACE = 0.4  # update over lr: noise alone gives sqrt((1 - beta1) / (1 + beta1)) = 0.23 (beta1 = 0.9), this is near twice as much
RISES = 1.5  # two signs are asked for; what a second moment far too small does to a loss is a matter of factors
GREAT = 10.0  # times: no batch does that
EARLY = 10  # steps: until then v is a mean of few gradients
SHOWN = 8


@dataclass(slots=True)
class State:
    """Of one optimizer."""

    losses: deque[float] = field(default_factory=lambda: deque(maxlen=AGO + PATIENCE))
    steps: int = 0
    first: float = np.nan  # loss

    def note(self, loss: float) -> None:
        self.steps += 1
        self.first = loss if self.steps == 1 else self.first
        if np.isfinite(loss):
            self.losses.append(loss)

    @property
    def bar(self) -> float:
        """What the loss has to pass after the step that was noted last: what had risen before is none of its doing."""
        *earlier, _ = losses = [*self.losses] or [np.nan]
        loss, before = max(losses[-1 - PATIENCE :]), float(np.median(earlier)) if earlier else np.nan
        return loss * (float(np.sqrt(loss / before)) if loss > GREAT * before > 0 else RISES)

    @property
    def is_far_above_the_first(self) -> bool:
        """Are the last losses far above the first of all?"""
        return len(self.losses) > PATIENCE and min([*self.losses][-PATIENCE:]) > RISES * self.first > 0

    @property
    def has_risen(self) -> bool:
        """Are the last losses all far above those before, and above all of them?"""
        listed = np.array(self.losses)
        if len(listed) < AGO + PATIENCE:
            return False
        listed = np.log(listed) if listed.min() > 0 else listed
        before, median = listed[:AGO], float(np.median(listed[:AGO]))
        spread = 1.4826 * float(np.median(np.abs(before - median)))
        return bool(listed[AGO:].min() > max(before.max(), median + SIGMAS * spread))


class StaleSecondMoment(Rule):
    id, title = "stale-second-moment", "Adam's second moment is out of date"
    severity, certainty, since = "warning", "heuristic", "0.1"
    needs = Needs(
        parameter=["l2_norm"],
        gradient=["rms", "count"],
        update=["l2_norm", "dot_update_parameter"],
        moment2=["mean"],
        tables=["steps", "groups"],
    )
    causes = (  # steps are longer than the rate says
        *("gradient-spike", "loss-spike", "growing-loss", "high-learning-rate", "exploding-gradient", "exploding-weights"),
        *("exploding-activation", "dead-units", "saturated-units", "nonfinite-origin", "stalled-loss"),
    )
    experiment = "20 steps from the last checkpoint with beta2=0.95: if the loss jumps as before, this finding is wrong."

    def __init__(self) -> None:
        self.moments = SecondMoments()
        self.states: defaultdict[int, State] = defaultdict(State)  # by optimizer
        self.length, self.first = np.zeros(0, np.int64), np.zeros(0, np.int64)  # per tensor: steps in a row, the first of them
        self.bars = np.zeros(0)  # what the loss has to pass since that step
        self.is_told = False
        self.rivals = Rivals()

    def start(self, tensors: Tensors) -> None:
        self.tensors = tensors
        self.moments.start(tensors)
        self.length, self.first = tensors.grown(self.length), tensors.grown(self.first)
        self.bars = tensors.grown(self.bars)

    def read(self, block: Block) -> Iterator[Finding]:
        self.rivals.read(block)
        sizes = {number: np.sqrt(moments) for number, moments in self.moments.follow(block).items()}
        far: dict[int, np.ndarray] = {}  # by optimizer, bool [steps]: some gradient is far larger than remembered
        for one in taken(block):
            state = self.states[one.optimizer]
            state.note(one.loss)
            columns, size = one.columns, sizes[one.optimizer]
            if one.optimizer not in far:
                far[one.optimizer] = (block["gradient.rms"][:, columns] > LIMIT * size).any(axis=1)
            if self.is_told or not (far[one.optimizer][one.at] or self.length[columns].any()):
                continue  # nothing to count, nothing to end
            with np.errstate(all="ignore"):
                behind = block["gradient.rms"][one.at, columns] / size[one.at]
                count = block["gradient.count"][one.at, columns]
                pace = np.sqrt(own_updates(block, one) / count) / one.lr
            is_old = self.moments.is_resumed[columns]
            holds = (behind > LIMIT) & (pace > PACE) & ((state.steps > EARLY) | is_old)
            begins = holds & (self.length[columns] == 0)
            self.bars[columns] = np.where(begins, state.bar, self.bars[columns])
            self.first[columns] = np.where(begins, one.step, self.first[columns])
            self.length[columns] = np.where(
                np.isfinite(behind), np.where(holds, self.length[columns] + 1, 0), self.length[columns]
            )
            has_risen = (one.loss > self.bars[columns]) & state.has_risen & (one.step < self.rivals.since)
            told = (self.length[columns] >= PATIENCE) & (has_risen | (is_old & state.is_far_above_the_first))
            if told.any():
                self.is_told = True
                yield self._finding(block, one, told, behind, pace)

    def _finding(self, block: Block, one: Taken, told: np.ndarray, behind: np.ndarray, pace: np.ndarray) -> Finding:
        listed = sorted(np.flatnonzero(told).tolist(), key=lambda i: -behind[i])
        places = self.tensors.together([int(one.columns[i]) for i in listed], self.tensors.is_parameter)
        worst = self.tensors.name(int(one.columns[listed[0]]))
        rows = tuple((self.tensors.name(int(one.columns[i])), float(behind[i]), float(pace[i])) for i in listed[:SHOWN])
        beta = float(np.nanmax(one.setting("betas", part=1)[told], initial=0.0))
        return Finding(
            place=places[0][0] if len(places) == 1 else worst,
            first_step=int(self.first[one.columns[told]].min()),
            told_step=one.step,
            message=f"The gradient of {worst} is {number(float(behind[listed[0]]))} times as large as its second moment "
            f"remembers, in {counted(PATIENCE, 'step')} in a row: updates are {number(float(pace[listed[0]]))} times the "
            "learning rate, and the loss rises.",
            evidence=(
                ValueEvidence("rms(g) over the root mean second moment", float(behind[listed[0]]), LIMIT),
                TableEvidence("out of date", ("tensor", "RMS", "update over learning rate"), rows),
                SettingEvidence("beta2", number(beta, 6)),
            ),
            fix=f"{setting(block.groups, one.optimizer, 'betas', '(0.9, 0.95)')}, or clip gradients by their norm; a longer "
            "warm-up where it happens at the beginning.",
            depth=2.0,
        )

    def lacking(self) -> tuple[Outcome, str] | None:
        if not (self.moments.steps > 0).any():
            return Outcome.NOT_APPLICABLE, "no optimizer of Adam's kind"
        if self.moments.steps.max() <= EARLY:
            return Outcome.NOT_ENOUGH_DATA, f"more than {EARLY} steps are needed"
        return None
