"""What modules give on a GPU: each tensor is weighed by a launch of its own when it comes, and what was found is sent with
the step of its optimizer.

On the steps of the plan whole rows; on all others one flag for each output says whether NaN or infinity is in it. Nothing is
held until the pass is over and nothing waits, so which module was the first is known some steps after it happened.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch

from weighbridge.capture.devicetable import KINDS, PIECE, TILE, WIDTH, Layout, add_up, lanes
from weighbridge.capture.flights import Flights
from weighbridge.capture.late import is_capturing
from weighbridge.capture.losses import Number
from weighbridge.capture.recorder import Recorder
from weighbridge.capture.seats import WEIGH, Pace, Seat
from weighbridge.capture.snapshots import as_real, is_dense

MOST_FLAGS: Final = 1 << 14  # outputs of one step; later ones of the same step are not looked at
MOST_ARENAS: Final = 64
_SLOTS: Final = 1 << 15  # pieces in one arena; a step takes as many arenas as it needs
_ENTRIES: Final = 512  # tensors in one arena
_MOST_PIECES: Final = 1024  # of one tensor, about: enough to occupy a GPU by itself

Array = np.ndarray[Any, Any]


class Arena:
    """Room for the sums of pieces and for histograms, and which tensors have some in it."""

    def __init__(self, device: torch.device, slots: int, bins: int) -> None:
        self.stats = torch.empty((slots, 1, WIDTH), dtype=torch.float64, device=device)
        self.hists = torch.empty((_ENTRIES, bins), dtype=torch.int32, device=device)
        self.slots, self.bins = slots, bins
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.hists.zero_()
        self.ends = [0]
        self.seats: list[Seat] = []
        self.counts: list[int] = []
        self.kinds: list[int] = []

    def has_room(self, pieces: int, bins: int) -> bool:
        """Does one more tensor fit?"""
        return len(self.seats) < _ENTRIES and self.ends[-1] + pieces <= self.slots and self.bins == bins


class Met:
    """What one optimizer's modules have given on one device since its last step."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.flags = torch.zeros(MOST_FLAGS, dtype=torch.float32, device=device)  # finite where all is
        self.order: list[Seat] = []  # whose flag stands where
        self.arenas: list[Arena] = []
        self.used = 0  # arenas


class DeviceOutputs:
    """`note_call(step, seat, calls, first call that was not finite, place in the step)` is told of each flag."""

    def __init__(self, note_call: Callable[[int, Seat, int, int, int], None], failed: Callable[[Exception], None]) -> None:
        self.note_call, self.failed = note_call, failed
        self.met: dict[int, Met] = {}  # by id of the pace
        self.flights = Flights()
        self.is_told = False  # what is not weighed of such outputs
        self.flags_under_way: list[tuple[int, list[Seat], torch.Tensor, Any]] = []
        self.place = (-1, 0)  # of the next flag of a step: those of the forward pass are sent before the backward pass's
        self.last: tuple[int, int] = (0, 0)  # where the last tensor lay, and its size

    def meet(self, seat: Seat, tensor: torch.Tensor) -> None:
        """Weigh a module's output, or the gradient by it. Called from autograd too: raises nothing."""
        try:
            if tensor.numel() and not is_capturing(tensor.device):
                self._meet(seat, tensor)
        except Exception as error:
            self.failed(error)

    def _meet(self, seat: Seat, tensor: torch.Tensor) -> None:
        met = self.met.get(id(seat.pace))
        if met is None or met.device != tensor.device:
            met = self.met[id(seat.pace)] = Met(tensor.device)
        flag = len(met.order)
        if flag >= MOST_FLAGS:
            return
        self.last = (tensor.data_ptr(), tensor.numel())
        met.order.append(seat)
        if seat.pace.mode == WEIGH:
            self._weigh(met, seat, _dense(tensor.detach()), flag)
        else:
            _guard(tensor.detach(), met.flags[flag])

    def _weigh(self, met: Met, seat: Seat, dense: torch.Tensor, flag: int) -> None:
        from weighbridge.capture.triton_kernels import weigh_one

        count, kind, address = dense.numel(), KINDS[dense.dtype], dense.data_ptr()
        piece = piece_of(count)
        pieces = -(-count // piece)
        arena = self._arena(met, pieces, seat.pace.histogram)
        begin, entry = arena.ends[-1], len(arena.seats)
        weigh_one[(pieces,)](
            *(address, count, piece, arena.stats, begin, arena.hists, entry, met.flags, flag),
            kind=kind,
            fine=seat.pace.histogram,
            TILE=TILE,
            BINS=arena.bins,
            **lanes(kind, kind, address % 16 == 0),
        )
        arena.ends.append(begin + pieces)
        arena.seats.append(seat)
        arena.counts.append(count)
        arena.kinds.append(kind)

    def _arena(self, met: Met, pieces: int, fine: int) -> Arena:
        """The one that is being filled, or the next."""
        bins = 256 << max(fine, 0)
        if met.used >= MOST_ARENAS:  # of modules whose optimizer does not step: what they gave is let go
            met.used = 0
            for arena in met.arenas:
                arena.clear()
        while met.used < len(met.arenas):
            arena = met.arenas[met.used]
            if arena.has_room(pieces, bins):
                return arena
            met.used += 1
        met.arenas.append(Arena(met.device, max(_SLOTS, pieces), bins))
        return met.arenas[-1]

    def send(self, pace: Pace, step: int, scale: Number) -> None:
        """A step is done: send what its modules have given. `scale`: that a GradScaler has put on it."""
        met = self.met.get(id(pace)) or self._moved(pace)
        if met is None or not met.order:
            return
        for arena in met.arenas:
            if arena.seats:
                self._send_rows(arena, step, pace, scale)
        self._send_flags(met, step)
        met.used, met.order = 0, []

    def _moved(self, pace: Pace) -> Met | None:
        """What was met before this pace was known: an optimizer's first step, whose modules had none to keep pace with."""
        for key, met in self.met.items():
            if met.order and all(seat.pace is pace for seat in met.order):
                self.met[id(pace)] = self.met.pop(key)
                return met
        return None

    def _send_rows(self, arena: Arena, step: int, pace: Pace, scale: Number) -> None:
        layout = Layout(np.array(arena.counts, np.int64), np.array(arena.kinds, np.int64)[:, None], pace.histogram)
        ends = torch.tensor(arena.ends, dtype=torch.int64)
        ends = ends.pin_memory().to(arena.stats.device, non_blocking=True) if arena.stats.is_cuda else ends
        tensors = np.array([seat.tensor for seat in arena.seats])
        words = add_up(arena.stats, arena.hists, ends, layout, is_whole=True)
        every, none = np.ones((len(tensors), 1), bool), np.zeros(len(tensors), bool)
        self.flights.send(step, words, layout, tensors, (int(arena.seats[0].quantity),), every, none, True, scale)
        arena.clear()

    def _send_flags(self, met: Met, step: int) -> None:
        number = len(met.order)
        host = torch.empty(number, dtype=torch.float32, pin_memory=met.flags.is_cuda)
        host.copy_(met.flags[:number], non_blocking=True)
        met.flags[:number].zero_()
        done: Any = None
        if met.flags.is_cuda:
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
        self.flags_under_way.append((step, met.order, host, done))

    @property
    def oldest(self) -> float:
        """The first step of which rows or flags are under way; infinity where none are."""
        return min(self.flights.oldest, self.flags_under_way[0][0] if self.flags_under_way else math.inf)

    def fetch(self, recorder: Recorder, wait: bool = False) -> None:
        """Write what has arrived. Call with the recorder's lock held."""
        self.flights.fetch(recorder, wait)
        while self.flags_under_way:
            step, seats, host, done = self.flags_under_way[0]
            if done is not None:
                if wait:
                    done.synchronize()
                elif not done.query():
                    return
            del self.flags_under_way[0]
            self._note_flags(step, seats, np.flatnonzero(~np.isfinite(host.numpy())).tolist())

    def _note_flags(self, step: int, seats: list[Seat], flagged: list[int]) -> None:
        if self.place[0] != step:
            self.place = (step, 0)
        told: set[int] = set()
        for at in flagged:
            seat = seats[at]
            if seat.tensor not in told:
                told.add(seat.tensor)
                calls = [i for i, one in enumerate(seats) if one is seat]
                self.note_call(step, seat, len(calls), calls.index(at), self.place[1])
                self.place = (step, self.place[1] + 1)


def piece_of(count: int) -> int:
    """Elements of a piece of a tensor that is weighed by itself: a power of two."""
    wanted = -(-count // _MOST_PIECES)
    return min(max(1 << (wanted - 1).bit_length(), 4096), PIECE)


def _guard(tensor: torch.Tensor, flag: torch.Tensor) -> None:
    """Make the flag NaN or infinite where the tensor is. One kernel of PyTorch's own, quicker to launch than one of ours."""
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    tensor = tensor.float() if tensor.element_size() == 1 else tensor
    if tensor.dtype == torch.float64:
        norm = torch.linalg.vector_norm(tensor, float("inf"))
        flag.copy_(norm - norm)  # 0, or NaN
    else:
        torch.linalg.vector_norm(tensor, float("inf"), dtype=torch.float32, out=flag)


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    """Its numbers without gaps, in whatever order; complex ones as pairs."""
    if tensor.is_contiguous() and not (tensor.is_complex() or tensor.is_neg()):
        return tensor
    real = as_real(tensor)
    return real if is_dense(real) else real.contiguous()
