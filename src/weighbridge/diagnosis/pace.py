"""Optimizer steps as rules about learning rates see them: how far each goes, and what it promises.

    promise   -<g, u> / loss, u the update and g the gradient before clipping: the share of the loss that the step takes away if
              the loss is a straight line. For a loss that is quadratic along u and whose smallest value is not negative

                  loss(w + u) >= loss(w) (1 - promise / 2)^2

              so that from 4 on the step must raise the loss of its own batch, whatever the curvature is. For plain gradient
              descent, promise <= 2 lr lambda_max, and 4 is the classic limit lr lambda_max = 2.
    scaled    the promise without that of matrices that are 0: from 0 on, and through a norm layer, which divides by their size,
              the loss bends at once, and its slope says nothing of a step
    pace      norm(u) / norm(w) over all weight matrices that are not 0
    leverage  norm(g) norm(w) / loss over the same: the relative change of the loss for a relative change of the weights

All are pure numbers: scaling the loss, the weights or their number does not change them.

Sources: Nesterov 2018, Lectures on Convex Optimization, section 1.2.3; Cohen et al. 2021, Gradient Descent on Neural Networks
Typically Occurs at the Edge of Stability, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from weighbridge.diagnosis.stream import Block, summed
from weighbridge.diagnosis.taken import Taken, taken
from weighbridge.diagnosis.tensors import Tensors

READS: Final = {
    "parameter": ["l2_norm"],
    "gradient": ["l2_norm"],
    "update": ["l2_norm", "dot_gradient_update"],
    "tables": ["steps", "groups"],
}
MANY_EVALUATIONS: Final = frozenset({"LBFGS"})  # the gradient that is left is not the one at which the step began


@dataclass(frozen=True, slots=True)
class Step:
    """One step of one optimizer that was taken. NaN = not known."""

    step: int
    optimizer: int
    loss: float
    rate: float  # the largest lr of its groups
    promise: float
    scaled: float  # the same without what `pace` leaves out: matrices that are 0
    pace: float
    leverage: float
    growth: float  # what heavy-ball momentum will make of a step whose direction stays
    reach: float  # rms of the update over the rate, over all weight matrices: 0.2 to 1 where an optimizer divides by gradients
    is_whole: bool  # the update of all its tensors was weighed
    kinds: frozenset[str]  # classes of the optimizer
    columns: np.ndarray  # int [held]: the tensors of the optimizer
    parts: np.ndarray  # float64 [held]: -<g, u> of each of them


def matrices(tensors: Tensors) -> np.ndarray:
    """Mask: weights with at least two axes, the ones whose size has a scale. Where a model has none, all parameters."""
    is_matrix = tensors.where(not t.is_output and not t.note and t.requires_grad and len(t.shape) > 1 for t in tensors)
    return is_matrix if is_matrix.any() else tensors.is_parameter


def steps_taken(block: Block, weights: np.ndarray) -> Iterator[Step]:
    """The steps of a block that were taken, in order. weights: mask of `matrices`."""
    sums: dict[int, _Sums] = {}
    for one in taken(block):
        if one.optimizer not in sums:
            if not len(one.columns) or not one.held.kinds.isdisjoint(MANY_EVALUATIONS):
                continue
            sums[one.optimizer] = _Sums(block, one.columns, weights)
        yield sums[one.optimizer].step(one)


def promised(block: Block, one: Taken, growth: float | np.ndarray = 1.0) -> float:
    """The most that a step lowers the loss by (first order), of the loss's size, with the gradient that it used; NaN = unknown.

    growth: of each tensor's part, what momentum will make of it. block: needs `update.dot_gradient_update`.
    """
    falls = -block["update.dot_gradient_update"][one.at, one.columns]
    return float(np.nansum(falls * growth)) / abs(one.loss) if one.loss and np.isfinite(falls).any() else math.nan


def whole_cosines(block: Block, tensors: Tensors) -> dict[tuple[int, int], float]:
    """By step and optimizer: cosine of its whole gradient and that of its step before. block: needs `coherence`, `groups`."""
    held = {column: group.optimizer for group in block.groups for column in group.columns}
    sums: dict[tuple[int, int], np.ndarray] = {}
    for row in block.rows("coherence"):
        key = row["step"], held.get(tensors.column.get(row["tensor"], -1), -1)
        more = np.array([row["dot"], row["sum_sq_before"], row["sum_sq"]])
        sums[key] = sums.get(key, np.zeros(3)) + more
    return {key: dot / math.sqrt(before * after) for key, (dot, before, after) in sums.items() if before * after > 0}


def _growth(one: Taken) -> float:
    """What heavy-ball momentum makes of a step whose direction stays."""
    momentum = np.where(np.isnan(one.setting("betas", part=0)) & (one.momentum > 0) & (one.momentum < 1), one.momentum, 0.0)
    return 1 / (1 - float(momentum.max(initial=0.0)))


class _Sums:
    """Over the tensors of one optimizer, at every step of a block."""

    def __init__(self, block: Block, columns: np.ndarray, weights: np.ndarray) -> None:
        self.columns = columns
        self._growth = (np.zeros(0), 1.0)  # and the momenta that it is of: they hardly ever change
        self.parts = np.nan_to_num(-block["update.dot_gradient_update"][:, columns], posinf=math.inf, neginf=-math.inf)
        self.promised = summed(self.parts)
        has_scale = ~((block["parameter.l2_norm"][:, columns] == 0) & weights[columns])
        self.scaled = summed(np.where(has_scale, self.parts, 0.0))
        is_moved = ~np.isnan(block["update.l2_norm"][:, columns])
        has_gradient = ~np.isnan(block["gradient.l2_norm"][:, columns])
        self.is_whole = (is_moved | ~has_gradient).all(axis=1) & has_gradient.any(axis=1)
        mine = columns[weights[columns]]
        self.count = sum(block.tensors[c].count for c in mine.tolist())
        self.size, self.moved, self.slope = (
            np.sqrt(summed(np.nan_to_num(block[name][:, mine] ** 2, posinf=np.inf)))
            for name in ("parameter.l2_norm", "update.l2_norm", "gradient.l2_norm")
        )

    def step(self, one: Taken) -> Step:
        at, loss, clip = one.at, one.loss, one.clip_factor
        size, clip = float(self.size[at]), clip if clip and math.isfinite(clip) else 1.0
        has_share, rate = loss > 0, max((rate for rate in one.row["lr"] or () if rate is not None), default=math.nan)
        return Step(
            step=one.step,
            optimizer=one.optimizer,
            loss=loss,
            rate=rate,
            promise=float(self.promised[at]) / clip / loss if has_share else math.nan,
            scaled=float(self.scaled[at]) / clip / loss if has_share else math.nan,
            pace=float(self.moved[at]) / size if size > 0 else math.nan,
            leverage=float(self.slope[at]) / clip * size / loss if has_share else math.nan,
            growth=self._grown(one),
            reach=float(self.moved[at]) / (rate * math.sqrt(self.count)) if rate > 0 and self.count else math.nan,
            is_whole=bool(self.is_whole[at]),
            kinds=one.held.kinds,
            columns=self.columns,
            parts=self.parts[at],
        )

    def _grown(self, one: Taken) -> float:
        momenta = one.momentum  # the same array for as long as they are the same
        if self._growth[0] is not momenta:
            self._growth = momenta, _growth(one)
        return self._growth[1]
