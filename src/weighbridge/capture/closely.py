"""The closer look at outputs, in C where torch lends it to C: what capture/spread.py, bends.py and biases.py say in NumPy.

At a step at which units are due NumPy and torch take some forty calls for each module, a few microseconds each, whatever size
what they are given has; C takes one (native/weighbridge_closely.c). None says: ask NumPy.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

import numpy as np
import torch

from weighbridge.capture.cfunctions import ONE, CFunction
from weighbridge.capture.seats import Seat

# As in native/weighbridge_closely.h: what capture/spread.py and capture/bends.py look at, at most.
SPREAD: Final = (32, 8, 128)
BEND_FEATURES: Final = 1024
FUNCTIONS: Final = ("tanh", "sigmoid", "relu", "gelu", "silu", "hardtanh")


class SpreadState(ctypes.Structure):
    """wb_spread."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("axis", "is_there")),
        *((name, ctypes.c_int64) for name in ("samples", "positions", "features", "vectors")),
        *((name, ctypes.c_double) for name in ("sum_sq", "sample_sq", "position_sq", "trace", "trace_sq")),
        ("room", ctypes.c_void_p),
    ]


class BendState(ctypes.Structure):
    """wb_bend."""

    _fields_ = [
        ("function", ctypes.c_int32),
        *((name, ctypes.c_float) for name in ("low", "high")),
        *((name, ctypes.c_double) for name in ("flat", "flat_units", "asleep_units")),
        ("room", ctypes.c_void_p),
    ]


class BiasState(ctypes.Structure):
    """wb_bias."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("seat", "sum_before", "sum_sq_before")),
        ("count", ctypes.c_int64),
        *((name, ctypes.c_double) for name in ("bias_sq", "rest_sq", "cross")),
    ]


class Closely:
    """The functions of one run. Raises OSError where torch lends nothing to C."""

    def __init__(self, library: Any) -> None:
        samples, positions, features = SPREAD
        room = 2 * samples * positions * features + positions * features
        self._rooms = (np.empty(room), np.empty(BEND_FEATURES, np.int32))
        self._spread = SpreadState(room=self._rooms[0].ctypes.data)
        self._bend = BendState(room=self._rooms[1].ctypes.data)
        self._bias = BiasState()
        self._spread_of = CFunction(library, "wb_spread_of", ONE, "how vectors differ").on(self._spread, self)
        self._bend_of = CFunction(library, "wb_bend_of", ONE, "where a function is flat").on(self._bend, self)
        self._bias_of = CFunction(library, "wb_bias_of", ONE, "what a bias adds").on(self._bias, self)

    def spread(self, output: torch.Tensor, axis: int) -> SpreadState | None:
        """Of a readable tensor; it holds until the next call."""
        self._spread.axis = axis
        return self._spread if self._spread_of(output) else None

    def bend(self, result: torch.Tensor, function: str, bounds: tuple[float, float]) -> tuple[float, float, float] | None:
        """Shares of a readable result's numbers and of its units: flat; nearly always flat; always. bounds: of hardtanh."""
        state = self._bend
        state.function = FUNCTIONS.index(function)
        state.low, state.high = bounds
        return (state.flat, state.flat_units, state.asleep_units) if self._bend_of(result) else None

    def bias(self, seat: Seat, before: tuple[int, int], count: int, bias: torch.Tensor) -> tuple[float, float, float] | None:
        """before: addresses of the seat's sums and sums of squares when the step began; count: numbers of each unit since."""
        state = self._bias
        state.seat, state.count = seat.address, count
        state.sum_before, state.sum_sq_before = before
        return (state.bias_sq, state.rest_sq, state.cross) if self._bias_of(bias) else None


def closely_of(library: Any) -> Closely | None:
    """None where C cannot look."""
    try:
        return Closely(library)
    except OSError:
        return None
