"""What `pairing` remembers of earlier samples, and its two tests in C for small batches (native/weighbridge_pairs.c).

Of a batch of ten samples of two features NumPy's forty calls take half a millisecond, their arithmetic some microseconds.
"""

from __future__ import annotations

import ctypes
from collections import deque
from typing import Any, Final, NamedTuple

import numpy as np

MOST_SAMPLES: Final = 64  # of a batch
MOST_INPUTS: Final = 4  # tensors that a model is given
REMEMBERED: Final = 512  # samples, for nearest neighbours
IN_C: Final = 2**18  # numbers that are compared with numbers at most; above, NumPy's products of matrices are quicker
Numbers = np.ndarray[Any, np.dtype[Any]]
Parts = tuple[Numbers, ...]  # of each tensor [samples, features]


class _Part(ctypes.Structure):
    """wb_pair_part."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("values", "scale", "memory")),
        *((name, ctypes.c_int64) for name in ("features", "is_whole")),
    ]


class PairsState(ctypes.Structure):
    """wb_pairs."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("samples", "parts", "begin", "end", "remembers", "kept")),
        *((name, ctypes.c_double) for name in ("distance", "distance_variance", "neighbour", "neighbour_variance")),
        ("room", ctypes.c_void_p),
        ("part", _Part * (MOST_INPUTS + 1)),
    ]


class Found(NamedTuple):
    """Of a batch: samples without those drawn twice; the columns of the table `pairing` after them."""

    samples: int
    distance: float
    distance_variance: float
    neighbour: float
    neighbour_variance: float


class Memory:
    """The last samples, scaled, in one piece for each input and for the targets (the last part): rows `begin` to `end`."""

    def __init__(self, scales: Parts, wanted: Numbers) -> None:
        """scales: of the features of each input; wanted: targets, of which there is one for each sample if they can agree."""
        self.scales = scales
        like = (*scales, wanted[:1].reshape(-1))
        self.can_agree = wanted.shape[1] == 1
        self._kinds = tuple((one.dtype.kind, len(one)) for one in like)
        rows = REMEMBERED + 4 * MOST_SAMPLES if self.can_agree else 0
        self.parts: Parts = tuple(np.empty((rows, len(one)), one.dtype) for one in like)
        self.begin = self.end = 0
        self._batches: deque[int] = deque()

    def serves(self, wanted: Numbers) -> bool:
        """Is it of any use with targets like these? Where there never was one for each sample, nothing is remembered."""
        return self.can_agree or bool(wanted.shape[1] != 1)

    def takes(self, inputs: Parts, wanted: Numbers) -> bool:
        """Are they of the kind that is remembered?"""
        return self.can_agree and tuple((one.dtype.kind, one.shape[1]) for one in (*inputs, wanted)) == self._kinds

    def make_room(self) -> None:
        """For one batch more, at `end`."""
        if self.end + MOST_SAMPLES > len(self.parts[0]):
            for part in self.parts:
                part[: self.end - self.begin] = part[self.begin : self.end].copy()
            self.begin, self.end = 0, self.end - self.begin

    def added(self, samples: int) -> None:
        """So many stand at `end` now. Of more than are remembered the oldest batches go."""
        self.end += samples
        self._batches.append(samples)
        while self.end - self.begin > REMEMBERED:
            self.begin += self._batches.popleft()

    def known(self) -> Parts:
        """All that is remembered; the targets last."""
        return tuple(part[self.begin : self.end] for part in self.parts)


class Pairs:
    """The tests in C."""

    def __init__(self, library: Any) -> None:
        self._compare = library.wb_compare_pairs
        self._compare.argtypes = [ctypes.c_void_p]
        self._state = PairsState()
        self._address = ctypes.addressof(self._state)
        self._room = np.empty(0)
        self._memory: Memory | None = None  # that the addresses are of

    def can_compare(self, inputs: Parts, wanted: Numbers) -> bool:
        """Is it little enough?"""
        widths = [part.shape[1] for part in inputs]
        return bool(len(wanted) * max(REMEMBERED * sum(widths), MOST_SAMPLES * wanted.shape[1]) <= IN_C)

    def compare(self, inputs: Parts, wanted: Numbers, memory: Memory) -> Found | None:
        """Both tests; the samples are remembered. Arrays in C order. None where a number is not finite."""
        state, parts = self._state, (*inputs, wanted)
        if memory is not self._memory:
            self._bind(memory)
        state.samples, state.parts = len(wanted), len(inputs)
        state.remembers = memory.takes(inputs, wanted)
        if state.remembers:
            memory.make_room()
        state.begin, state.end = memory.begin, memory.end
        for i, values in enumerate(parts):
            part = state.part[i]
            part.values, part.features, part.is_whole = values.ctypes.data, values.shape[1], values.dtype.kind == "i"
        size = len(wanted) * (3 * len(wanted) + max(part.shape[1] for part in parts))
        if size > len(self._room):
            self._room = np.empty(size)
            state.room = self._room.ctypes.data
        if not self._compare(self._address):
            return None
        if state.remembers:
            memory.added(state.kept)
        return Found(state.kept, state.distance, state.distance_variance, state.neighbour, state.neighbour_variance)

    def _bind(self, memory: Memory) -> None:
        self._memory = memory
        for i, part in enumerate(memory.parts):
            self._state.part[i].memory = part.ctypes.data
            scale = memory.scales[i] if i < len(memory.scales) and part.dtype.kind == "f" else None
            self._state.part[i].scale = scale.ctypes.data if scale is not None else None
