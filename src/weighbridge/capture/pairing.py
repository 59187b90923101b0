"""Do inputs and targets of a batch go together? At the steps of `Plan(units=...)`: the rows of the table `pairing`.

Two tests of independence, both over part of the batch taken evenly, neither of which knows the model:

    distance   sum of A * B over pairs of samples, A and B the distances between inputs and between targets, U-centred (Szekely
               and Rizzo 2014, "Partial distance correlation with methods for dissimilarities", section 3). Where inputs and
               targets are independent its mean is 0, its variance over permutations 2 sum(A^2) sum(B^2) / (n (n - 3)).
    neighbour  each sample's target against that of the nearest earlier sample that is not the same: classes that agree less
               those expected, or the product of standardised numbers (Cover and Hart 1967).

Features are standardised; whole numbers (tokens) are compared by equality. Everything is NumPy in CPU memory: autocast, random
state and autograd see nothing of it.
"""

from __future__ import annotations

import functools
from collections import deque
from typing import Any, Final

import numpy as np
import torch

from weighbridge.capture.outputhook import leaves
from weighbridge.capture.seats import is_plain
from weighbridge.capture.targets import Targets, targets_of

MOST_SAMPLES: Final = 64  # of a batch
MOST_FEATURES: Final = 256
REMEMBERED: Final = 512  # samples, for nearest neighbours
CHECKED: Final = 2**16  # numbers of a batch in its checksum
_UNKNOWN_TO_NUMPY: Final = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
Numbers = np.ndarray[Any, np.dtype[Any]]


class Pairing:
    """What was seen in this step and is not yet written."""

    def __init__(self) -> None:
        self.inputs: Numbers | None = None  # [samples, features] of the last batch, evenly chosen
        self._met_by = 0  # id of the hook that met it; 0 = none, or it is what the model itself was given
        self._is_whole = False  # the model itself was called in this pass
        self.batch, self.checksum = 0, 0.0
        self.row: tuple[Any, ...] | None = None
        self._memory: deque[tuple[Numbers, Numbers]] = deque()
        self._remembered = 0  # samples in it
        self._scale: Numbers | None = None  # of the features, in the first batch

    def meet_batch(self, args: Any, met_by: int = 0) -> None:
        """The first module of a pass was called with this."""
        self.inputs, self._met_by = None, met_by
        for _, tensor in leaves(args)[:1]:
            if is_plain(tensor) and tensor.is_cpu and tensor.dim() > 1 and len(tensor) > 1 and not tensor.is_complex():
                whole = _numpy(tensor)
                self.batch, self.checksum = len(whole), _checksum(whole)
                self.inputs = _features(_evenly(whole, MOST_SAMPLES))

    def meet_again(self, met_by: int) -> None:
        """A module was called. If it has met the batch, that was a part: one step of a sequence, one of two views."""
        if met_by == self._met_by:
            self.inputs = None

    def meet_whole(self, args: Any) -> None:
        """The model itself was called: it ends last, and was given all of the batch, unless it is called again."""
        is_again, self._is_whole = self._is_whole, True
        if is_again:
            self.inputs = None
        elif any(True for _ in leaves(args)):
            self.meet_batch(args)

    def on_backward(self, root: torch.Tensor) -> None:
        """A backward pass begins at this root: its targets belong to the batch that was met last."""
        inputs, self.inputs, self._is_whole = self.inputs, None, False
        targets = targets_of(root) if inputs is not None and self.row is None else Targets("")
        values = targets.values
        if inputs is None or values is None or not len(values) or len(values) % self.batch:
            return
        whole = _numpy(values).reshape(self.batch, -1)
        wanted, checksum = _features(_evenly(whole, MOST_SAMPLES)), np.nan if targets.mean_square else _checksum(whole)
        if not (np.isfinite(inputs).all() and np.isfinite(wanted).all()):
            return
        told = (targets.loss, len(wanted), *_told(wanted, _factor(root, targets)))
        once = _first_of_each(inputs)  # a sample drawn twice agrees with itself
        inputs, wanted = inputs[once], wanted[once]
        distance = _of_distances(inputs, wanted)
        neighbour = self._of_neighbours(inputs, wanted)
        self.row = (len(wanted), *distance, *neighbour, self.checksum, checksum, *told)

    def rows(self, step: int, attempt: int) -> list[tuple[Any, ...]]:
        """What was seen, as rows of `pairing`; the next step begins."""
        row, self.row, self.inputs = self.row, None, None
        return [] if row is None else [(step, attempt, *row)]

    def _of_neighbours(self, inputs: Numbers, wanted: Numbers) -> tuple[float, float]:
        """Sum over the samples, and its variance where inputs and targets are independent."""
        if wanted.shape[1] != 1 or (self._memory and self._memory[0][0].shape[1] != inputs.shape[1]):
            return 0.0, 0.0
        if self._scale is None:
            self._scale = np.ones(inputs.shape[1]) if inputs.dtype.kind == "i" else _scales(inputs)
        scaled, target = inputs * self._scale, wanted[:, 0]
        found = (
            _agreement(scaled, target, *map(np.concatenate, zip(*self._memory, strict=True))) if self._memory else (0.0, 0.0)
        )
        self._memory.append((scaled, target))
        self._remembered += len(target)
        while self._remembered > REMEMBERED:
            self._remembered -= len(self._memory.popleft()[1])
        return found


def _numpy(tensor: torch.Tensor) -> Numbers:
    """The tensor's own memory, where NumPy knows its dtype."""
    tensor = tensor.detach()
    found: Numbers = (tensor.float() if tensor.dtype in _UNKNOWN_TO_NUMPY else tensor).numpy()
    return found


def _evenly(whole: Numbers, most: int) -> Numbers:
    return whole if len(whole) <= most else whole[np.linspace(0, len(whole) - 1, most).astype(np.int64)]


def _first_of_each(values: Numbers) -> list[int]:
    """Of rows that are the same, the first."""
    seen: dict[bytes, int] = {}
    for i, row in enumerate(values + 0):  # -0 is 0
        seen.setdefault(row.tobytes(), i)
    return [*seen.values()]


def _features(values: Numbers) -> Numbers:
    """[samples, features]: float64, or int64 of what is whole by its dtype."""
    flat = values.reshape(len(values), -1)
    flat = _evenly(flat.T, MOST_FEATURES).T
    return flat.astype(np.int64 if flat.dtype.kind in "iub" else np.float64)


def _checksum(whole: Numbers) -> float:
    """The same for the same numbers in the same places, and hardly ever for others."""
    some = _evenly(whole.reshape(-1), CHECKED).astype(np.float64)
    return float(some @ _places()[: len(some)])


@functools.cache
def _places() -> Numbers:
    """A weight for each place, none like another."""
    weights: Numbers = np.cos(np.arange(CHECKED, dtype=np.float64))
    return weights


def _distances(values: Numbers) -> Numbers:
    if values.dtype.kind == "i":
        apart: Numbers = np.mean(values[:, None, :] != values[None, :, :], axis=2)
        return apart
    spread = values.std(0)
    scaled = (values - values.mean(0))[:, spread > 0] / spread[spread > 0]
    squares = (scaled**2).sum(1)
    found: Numbers = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * scaled @ scaled.T, 0.0))
    return found


def _scales(values: Numbers) -> Numbers:
    """Of each feature 1 over its spread; one that hardly ever differs from 0 must not outweigh all others."""
    spread = values.std(0)
    scale: Numbers = 1 / np.maximum(spread, 0.3 * np.sqrt((spread**2).mean()) + 1e-300)
    return scale


def _u_centred(distances: Numbers) -> Numbers:
    n, rows = len(distances), distances.sum(1)
    centred: Numbers = distances - (rows[:, None] + rows[None]) / (n - 2) + rows.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(centred, 0.0)
    return centred


def _of_distances(inputs: Numbers, wanted: Numbers) -> tuple[float, float]:
    """The sum, and its variance where inputs and targets are independent; 0 and 0 of fewer than 4 samples."""
    if len(wanted) < 4:
        return 0.0, 0.0
    distances = _distances(inputs)
    np.fill_diagonal(distances, 0.0)
    a, b = _u_centred(distances), _u_centred(_distances(wanted))
    n = len(wanted)
    return float((a * b).sum()), float(2 * (a**2).sum() * (b**2).sum() / (n * (n - 3)))


def _agreement(inputs: Numbers, target: Numbers, known: Numbers, known_target: Numbers) -> tuple[float, float]:
    if inputs.dtype.kind == "i":
        apart = np.mean(inputs[:, None, :] != known[None, :, :], axis=2)
    else:
        apart = (inputs**2).sum(1)[:, None] + (known**2).sum(1)[None] - 2 * inputs @ known.T
    apart[apart <= 1e-9 * (inputs.shape[1] or 1)] = np.inf  # the same sample again
    is_met = np.isfinite(apart.min(1))
    nearest, target = known_target[apart.argmin(1)][is_met], target[is_met]
    if target.dtype.kind == "i":
        chance = (known_target == target[:, None]).mean(1)
        return float(((nearest == target) - chance).sum()), float((chance * (1 - chance)).sum())
    middle, spread = known_target.mean(), known_target.std()
    products = (nearest - middle) * (target - target.mean()) / (spread * target.std() or 1.0)
    return float(products.sum()), float(len(target))


def _factor(root: torch.Tensor, targets: Targets) -> float:
    """Of a squared error by hand: the factor before it, of which the root is made; 1 of any other loss."""
    if not targets.mean_square > 0 or root.numel() != 1:
        return 1.0
    factor = float(root.detach()) / targets.mean_square
    return factor if factor > 0 else 1.0


def _told(wanted: Numbers, factor: float) -> tuple[Any, ...]:
    """Of classes their numbers and how many of each; of numbers how many, their sums and sums of squares by column, as a loss
    that has this factor takes them."""
    if wanted.dtype.kind == "i":
        classes, counts = np.unique(wanted, return_counts=True)
        return (classes.astype(np.float64).tolist(), counts.astype(np.float64).tolist())
    return ((np.sqrt(factor) * wanted.sum(0)).tolist(), (factor * (wanted**2).sum(0)).tolist())
