"""Results on their way from a GPU to the host: pinned buffers, each guarded by an event, fetched when the device is done.

Nothing here waits for the device but `fetch(wait=True)`, at a run's end. Buffers are bounded: where the device is so far
behind that all of them are under way, the rows of a step are dropped and counted.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from weighbridge.capture.devicetable import UPDATE, Layout
from weighbridge.capture.late import Late
from weighbridge.capture.losses import Number, is_scale
from weighbridge.capture.recorder import Recorder

MOST_BYTES: Final = 64 << 20  # of pinned memory, of one optimizer on one device
MOST_FLIGHTS: Final = 64
STATS: Final = ("nan", "pos_inf", "neg_inf", "zero", "subnormal", "sum", "sum_abs", "sum_sq")
CROSS: Final = ("dot_gradient_parameter", "dot_gradient_update", "dot_update_parameter", "lost")
_AT_ONCE: Final = 4096  # rows
_COUNTS: Final = (*STATS[:5], "lost")

Array = np.ndarray[Any, Any]


@dataclass(slots=True)
class Flight:
    """The rows of one step. `wanted`, bool [n, rows], says which of what arrives; `tensors` [n] and `quantities` [rows] name
    them, and `has_gradient` [n] says where an update has products with one."""

    step: int
    layout: Layout
    tensors: Array
    quantities: Sequence[int]
    wanted: Array
    has_gradient: Array
    host: torch.Tensor
    done: Any  # an event of the device, or None where everything is done when the call returns
    adds_calls: bool  # several rows of one tensor are one
    scale: Late | float


class Flights:
    """What one optimizer's tensors on one device have under way."""

    def __init__(self) -> None:
        self.under_way: deque[Flight] = deque()
        self.free: list[torch.Tensor] = []
        self.bytes = self.dropped = 0

    def send(
        self,
        step: int,
        words: torch.Tensor,
        layout: Layout,
        tensors: Array,
        quantities: Sequence[int],
        wanted: Array,
        has_gradient: Array,
        adds_calls: bool = False,
        scale: Number = 1.0,
    ) -> None:
        """Send what `add_up` gives, behind the work that is queued on the current stream. The rows are divided by the scale,
        if it is one of a GradScaler's."""
        late = Late([scale]) if isinstance(scale, torch.Tensor) else None
        host = self._buffer(layout.words)
        if host is None:
            self.dropped += int(wanted.sum())
            return
        host.copy_(words, non_blocking=True)
        done: Any = None
        if words.device.type == "cuda":
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
        factor = late if late is not None else float(scale)
        self.under_way.append(Flight(step, layout, tensors, quantities, wanted, has_gradient, host, done, adds_calls, factor))

    def _buffer(self, words: int) -> torch.Tensor | None:
        for i, buffer in enumerate(self.free):
            if buffer.numel() == words:
                return self.free.pop(i)
        if self.under_way and (len(self.under_way) >= MOST_FLIGHTS or self.bytes + words * 8 > MOST_BYTES):
            return None
        self.free.clear()
        self.bytes = sum(flight.host.nbytes for flight in self.under_way) + words * 8
        return torch.empty(words, dtype=torch.int64, pin_memory=torch.cuda.is_available())

    @property
    def oldest(self) -> float:
        """The first step that is under way; infinity where none is."""
        return self.under_way[0].step if self.under_way else math.inf

    def fetch(self, recorder: Recorder, wait: bool = False) -> None:
        """Write the rows that have arrived. Call with the recorder's lock held."""
        if self.dropped:
            recorder.rows_dropped += self.dropped
            self.dropped = 0
            recorder.tell("the device is far behind its host; rows are dropped and counted, training goes on")
        while self.under_way and (wait or self.under_way[0].done is None or self.under_way[0].done.query()):
            flight = self.under_way.popleft()
            if wait and flight.done is not None:
                flight.done.synchronize()
            _write(flight, recorder)
            self.free.append(flight.host)


def _write(flight: Flight, recorder: Recorder) -> None:
    tensors = flight.tensors if flight.adds_calls else None
    columns, hists = columns_of(flight.layout, flight.host.numpy(), flight.wanted, tensors)
    key: dict[str, Any] = {"step": flight.step, "attempt": recorder.attempt, "hist_bits": max(flight.layout.fine, 0)}
    if flight.adds_calls:
        key |= {"tensor": np.unique(flight.tensors), "quantity": flight.quantities[0]}
    else:
        tensor, row = np.nonzero(flight.wanted)
        none = ~flight.has_gradient[tensor]
        for name in CROSS[:2]:
            columns[name][none] = np.nan
        columns["lost"][none] = 0
        key |= {"tensor": flight.tensors[tensor], "quantity": np.array(flight.quantities)[row]}
    every = columns | key
    scale = flight.scale.numbers()[0] if isinstance(flight.scale, Late) else flight.scale
    for first in range(0, len(hists), _AT_ONCE):
        part = slice(first, first + _AT_ONCE)
        some = {name: column[part] if isinstance(column, np.ndarray) else column for name, column in every.items()}
        block = recorder.room(-(-len(hists[part]) // 3))
        start = block.rows
        block.add_many(some, hists[part])
        if is_scale(scale):
            block.divide(start, flight.quantities[0], scale)


def columns_of(layout: Layout, words: Array, wanted: Array, tensors: Array | None = None) -> tuple[dict[str, Array], Array]:
    """Columns of the wanted rows (bool [n, rows]), tensor by tensor, and their histograms, uint32 [rows, bins].

    With `tensors`, int64 [n]: rows of one tensor are added up, as of a module that was called several times; then there is
    one for each tensor, in the order of the numbers.
    """
    numbers, hists = layout.read(words)
    tensor, row = np.nonzero(wanted)
    numbers, hists, is_update = numbers[tensor, row], hists[tensor, row], row == UPDATE
    counts, looked_at = layout.counts[tensor], layout.looked_at()[tensor, row]
    if tensors is not None:
        numbers, hists, counts, looked_at = added_up(tensors, numbers, hists, counts, looked_at)
        is_update = np.zeros(len(counts), bool)
    columns = {name: numbers[:, i] for i, name in enumerate((*STATS, *CROSS))}
    for name in CROSS:
        columns[name] = np.where(is_update, columns[name], 0 if name == "lost" else np.nan)
    columns |= {name: columns[name].astype(np.int64) for name in _COUNTS}
    is_some = numbers[:, 12] <= numbers[:, 13]
    for at, name in ((12, "min"), (13, "max")):
        columns[name] = np.where(is_some, numbers[:, at], np.nan)
    return columns | {"count": counts, "hist_count": looked_at}, hists


def added_up(tensors: Array, numbers: Array, hists: Array, counts: Array, looked_at: Array) -> tuple[Array, ...]:
    """One row for each tensor from several."""
    known, which = np.unique(tensors, return_inverse=True)
    if len(known) == len(tensors):
        order = np.argsort(tensors)
        return numbers[order], hists[order], counts[order], looked_at[order]
    totals = []
    for part in (numbers, hists, counts, looked_at):
        total = np.zeros((len(known), *part.shape[1:]), part.dtype)
        np.add.at(total, which, part)
        totals.append(total)
    totals[0][:, 12], totals[0][:, 13] = np.inf, -np.inf
    np.minimum.at(totals[0][:, 12], which, numbers[:, 12])
    np.maximum.at(totals[0][:, 13], which, numbers[:, 13])
    return tuple(totals)
