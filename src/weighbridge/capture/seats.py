"""Where one output of one module is weighed: the sums that grow while a pass runs, until an optimizer's step takes them.

A `Seat` is memory that the C library knows (wb_seat in native/weighbridge_output.h). Its `meet` is a function made in C: it
takes a tensor, reads it where it lies and returns None, so it serves as a tensor hook and is quick enough for every module
of every step.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from weighbridge.capture.cfunctions import ANY, ONE, CFunction
from weighbridge.capture.devicetable import KINDS, has_triton
from weighbridge.capture.kernel import Kernel, NativeKernel, code_of
from weighbridge.capture.rowblock import BlockFull, RowBlock
from weighbridge.records import Quantity

REST, GUARD, WEIGH = range(3)  # nothing; look for NaN and infinity; that, and the whole row
BY_PYTHON = 2  # a pace `follows` so: Python looks at each output. 1: it only asks autograd for the gradient. 0: neither


class Scene(ctypes.Structure):
    """wb_scene: one for all outputs of a run."""

    _fields_ = [
        ("place", ctypes.c_int32),
        ("flagged", ctypes.c_int32),
        ("own_ns", ctypes.c_int64),
        ("last", ctypes.c_uint64),
        ("count", ctypes.c_int64),
        ("batch", ctypes.c_void_p),
        ("awaits_batch", ctypes.c_int32),
        ("samples", ctypes.c_int64),
    ]


class Pace(ctypes.Structure):
    """wb_pace: what the modules of one optimizer do in this step."""

    _fields_ = [(name, ctypes.c_int32) for name in ("mode", "stamp", "histogram", "follows")]


class SeatHead(ctypes.Structure):
    """wb_seat without the sums of its row."""

    _fields_ = [
        ("scene", ctypes.c_void_p),
        ("pace", ctypes.c_void_p),
        *(
            (name, ctypes.c_int32)
            for name in ("tensor", "quantity", "stamp", "calls", "nonfinite_call", "place", "weighed", "axis")
        ),
        *((name, ctypes.c_int64) for name in ("count", "units", "unit_count")),
        *((name, ctypes.c_void_p) for name in ("active", "sum", "sum_sq", "max")),
    ]


class Numbers(ctypes.Structure):
    """wb_numbers: a tensor's numbers in C order, as outer x units x inner."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("count", "outer", "units", "inner")),
        ("dtype", ctypes.c_int),
    ]


class _Hook(ctypes.Structure):
    _fields_ = [("seat", ctypes.c_void_p), ("otherwise", ctypes.c_void_p)]


class ForwardState(ctypes.Structure):
    """wb_forward: what C knows of a forward hook."""

    _fields_ = [*((name, ctypes.c_void_p) for name in ("seat", "root", "module"))]
    _fields_ += [(name, ctypes.c_int32) for name in ("met_at", "samples_axis")]


class Units:
    """The sums of each unit of an output."""

    def __init__(self, number: int) -> None:
        self.active = np.zeros(number, np.int64)
        self.sum = np.zeros(number, np.float64)
        self.sum_sq = np.zeros(number, np.float64)
        self.max = np.zeros(number, np.float32)
        self.arrays = (self.active, self.sum, self.sum_sq, self.max)

    def clear(self) -> None:
        """Begin anew."""
        for array in self.arrays:
            array[:] = 0


class Seat:
    """One output, or its gradient. `axis`: of the units (1, or -1 for the last); units 0 = not taken apart."""

    def __init__(
        self, library: Library, scene: Scene, pace: Pace, tensor: int, quantity: Quantity, units: int = 0, axis: int = -1
    ) -> None:
        self.library, self.tensor, self.quantity = library, tensor, quantity
        self._memory = ctypes.create_string_buffer(library.seat_size)
        self.head = SeatHead.from_buffer(self._memory)
        self.address = ctypes.addressof(self.head)
        self.units = Units(units) if units else None
        self.unit_steps = 0
        self.elsewhere: Callable[[Seat, torch.Tensor], None] | None = None  # weighs what lies on a GPU
        head = self.head
        head.scene, head.tensor, head.quantity = ctypes.addressof(scene), tensor, int(quantity)
        head.stamp, head.nonfinite_call, head.place = -1, -1, -1
        head.units, head.axis = units, axis
        if self.units is not None:
            for name in ("active", "sum", "sum_sq", "max"):
                setattr(head, name, getattr(self.units, name).ctypes.data)
        self._scene = scene
        self.keep_pace(pace)
        self.meet: Callable[[torch.Tensor], None] = library.hook(self, self.weigh_anyhow)

    def keep_pace(self, pace: Pace) -> None:
        """From now on this seat belongs to another optimizer's modules."""
        self.pace = pace
        self.head.pace = ctypes.addressof(pace)

    def weigh_anyhow(self, tensor: torch.Tensor) -> None:
        """A tensor that C could not read where it lies: brought in order first, or left out."""
        try:
            if self.pace.mode == REST:
                return
            if not is_readable(tensor):
                if self.elsewhere is not None and is_on_gpu(tensor):
                    self.elsewhere(self, tensor)
                return
            dense = tensor.detach()
            dense = (dense.to_dense() if dense.layout is not torch.strided else dense).contiguous()
            self.library.weigh(self.address, numbers_of(dense, self.head.units, self.head.axis))
        except RuntimeError:
            return  # torch has no numbers to show (a wrapper of its own)

    def is_called(self) -> bool:
        """Was it called in this step?"""
        return bool(self.head.stamp == self.pace.stamp and self.head.calls)

    def is_flagged(self) -> bool:
        """Had it NaN or infinity in this step?"""
        return bool(self.head.stamp == self.pace.stamp and self.head.nonfinite_call >= 0)

    def clear_units(self) -> None:
        """Begin new sums of each unit."""
        assert self.units is not None
        self.units.clear()
        self.head.unit_count = self.unit_steps = 0


def is_readable(tensor: torch.Tensor) -> bool:
    """Can its numbers be read here? Not those of functorch's wrappers, fakes, other devices and other dtypes."""
    return is_plain(tensor) and tensor.device.type == "cpu" and code_of(tensor.dtype) is not None


def is_on_gpu(tensor: torch.Tensor) -> bool:
    """Can Triton's kernels read it?"""
    return is_plain(tensor) and tensor.device.type == "cuda" and tensor.dtype in KINDS and has_triton()


def is_plain(tensor: torch.Tensor) -> bool:
    """No subclass, and none of functorch's wrappers."""
    return type(tensor) in (torch.Tensor, torch.nn.Parameter) and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def numbers_of(dense: torch.Tensor, units: int, axis: int) -> Numbers:
    """A contiguous tensor for C; it has to live until C has read it."""
    numbers = Numbers(dense.data_ptr(), dense.numel(), 1, 0, 1, code_of(dense.dtype))
    axis = axis + dense.dim() if axis < 0 else axis
    if units and 0 <= axis < dense.dim() and dense.shape[axis] == units:
        numbers.units = units
        numbers.outer = int(np.prod(dense.shape[:axis], dtype=np.int64))
        numbers.inner = int(np.prod(dense.shape[axis + 1 :], dtype=np.int64))
    return numbers


class Library:
    """The functions of the C library that outputs need. Raises OSError where there is no such library."""

    def __init__(self, kernel: Kernel) -> None:
        if not isinstance(kernel, NativeKernel):
            raise OSError("activations need the C kernel")
        self.native = library = kernel.library
        self.seat_size = int(library.wb_seat_size())
        self._weigh, self._take = library.wb_weigh_output, library.wb_take_outputs
        self._weigh.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        self._take.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int, ctypes.c_void_p]
        self._take.restype = ctypes.c_int64
        try:
            self._meet: CFunction | None = CFunction(library, "wb_meet", ONE, "weighs a tensor")
            self._forward = CFunction(library, "wb_forward_hook", ANY, "meets what a module gives")
        except OSError:
            self._meet = None

    def hook(self, seat: Seat, otherwise: Callable[[torch.Tensor], None]) -> Callable[[torch.Tensor], None]:
        """The C function that weighs a tensor into a seat; where torch lends nothing to C, the Python one."""
        return otherwise if self._meet is None else self._meet.on(_Hook(seat.address, id(otherwise)), seat, otherwise, self)

    def forward(self, state: ForwardState, *kept: Any) -> Callable[[nn.Module, Any, Any], bool] | None:
        """The C function that does the usual work of a forward hook and says whether that was all. `kept` lives with it."""
        return None if self._meet is None else self._forward.on(state, self, *kept)

    def weigh(self, seat: int, numbers: Numbers) -> None:
        """Weigh numbers that lie in order."""
        self._weigh(seat, ctypes.addressof(numbers))

    def take(self, seats: Any, number: int, step: int, attempt: int, block: RowBlock) -> int:
        """Write the rows of seats that have weighed something; how many were called more than once."""
        repeated: int = self._take(seats, number, step, attempt, block.address)
        if repeated < 0:
            raise BlockFull("a block is full: take what is in it, or make a larger one")
        return repeated
