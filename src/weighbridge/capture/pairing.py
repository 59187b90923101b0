"""Do inputs and targets of a batch go together? At the steps of `Plan(units=...)`: the rows of the table `pairing`.

Two tests of independence, both over part of the batch taken evenly, neither of which knows the model:

    distance   sum of A * B over pairs of samples, A and B the distances between inputs and between targets, U-centred (Szekely
               and Rizzo 2014, "Partial distance correlation with methods for dissimilarities", section 3). Where inputs and
               targets are independent its mean is 0, its variance over permutations 2 sum(A^2) sum(B^2) / (n (n - 3)).
    neighbour  each sample's target against that of the nearest earlier sample that is not the same: classes that agree less
               those expected, or the product of standardised numbers (Cover and Hart 1967).

Features are standardised; whole numbers (tokens) are compared by equality. Where a model is given several tensors, all
that have a row for each sample are its inputs: the distances are sums over them, each over its own mean (sums of metrics of
negative type are such metrics again), so that an adjacency that is the same for all samples, or noise, hides no other.
Everything is NumPy in CPU memory, or C (capture/pairs.py): autocast, random state and autograd see nothing of it.
"""

from __future__ import annotations

import functools
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from weighbridge.capture.outputhook import leaves
from weighbridge.capture.pairs import MOST_INPUTS, MOST_SAMPLES, Found, Memory, Numbers, Pairs, Parts
from weighbridge.capture.seats import is_plain
from weighbridge.capture.targets import Targets, targets_of

ITSELF: Final = 0.9  # of the targets that stand in an input: it is they, or what a decoder is given of them
MOST_FEATURES: Final = 256
CHECKED: Final = 2**16  # numbers of a batch in its checksum
_UNKNOWN_TO_NUMPY: Final = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


class Given(NamedTuple):
    """One tensor that the model was called with."""

    length: int
    is_flat: bool  # one number for each sample: an input only beside others
    checksum: float
    features: Numbers  # [samples, features], evenly chosen


class Pairing:
    """What was seen in this step and is not yet written."""

    def __init__(self, pairs: Pairs | None = None) -> None:
        """pairs: C, which compares small batches."""
        self.pairs = pairs
        self.inputs: tuple[Given, ...] = ()  # of the last batch
        self._met_by = 0  # id of the hook that met it; 0 = none, or it is what the model itself was given
        self._is_whole = False  # the model itself was called in this pass
        self.row: tuple[Any, ...] | None = None
        self._memory: Memory | None = None  # since the first batch

    def meet_batch(self, args: Any, met_by: int = 0) -> None:
        """The first module of a pass was called with this."""
        found = [tensor for _, tensor in leaves(args)[:MOST_INPUTS] if _is_of_samples(tensor)]
        self.inputs, self._met_by = tuple(_given(tensor) for tensor in found), met_by

    def meet_again(self, met_by: int) -> None:
        """A module was called. If it has met the batch, that was a part: one step of a sequence, one of two views."""
        if met_by == self._met_by:
            self.inputs = ()

    def meet_whole(self, args: Any) -> None:
        """The model itself was called: it ends last, and was given all of the batch, unless it is called again."""
        is_again, self._is_whole = self._is_whole, True
        if is_again:
            self.inputs = ()
        elif any(True for _ in leaves(args)):
            self.meet_batch(args)

    def on_backward(self, root: torch.Tensor) -> None:
        """A backward pass begins at this root: its targets belong to the batch that was met last."""
        met, self.inputs, self._is_whole = self.inputs, (), False
        targets = targets_of(root) if met and self.row is None else Targets("")
        values = targets.values
        given = () if values is None or not len(values) else _of_one_length(met, len(values))
        if not given or values is None:
            return
        whole = _numpy(values).reshape(given[0].length, -1)
        wanted, checksum = _features(_evenly(whole, MOST_SAMPLES)), np.nan if targets.mean_square else _checksum(whole)
        inputs = (given[0].features, *(one.features for one in given[1:] if not _holds(one.features, wanted)))
        if (found := self._compare(inputs, wanted)) is not None:
            told = (targets.loss, len(wanted), *_told(wanted, _factor(root, targets)))
            self.row = (*found, sum(one.checksum for one in given), checksum, *told)

    def rows(self, step: int, attempt: int) -> list[tuple[Any, ...]]:
        """What was seen, as rows of `pairing`; the next step begins."""
        row, self.row, self.inputs = self.row, None, ()
        return [] if row is None else [(step, attempt, *row)]

    def _compare(self, inputs: Parts, wanted: Numbers) -> Found | None:
        """Both tests; the samples are remembered. None where a number is not finite."""
        memory = self._memory
        if self.pairs is not None and memory is not None and memory.serves(wanted) and self.pairs.can_compare(inputs, wanted):
            return self.pairs.compare(inputs, wanted, memory)
        if not all(np.isfinite(part).all() for part in (*inputs, wanted)):
            return None
        once = _first_of_each(inputs)  # a sample drawn twice agrees with itself
        inputs, wanted = tuple(part[once] for part in inputs), wanted[once]
        if memory is None or not memory.serves(wanted):
            memory = self._memory = Memory(tuple(map(_scales, inputs)) if memory is None else memory.scales, wanted)
        return Found(len(wanted), *_of_distances(inputs, wanted), *_of_neighbours(inputs, wanted, memory))


def _of_neighbours(inputs: Parts, wanted: Numbers, memory: Memory) -> tuple[float, float]:
    """Sum over the samples, and its variance where inputs and targets are independent."""
    if not memory.takes(inputs, wanted):
        return 0.0, 0.0
    scaled = tuple(part * scale for part, scale in zip(inputs, memory.scales, strict=True))
    *known, known_target = memory.known()
    found = _agreement(scaled, wanted[:, 0], tuple(known), known_target[:, 0]) if len(known_target) else (0.0, 0.0)
    memory.make_room()
    for part, values in zip(memory.parts, (*scaled, wanted), strict=True):
        part[memory.end : memory.end + len(values)] = values
    memory.added(len(wanted))
    return found


def _is_of_samples(tensor: torch.Tensor) -> bool:
    is_readable = is_plain(tensor) and tensor.is_cpu and tensor.layout is torch.strided and not tensor.is_complex()
    return is_readable and tensor.dim() > 0 and len(tensor) > 1


def _given(tensor: torch.Tensor) -> Given:
    whole = _numpy(tensor)
    return Given(len(whole), whole.ndim == 1, _checksum(whole), _features(_evenly(whole, MOST_SAMPLES)))


def _of_one_length(met: tuple[Given, ...], count: int) -> tuple[Given, ...]:
    """Those with a row for each sample, of which there are as many as targets, or each has several."""
    lengths = [one.length for one in met if not one.is_flat and count % one.length == 0]
    length = count if count in lengths else next(iter(lengths), 0)
    return tuple(one for one in met if one.length == length)


def _holds(part: Numbers, wanted: Numbers) -> bool:
    """Is it the targets that the model was given, as they are or moved by one (teacher forcing)?"""
    width = min(part.shape[1], wanted.shape[1])
    if part.dtype.kind != wanted.dtype.kind or max(part.shape[1], wanted.shape[1]) > width + 1:
        return False
    moved = [(part[:, :width], wanted[:, :width])]
    moved += [(part[:, 1:], wanted[:, : part.shape[1] - 1]), (part[:, : wanted.shape[1] - 1], wanted[:, 1:])]
    return any(one.size > 0 and float((one == two).mean()) > ITSELF for one, two in moved)


def _numpy(tensor: torch.Tensor) -> Numbers:
    """The tensor's own memory, where NumPy knows its dtype."""
    tensor = tensor.detach()
    found: Numbers = (tensor.float() if tensor.dtype in _UNKNOWN_TO_NUMPY else tensor).numpy()
    return found


def _evenly(whole: Numbers, most: int) -> Numbers:
    return whole if len(whole) <= most else whole[np.linspace(0, len(whole) - 1, most).astype(np.int64)]


def _first_of_each(values: Parts) -> list[int]:
    """Of rows that are the same in all parts, the first."""
    seen: dict[bytes, int] = {}
    for i, rows in enumerate(zip(*(part + 0 for part in values), strict=True)):  # -0 is 0
        seen.setdefault(b"".join(row.tobytes() for row in rows), i)
    return [*seen.values()]


def _features(values: Numbers) -> Numbers:
    """[samples, features]: float64, or int64 of what is whole by its dtype."""
    flat = values.reshape(len(values), -1)
    flat = _evenly(flat.T, MOST_FEATURES).T
    return flat.astype(np.int64 if flat.dtype.kind in "iub" else np.float64, order="C")


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


def _sum_of_distances(values: Parts) -> Numbers:
    """Of all parts together; each counts the same, but for those that do not differ."""
    if len(values) == 1:
        return _distances(values[0])
    found = [_distances(part) for part in values]
    summed: Numbers = sum((d / d.mean() for d in found if d.any()), np.zeros_like(found[0]))
    return summed


def _scales(values: Numbers) -> Numbers:
    """Of each feature 1 over its spread; one that hardly ever differs from 0 must not outweigh all others. 0 where none has."""
    if values.dtype.kind == "i":
        return np.ones(values.shape[1], np.int64)
    spread = values.std(0)
    if not spread.any():
        return np.zeros(values.shape[1])
    scale: Numbers = 1 / np.maximum(spread, 0.3 * np.sqrt((spread**2).mean()) + 1e-300)
    return scale


def _u_centred(distances: Numbers) -> Numbers:
    n, rows = len(distances), distances.sum(1)
    centred: Numbers = distances - (rows[:, None] + rows[None]) / (n - 2) + rows.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(centred, 0.0)
    return centred


def _of_distances(inputs: Parts, wanted: Numbers) -> tuple[float, float]:
    """The sum, and its variance where inputs and targets are independent; 0 and 0 of fewer than 4 samples."""
    if len(wanted) < 4:
        return 0.0, 0.0
    distances = _sum_of_distances(inputs)
    np.fill_diagonal(distances, 0.0)
    a, b = _u_centred(distances), _u_centred(_distances(wanted))
    n = len(wanted)
    return float((a * b).sum()), float(2 * (a**2).sum() * (b**2).sum() / (n * (n - 3)))


def _apart(values: Numbers, known: Numbers) -> Numbers:
    """[samples, known]: squared distances, as a share of those between samples that have nothing to do with each other."""
    if values.dtype.kind == "i":
        return np.asarray(np.mean(values[:, None, :] != known[None, :, :], axis=2))
    squares = (values**2).sum(1)[:, None] + (known**2).sum(1)[None] - 2 * values @ known.T
    return np.asarray(squares / (2 * (values.shape[1] or 1)))


def _agreement(inputs: Parts, target: Numbers, known: Parts, known_target: Numbers) -> tuple[float, float]:
    apart: Numbers = sum(_apart(one, two) for one, two in zip(inputs, known, strict=True))  # type: ignore[assignment]
    apart[apart <= 0.5e-9 * len(inputs)] = np.inf  # the same sample again
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
