"""Adam's eps is larger than the gradients: it no longer scales steps to the learning rate, and they are far too small.

Symptom        Training is slow or stands still although the learning rate is a usual one for Adam; raising it helps little.
How it decides Adam's step is lr m / (sqrt(v) + eps). In most of the elements that an optimizer moves, those of tensors whose
               root mean second moment is below eps (so nearly all of their elements are: the root of the mean is at least
               the mean of the roots), and the update is below PACE of the learning rate. Told after PATIENCE such steps
               where -<g, u>, the most that a step lowers the loss by (first order), is at most STOPPED of the loss; or where
               it is at most SLOW, the loss has not fallen by IMPROVED, and the rate is none that was raised to match a large
               eps: a step as long as it says would change the weights by at most MEANT of their size. Or after LONG where it
               is at most SLOW and the loss has not fallen.
What to do     Lower eps to 1e-8 or less; where gradients themselves are that small, scale the loss up.
When it errs   Large eps with a learning rate raised to match is momentum SGD on purpose: its loss falls, and nothing is
               said. So it is where a model has converged and its gradients are gone.
References     Kingma and Ba 2015, "Adam", algorithm 1; Wortsman et al. 2024, "Small-scale proxies for large-scale
               Transformer training instabilities", section 3.4 (gradients fall below eps as models grow).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, SettingEvidence, TableEvidence, ValueEvidence
from weighbridge.diagnosis.incode import setting
from weighbridge.diagnosis.losscourse import LossCourse
from weighbridge.diagnosis.pace import promised
from weighbridge.diagnosis.secondmoments import SecondMoments, own_updates
from weighbridge.diagnosis.stream import Block, summed
from weighbridge.diagnosis.taken import Taken, norm_of, taken
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.format import counted, factor, number, share

MOST = 0.5  # of the elements
PACE = 0.1  # of the learning rate; Adam's updates are 0.2 (noise alone, beta1 = 0.9) to 1 of it
PATIENCE = 3
STOPPED = 5e-4  # of the loss per step, as in overtight-clipping
MEANT = 0.1  # a hundredth is usual; ten such steps turn weights over, and nobody means that
LONG, SLOW, IMPROVED = 20, 5e-3, 0.1  # steps of at most SLOW: all of them together could have brought IMPROVED
SHOWN = 8


@dataclass(slots=True)
class State:
    """Of one optimizer."""

    course: LossCourse = field(default_factory=LossCourse)
    first: int = -1  # of the steps in a row
    run: int = 0
    stopped: int = 0  # of them, the last ones that lower the loss by next to nothing,
    slow: int = 0  # and those that lower it by little


class DominantEpsilon(Rule):
    id, title = "dominant-epsilon", "Adam's eps outweighs the gradients"
    severity, certainty, since = "warning", "heuristic", "0.1"
    needs = Needs(
        parameter=["l2_norm"],
        gradient=["rms", "count"],
        update=["l2_norm", "dot_gradient_update", "dot_update_parameter"],
        moment2=["mean"],
        tables=["steps", "groups"],
    )
    causes = ("low-learning-rate", "stalled-loss")
    experiment = "20 steps from the last checkpoint with eps=1e-8: if the loss falls no faster, this finding is wrong."

    def __init__(self) -> None:
        self.moments = SecondMoments()
        self.states: defaultdict[int, State] = defaultdict(State)  # by optimizer
        self.has_eps = self.is_told = False

    def start(self, tensors: Tensors) -> None:
        self.tensors = tensors
        self.moments.start(tensors)

    def read(self, block: Block) -> Iterator[Finding]:
        sizes = {number: np.sqrt(moments) for number, moments in self.moments.follow(block).items()}
        parts: dict[int, np.ndarray] = {}
        for one in taken(block):
            state = self.states[one.optimizer]
            state.course.add(one.loss)
            if one.optimizer not in parts:
                parts[one.optimizer] = _parts(block, one, sizes[one.optimizer])
            part = float(parts[one.optimizer][one.at])
            if self.is_told or math.isnan(part):
                continue
            self.has_eps = True
            if part <= MOST:
                state.run = state.stopped = state.slow = 0
                continue
            size = sizes[one.optimizer][one.at]
            is_below = (size < one.setting("eps")) & (size > 0)
            meant = np.nan_to_num(block["gradient.count"][one.at, one.columns]) * (size > 0)
            if self._pace(block, one, meant) >= PACE:
                state.run = state.stopped = state.slow = 0
                continue
            state.first = one.step if not state.run else state.first
            state.run += 1
            progress = promised(block, one)
            state.stopped = state.stopped + 1 if progress <= STOPPED else 0
            state.slow = state.slow + 1 if progress <= SLOW else 0
            enough = PATIENCE if _meant(block, one, meant) <= MEANT else LONG
            if state.stopped >= PATIENCE or (state.slow >= enough and not state.course.has_improved(IMPROVED)):
                self.is_told = True
                yield self._finding(block, one, state, size, is_below, part, self._pace(block, one, meant))

    def _pace(self, block: Block, one: Taken, meant: np.ndarray) -> float:
        """Size of the update over the learning rate, where there are gradients."""
        update = np.where(meant > 0, own_updates(block, one), 0.0)
        most = float(np.nansum(meant * one.lr**2 * np.isfinite(update)))
        return float(np.sqrt(np.nansum(update) / most)) if most > 0 else np.inf

    def _finding(
        self, block: Block, one: Taken, state: State, size: np.ndarray, is_below: np.ndarray, part: float, pace: float
    ) -> Finding:
        eps = one.setting("eps")
        worst = sorted(np.flatnonzero(is_below).tolist(), key=lambda i: size[i])[:SHOWN]
        rows = tuple((self.tensors.name(int(one.columns[i])), float(size[i]), float(eps[i])) for i in worst)
        typical, largest = float(np.median(size[is_below])), float(np.nanmax(eps[is_below]))
        return Finding(
            place="",
            first_step=state.first,
            told_step=one.step,
            message=f"eps = {number(largest)} is {factor(largest / typical)} of the gradients' typical size in {share(part)} "
            f"of the elements: updates are {share(pace)} of the learning rate, in {counted(state.run, 'step')}, and the loss "
            "hardly falls.",
            evidence=(
                ValueEvidence("share of elements below eps", part, MOST),
                ValueEvidence("update over learning rate", pace, PACE),
                TableEvidence("root mean second moment", ("tensor", "size", "eps"), rows),
                ValueEvidence("steps in a row", state.run, PATIENCE, "steps"),
                SettingEvidence("eps", number(largest)),
            ),
            fix=f"{setting(block.groups, one.optimizer, 'eps', '1e-8')} or less; where the gradients are as small as that, "
            "scale the loss up.",
            depth=2.0,
        )

    def lacking(self) -> tuple[Outcome, str] | None:
        return None if self.has_eps else (Outcome.NOT_APPLICABLE, "no optimizer of Adam's kind")


def _meant(block: Block, one: Taken, count: np.ndarray) -> float:
    """Size of a step as long as the learning rate says, over that of the weights that it moves."""
    weight = np.where(count > 0, block["parameter.l2_norm"][one.at, one.columns], 0.0)
    size = norm_of(weight)
    return float(np.sqrt(np.nansum(count * one.lr**2))) / size if size > 0 else math.inf


def _parts(block: Block, one: Taken, size: np.ndarray) -> np.ndarray:
    """At each step of the block: share of the elements whose second moment is below eps; NaN where none was followed."""
    count = np.nan_to_num(block["gradient.count"][:, one.columns])
    is_below = (size < one.setting("eps")) & (size > 0)
    below, meant = summed(count * is_below), summed(count * (size > 0))
    return np.where(np.isfinite(size).any(axis=1), np.where(meant > 0, below / np.maximum(meant, 1.0), 0.0), np.nan)
