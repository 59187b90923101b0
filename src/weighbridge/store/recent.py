"""What was read of late and will be asked for again: series, pictures of all tensors, single values of one statistic.

A reader folds, unfolds, zooms and comes back: the same numbers, cut another way. What is kept is bounded for all runs of the
process together; the oldest goes first. What a run has gained since makes what was kept of it worthless, and that goes at once:
a run that is watched live has another picture twice a second. Only what can be continued stays (Single.grown).
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeVar

import numpy as np

KEPT_BYTES: Final = 192 * 2**20
_ROWS_AT_ONCE: Final = 64  # what they need stays in the processor's own memory
_NARROW: Final = 16

Grids = tuple[np.ndarray, ...]
Columns = dict[str, np.ndarray]


class _Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


Held = TypeVar("Held", bound=_Sized)


Key = tuple[Hashable, ...]  # whose it is (`Recent.owner`), and the question


class Recent:
    """Answers by their questions, each with the version of the run that it was read from. Threads may share one."""

    def __init__(self, most: int = KEPT_BYTES) -> None:
        self._most, self._bytes = most, 0
        self._kept: OrderedDict[Key, tuple[Hashable, Any]] = OrderedDict()
        self._versions: dict[Hashable, Hashable] = {}  # by owner, that of its newest question
        self._lock = threading.Lock()

    def get(self, key: Key, version: Hashable, make: Callable[[Held | None], Held]) -> Held:
        """What is kept, or what `make` makes; it is given what was kept of this version and may hand it back.

        version: of all that is kept for this owner; None for what knows its own, and is given to `make` whatever it is.
        """
        with self._lock:
            if version is not None and self._versions.get(key[0]) != version:
                self._versions[key[0]] = version
                self._drop([one for one, (of, _) in self._kept.items() if one[0] == key[0] and of not in (None, version)])
            before = self._kept.get(key)
        old = before[1] if before is not None and before[0] == version else None
        made = make(old)
        with self._lock:
            gone = self._kept.pop(key, None)
            self._bytes += made.nbytes - (gone[1].nbytes if gone else 0)
            self._kept[key] = (version, made)
            while self._bytes > self._most:
                _, (_, oldest) = self._kept.popitem(last=False)
                self._bytes -= oldest.nbytes
        return made

    def forget(self, owner: int) -> None:
        """Nobody has this run open any more."""
        with self._lock:
            self._versions.pop(owner, None)
            self._drop([key for key in self._kept if key[0] == owner])

    def _drop(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._bytes -= self._kept.pop(key)[1].nbytes

    def owner(self, of: object) -> int:
        """A key for all that is read for this object; what is kept of it goes when it goes."""
        weakref.finalize(of, self.forget, id(of)).atexit = False
        return id(of)


RECENT: Final = Recent()


@dataclass(frozen=True, slots=True)
class Kept:
    """Arrays of one answer."""

    arrays: tuple[np.ndarray, ...]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)


@dataclass(frozen=True, slots=True)
class Single:
    """One statistic of all tensors at every step of low <= step < high."""

    low: int
    high: int
    value: np.ndarray  # float64 [tensors, steps and room for more], NaN = not recorded, or no number
    is_recorded: np.ndarray  # bool
    bad: np.ndarray  # int64 [3, n]: row, step from `low` and how many elements are not finite; where there are any
    tensors: object = None  # whose rows these are, and of which version of their run: what may be continued
    version: tuple[int, ...] = ()

    @classmethod
    def of(cls, low: int, high: int, place: np.ndarray, rows: int, found: Iterable[Columns]) -> Single:
        """From an answer's pieces; `place`: each tensor's row, by its id."""
        shape = (rows, high - low)
        nothing = cls(low, low, np.full(shape, np.nan), np.zeros(shape, bool), np.empty((3, 0), np.int64))
        return nothing.grown(low, high, place, found)

    def grown(self, begin: int, high: int, place: np.ndarray, found: Iterable[Columns]) -> Single:
        """The same up to `high`, with what is from step `begin` on read anew. Takes the arrays over: `self` is used no more."""
        value, is_recorded = self._room(high - self.low)
        anew = slice(begin - self.low, high - self.low)
        value[:, anew], is_recorded[:, anew] = np.nan, False
        some = [self.bad[:, self.bad[1] < begin - self.low]]
        for piece in found:
            row, step = place[piece["tensor"]], piece["step"] - self.low
            at = row * value.shape[1] + step
            value.reshape(-1)[at], is_recorded.reshape(-1)[at] = piece["value"], True
            bad = piece["bad"]
            if bad.any():
                some.append(np.stack([row, step, bad])[:, bad > 0])
        return replace(self, high=high, value=value, is_recorded=is_recorded, bad=np.concatenate(some, axis=1))

    def _room(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """The arrays, with room for so many steps; where there is none, for a quarter more."""
        lacking = steps - self.value.shape[1]
        if lacking <= 0:
            return self.value, self.is_recorded
        wider = ((0, 0), (0, lacking + steps // 4))
        return np.pad(self.value, wider, constant_values=np.nan), np.pad(self.is_recorded, wider)

    @property
    def nbytes(self) -> int:
        return self.value.nbytes + self.is_recorded.nbytes + self.bad.nbytes

    def has(self, low: int, high: int) -> bool:
        """Are these steps among them?"""
        return self.low <= low and high <= self.high

    def cells(self, rows: np.ndarray, low: int, high: int, width: int) -> Grids:
        """The picture of these rows and low <= step < high in cells of `width` steps, the last one perhaps shorter."""
        first = low - self.low
        count = -(-(high - low) // width)
        grids = tuple(np.empty((len(rows), count)) for _ in range(4))
        for begin in range(0, len(rows), _ROWS_AT_ONCE):
            some = slice(begin, begin + _ROWS_AT_ONCE)
            value, is_recorded = (of[rows[some], first : high - self.low] for of in (self.value, self.is_recorded))
            for grid, cells in zip(grids, _cells(_cut(value, width, np.nan), _cut(is_recorded, width, False)), strict=True):
                grid[some] = cells
        place = np.full(len(self.value), -1)
        place[rows] = np.arange(len(rows))
        row, step, bad = self.bad
        inside = (place[row] >= 0) & (step >= first) & (step < high - self.low)
        np.fmax.at(grids[3], (place[row[inside]], (step[inside] - first) // width), bad[inside].astype(np.float64))
        return grids


def _cut(values: np.ndarray, width: int, missing: float | bool) -> np.ndarray:
    """[rows, steps] as [rows, cells, width]."""
    rows, steps = values.shape
    lacking = -steps % width
    whole = np.pad(values, ((0, 0), (0, lacking)), constant_values=missing) if lacking else values
    return whole.reshape(rows, (steps + lacking) // width, width)


def _cells(value: np.ndarray, is_recorded: np.ndarray) -> Grids:
    """Of each cell of [rows, cells, width]; `bad` as if nothing was."""
    missing = np.isnan(value)
    weight: Any = value.shape[2]
    total = value
    if missing.any():
        weight = _over(np.add, (~missing).astype(np.int64))
        total = np.where(missing, 0.0, value)
    with np.errstate(invalid="ignore"):
        mean = _over(np.add, total) / weight
    bad = np.where(_over(np.logical_or, is_recorded), 0.0, np.nan)
    return mean, _over(np.fmin, value), _over(np.fmax, value), bad


def _over(join: np.ufunc, values: np.ndarray) -> np.ndarray:
    """Of the last axis. NumPy goes along a short one slowly."""
    width = values.shape[2]
    if width > _NARROW:
        return np.asarray(join.reduce(values, axis=2))
    found = values[:, :, 0]
    for i in range(1, width):
        found = join(found, values[:, :, i])
    return found
