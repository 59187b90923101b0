"""Optimizer steps as rules about learning rates see them: how far each goes, and what it promises.

    promise   -<g, u> / loss, u the update and g the gradient before clipping: the share of the loss that the step takes away if
              the loss is a straight line. For a loss that is quadratic along u and whose smallest value is not negative

                  loss(w + u) >= loss(w) (1 - promise / 2)^2

              so that from 4 on the step must raise the loss of its own batch, whatever the curvature is. For plain gradient
              descent, promise <= 2 lr lambda_max, and 4 is the classic limit lr lambda_max = 2.
    pace      norm(u) / norm(w) over all weight matrices that are not 0
    leverage  norm(g) norm(w) / loss over the same: the relative change of the loss for a relative change of the weights

All three are pure numbers: scaling the loss, the weights or their number does not change them.

Sources: Nesterov 2018, Lectures on Convex Optimization, section 1.2.3; Cohen et al. 2021, Gradient Descent on Neural Networks
Typically Occurs at the Edge of Stability, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.tensors import Tensors

READS: Final = {
    "parameter": ["l2_norm"],
    "gradient": ["l2_norm"],
    "update": ["l2_norm", "dot_gradient_update"],
    "tables": ["steps", "groups"],
}
MANY_EVALUATIONS: Final = ("LBFGS",)  # the gradient that is left is not the one at which the step began


@dataclass(frozen=True, slots=True)
class Step:
    """One step of one optimizer that was taken. NaN = not known."""

    step: int
    optimizer: int
    loss: float
    rate: float  # the largest lr of its groups
    promise: float
    pace: float
    leverage: float
    is_whole: bool  # the update of all its tensors was weighed
    by_tensor: np.ndarray  # float64 [tensors]: each one's part of the promise


def matrices(tensors: Tensors) -> np.ndarray:
    """Mask: weights with at least two axes, the ones whose size has a scale. Where a model has none, all parameters."""
    is_matrix = tensors.where(not t.is_output and not t.note and t.requires_grad and len(t.shape) > 1 for t in tensors)
    return is_matrix if is_matrix.any() else tensors.is_parameter


def steps_taken(block: Block, weights: np.ndarray) -> Iterator[Step]:
    """The steps of a block that were taken, in order. weights: mask of `matrices`."""
    held: dict[int, list[int]] = {}
    unfit = {g.optimizer for g in block.groups if g.kind in MANY_EVALUATIONS}
    for group in block.groups:
        held.setdefault(group.optimizer, []).extend(group.columns)
    for row in block.rows("steps"):
        columns = held.get(row["optimizer"])
        if columns and not row["skipped"] and row["optimizer"] not in unfit:
            yield _step(block, row, np.array(columns), weights)


def _step(block: Block, row: Mapping[str, Any], columns: np.ndarray, weights: np.ndarray) -> Step:
    at = row["step"] - block.start
    loss = math.nan if row["loss"] is None else float(row["loss"])
    clip = row["clip_factor"]
    clip = clip if clip and math.isfinite(clip) else 1.0
    parts = np.zeros(len(block.tensors))
    parts[columns] = np.nan_to_num(-block["update.dot_gradient_update"][at, columns] / clip, posinf=math.inf, neginf=-math.inf)
    size, moved, slope = (
        _norm(block[name][at], columns, weights) for name in ("parameter.l2_norm", "update.l2_norm", "gradient.l2_norm")
    )
    has_gradient = ~np.isnan(block["gradient.l2_norm"][at, columns])
    return Step(
        step=row["step"],
        optimizer=row["optimizer"],
        loss=loss,
        rate=max((r for r in row["lr"] or () if r is not None), default=math.nan),
        promise=float(parts.sum()) / loss if loss > 0 else math.nan,
        pace=moved / size if size > 0 else math.nan,
        leverage=slope / clip * size / loss if loss > 0 else math.nan,
        is_whole=bool((~np.isnan(block["update.l2_norm"][at, columns]) | ~has_gradient).all() and has_gradient.any()),
        by_tensor=parts / loss if loss > 0 else parts * math.nan,
    )


def _norm(row: np.ndarray, columns: np.ndarray, weights: np.ndarray) -> float:
    mine = row[columns[weights[columns]]]
    return float(np.sqrt(np.nansum(mine**2)))
