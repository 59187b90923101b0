"""How the vectors that a module gives differ from each other: over samples, over positions, and in how many directions.

Sums of each unit do not tell this: an image that is the same for every sample has units that vary over its positions. So at
the steps of `Plan(units=...)` a part of an output, taken evenly, is looked at: at most SAMPLES x POSITIONS x FEATURES numbers.
The slices are torch's, the sums NumPy's (no mode of the user's counts or changes them), all in float64; or both are C's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from weighbridge.capture.closely import Closely, SpreadState

SAMPLES: Final = 32
POSITIONS: Final = 8
FEATURES: Final = 128
VECTORS: Final = 64  # that are compared pairwise


class Spread(NamedTuple):
    """Of Y [samples, positions, features]; the columns of the table `spread` after the tensor."""

    samples: int
    positions: int
    features: int
    sum_sq: float  # sum of Y^2
    sample_sq: float  # sum of (Y - mean over samples)^2: 0 = the same for all samples
    position_sq: float  # sum of (Y - mean over positions)^2: 0 = the same at all positions of a sample
    vectors: int  # rows of V, which are those of Y - mean over samples, taken evenly
    trace: float  # of the Gram matrix K = V V^T: sum of its eigenvalues
    trace_sq: float  # sum of K^2: of their squares. trace^2 / trace_sq = participation ratio


def spread_of(output: torch.Tensor, axis: int, closely: Closely | None = None) -> Spread | None:
    """Of a readable tensor [samples, ...] of at least two dimensions, its features along `axis` (1, or -1 for the last).

    None where there are fewer than two samples, nothing at all, or a number that is not finite. closely: C, asked first.
    """
    if closely is not None and (told := closely.spread(output, axis)) is not None:
        return _told(told) if told.is_there else None
    if output.dim() < 2 or output.shape[0] < 2 or not output.numel() or output.layout is not torch.strided:
        return None
    y = output.detach().movedim(axis, -1)[evenly(output.shape[0], SAMPLES)]
    y = y[..., evenly(y.shape[-1], FEATURES)]
    y = y.flatten(1, -2) if y.dim() > 2 else y.unsqueeze(1)
    return _sums(y[:, evenly(y.shape[1], POSITIONS)].to(torch.float64).numpy())


def _told(found: SpreadState) -> Spread:
    sums = found.sum_sq, found.sample_sq, found.position_sq
    return Spread(found.samples, found.positions, found.features, *sums, found.vectors, found.trace, found.trace_sq)


def evenly(size: int, most: int) -> slice:
    """Of so many in a row at most so many, at equal distances."""
    return slice(None, None, max(1, math.ceil(size / most)))


def _sums(y: np.ndarray) -> Spread | None:
    total = float(np.vdot(y, y))
    if not math.isfinite(total):
        return None
    by_sample, by_position = y - y.mean(axis=0), y - y.mean(axis=1, keepdims=True)
    v = by_sample.reshape(-1, y.shape[-1])
    v = v[:: _step(len(v), y.shape[1])]
    gram = v @ v.T if len(v) < v.shape[1] else v.T @ v
    parts = float(np.vdot(by_sample, by_sample)), float(np.vdot(by_position, by_position))
    samples, positions, features = y.shape
    return Spread(samples, positions, features, total, *parts, len(v), float(np.trace(gram)), float(np.vdot(gram, gram)))


def _step(vectors: int, positions: int) -> int:
    """So that at most VECTORS are left, of all positions alike."""
    step = max(1, math.ceil(vectors / VECTORS))
    while math.gcd(step, positions) > 1:
        step += 1
    return step
