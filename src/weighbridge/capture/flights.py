"""Results on their way from a GPU to the host: pinned buffers, each guarded by an event, fetched when the device is done.

Nothing here waits for the device but `fetch(wait=True)`, at a run's end. Buffers are bounded: where the device is so far
behind that all of them are under way, the rows of a step are dropped and counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from weighbridge.capture.devicetable import GRADIENT, PARAMETER, UPDATE, Table
from weighbridge.capture.recorder import Recorder

MOST_BYTES: Final = 64 << 20  # of pinned memory, of one optimizer on one device
MOST_FLIGHTS: Final = 64
STATS: Final = ("nan", "pos_inf", "neg_inf", "zero", "subnormal", "sum", "sum_abs", "sum_sq")
CROSS: Final = ("dot_gradient_parameter", "dot_gradient_update", "dot_update_parameter", "lost")
_COUNTS: Final = (*STATS[:5], "lost")

Array = np.ndarray[Any, Any]


@dataclass(slots=True)
class Flight:
    """The rows of one step: `wanted`, bool [n, 3], says which of what arrives; `quantities` and `tensors` name them."""

    step: int
    table: Table
    tensors: Array
    quantities: Sequence[int]
    wanted: Array
    has_gradient: Array
    host: torch.Tensor
    done: Any  # an event of the device, or None where everything is done when the call returns


class Flights:
    """What one optimizer's tensors on one device have under way."""

    def __init__(self) -> None:
        self.under_way: deque[Flight] = deque()
        self.free: list[torch.Tensor] = []
        self.bytes = self.dropped = 0

    def send(
        self, step: int, table: Table, tensors: Array, quantities: Sequence[int], wanted: Array, has_gradient: Array
    ) -> None:
        """Add up what the table has weighed, and send it behind the work that is queued on the current stream."""
        host = self._buffer(table.words)
        if host is None:
            self.dropped += int(wanted.sum())
            return
        host.copy_(table.add_up(), non_blocking=True)
        done: Any = None
        if table.device.type == "cuda":
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
        self.under_way.append(Flight(step, table, tensors, quantities, wanted, has_gradient, host, done))

    def _buffer(self, words: int) -> torch.Tensor | None:
        for i, buffer in enumerate(self.free):
            if buffer.numel() == words:
                return self.free.pop(i)
        if self.under_way and (len(self.under_way) >= MOST_FLIGHTS or self.bytes + words * 8 > MOST_BYTES):
            return None
        self.free.clear()
        self.bytes = sum(flight.host.nbytes for flight in self.under_way) + words * 8
        return torch.empty(words, dtype=torch.int64, pin_memory=torch.cuda.is_available())

    def fetch(self, recorder: Recorder, wait: bool = False) -> None:
        """Write the rows that have arrived. Call with the recorder's lock held."""
        while self.under_way and (wait or self.under_way[0].done is None or self.under_way[0].done.query()):
            flight = self.under_way.popleft()
            if wait and flight.done is not None:
                flight.done.synchronize()
            _write(flight, recorder)
            self.free.append(flight.host)


def _write(flight: Flight, recorder: Recorder) -> None:
    columns, hists = columns_of(flight.table, flight.host.numpy(), flight.wanted)
    tensor, row = np.nonzero(flight.wanted)
    none = ~flight.has_gradient[tensor]
    for name in CROSS[:2]:
        columns[name][none] = np.nan
    columns["lost"][none] = 0
    key = {"step": flight.step, "attempt": recorder.attempt, "tensor": flight.tensors[tensor]}
    columns |= key | {"quantity": np.array(flight.quantities)[row], "hist_bits": max(flight.table.fine, 0)}
    for first in range(0, len(tensor), 4096):
        part = slice(first, first + 4096)
        some = {name: column[part] if isinstance(column, np.ndarray) else column for name, column in columns.items()}
        block = recorder.room(-(-len(hists[part]) // 3))
        block.add_many(some, hists[part])


def columns_of(table: Table, words: Array, wanted: Array) -> tuple[dict[str, Array], Array]:
    """Columns of the wanted rows (bool [n, 3]) in the order of tensors, then rows; and their histograms, uint32 [rows, bins]."""
    numbers, hists = table.read(words)
    tensor, row = np.nonzero(wanted)
    numbers = numbers[tensor, row]
    columns = {name: numbers[:, i] for i, name in enumerate((*STATS, *CROSS))}
    is_update = row == UPDATE
    for name in CROSS:
        columns[name] = np.where(is_update, columns[name], 0 if name == "lost" else np.nan)
    columns |= {name: columns[name].astype(np.int64) for name in _COUNTS}
    least, most = numbers[:, 12], -numbers[:, 13]
    is_some = least <= most
    columns["min"], columns["max"] = np.where(is_some, least, np.nan), np.where(is_some, most, np.nan)
    columns["count"] = table.counts[tensor]
    columns["hist_count"] = table.looked_at()[tensor, row]
    return columns, hists[tensor, row]
