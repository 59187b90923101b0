"""From the training thread to the writer: buffers, a bounded queue, one background thread.

The training thread only fills preallocated columns and appends to lists. Every 0.25 s or 1,024 steps the filled buffers
are handed over; the background thread turns them into Arrow batches and writes them. If it cannot keep up, batches are
dropped and counted: training never waits.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import pyarrow as pa

from weighbridge.capture.marks import Marks
from weighbridge.capture.rowblock import RowBlock
from weighbridge.capture.valueblock import ValueBlock
from weighbridge.records import HISTOGRAM_BINS, TABLES
from weighbridge.store.writer import RankWriter

FLUSH_SECONDS: Final = 0.25
FLUSH_STEPS: Final = 1024  # a flush costs 2 ms of CPU, however few rows it has: the quickest steps are bounded by time, too
_USUAL_BINS: Final = 40  # bins of a usual row; where a block's rows have more, it is handed over earlier
_VALUES_BYTES: Final = 4 * 2**20  # of the numbers of small tensors, handed over at once
BLOCK_ROWS: Final = 65_536  # a larger model is handed over more often
QUEUE_BYTES: Final = 256 * 2**20  # what may wait for the disk before rows are dropped


class Lists:
    """Rows of one of the small tables, as Python tuples in the order of its schema."""

    def __init__(self, table: str) -> None:
        self._row = pa.struct(list(TABLES[table]))
        self.rows: list[tuple[Any, ...]] = []

    def take(self) -> list[tuple[Any, ...]]:
        """Hand the rows over and begin anew."""
        rows, self.rows = self.rows, []
        return rows

    def batch(self, rows: list[tuple[Any, ...]]) -> pa.RecordBatch:
        """The rows as Arrow: in one call, for most of these tables have few rows and many columns."""
        return pa.RecordBatch.from_struct_array(pa.array(rows, type=self._row))


_ROW_BYTES: Final = 256  # of a row on its way, roughly; a histogram of all 132 bins would make it 700
_NEVER_DROPPED: Final = ("tensors", "events", "findings")  # few, and nothing can be read without them
SMALL_TABLES: Final = (
    "tensors",
    "steps",
    "passes",
    "logs",
    "values",
    "events",
    "calls",
    "units",
    "spread",
    "pairing",
    "biases",
    "coherence",
    "accumulation",
    "findings",
    "graph",
)


class Reader(Protocol):
    """Whoever reads what is written, on the background thread. Must neither block nor raise."""

    def add(self, batches: Mapping[str, pa.RecordBatch], marks: Marks) -> None: ...


class Recorder:
    """Buffers of one run and rank, and the thread that writes them."""

    def __init__(
        self, writer: RankWriter, tell: Callable[[str], None], attempt: int = 0, bins: int = HISTOGRAM_BINS, start: int = 0
    ) -> None:
        """start: the first step that is recorded; an attempt takes the place of earlier ones from there on."""
        self.writer, self.tell, self.attempt = writer, tell, attempt
        self.bins = bins  # of the largest histogram
        self.lock = threading.RLock()
        self.block = RowBlock(0, 0)
        self.values = ValueBlock(0, 0)
        self.small = {name: Lists(name) for name in SMALL_TABLES}
        self.first_step = self.last_step = start
        self.steps_held = 0
        self.last_hand_over = time.perf_counter()
        self.rows_written = self.rows_dropped = self.queued_bytes = 0
        self.thread_seconds = 0.0
        self.has_failed = False
        self.marks: Callable[[], Marks] = Marks  # the stepper knows
        self.gather: Callable[[], None] = lambda: None  # what it has not handed to us yet
        self.reader: Reader | None = None
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="weighbridge-writer", daemon=True)
        self._thread.start()

    # --- on the training thread -------------------------------------------------------------------------------------

    def room(self, items: int) -> RowBlock:
        """A block with room for the rows of `items` tensors; hands the full one over. Call with the lock held."""
        rows = items * 3
        if self.block.room_for(items):
            return self.block
        self.hand_over()
        if self.block.room_for(items):
            return self.block
        capacity = max(rows, min(rows * FLUSH_STEPS, BLOCK_ROWS))
        self.block = RowBlock(capacity, max(rows * self.bins, capacity * _USUAL_BINS), self.bins)
        return self.block

    def values_room(self, rows: int, size: int) -> ValueBlock:
        """A block with room for so many rows of values, of `size` bytes together. Call with the lock held."""
        if self.values.room_for(rows, size):
            return self.values
        self.hand_over()
        if self.values.room_for(rows, size):
            return self.values
        steps = max(1, min(FLUSH_STEPS, _VALUES_BYTES // max(size, 1)))
        self.values = ValueBlock(rows * steps, size * steps)
        return self.values

    def add(self, table: str, *row: Any) -> None:
        """Append one row to a small table: the columns after step and attempt."""
        self.small[table].rows.append(row)

    def event(self, step: int, kind: str, message: str, tensor: int = -1, detail: Any = None) -> None:
        """Note something that happened."""
        text = json.dumps(detail, default=str) if detail is not None else ""
        with self.lock:
            self.small["events"].rows.append((step, self.attempt, kind, tensor, message, text, time.time_ns()))

    def step_done(self, step: int) -> None:
        """One optimizer's step is complete; hand over when it is time. Call with the lock held."""
        self.last_step = step
        self.steps_held += 1
        if self.steps_held >= FLUSH_STEPS or time.perf_counter() - self.last_hand_over >= FLUSH_SECONDS:
            self.hand_over()

    def hand_over(self) -> None:
        """Give what is buffered to the background thread. Never waits for the disk."""
        with self.lock:
            self.gather()
            self.last_hand_over = time.perf_counter()
            rows = self.block.take() if self.block.rows else None
            small = {name: lists.take() for name, lists in self.small.items() if lists.rows}
            first, self.first_step, self.steps_held = self.first_step, self.last_step, 0
            values = self.values.take() if self.values.rows else None
            if rows is None and not small and values is None:
                return
            size = _ROW_BYTES * ((rows.num_rows if rows is not None else 0) + sum(map(len, small.values())))
            size += values.get_total_buffer_size() if values is not None else 0
            if self.queued_bytes + size > QUEUE_BYTES:
                self._drop(rows)
                rows = values = None
                small = {name: small[name] for name in _NEVER_DROPPED if name in small}
                size = _ROW_BYTES * sum(map(len, small.values()))
                if not small:
                    return
            self.queued_bytes += size
            self._queue.put((rows, small, values, size, first, self.last_step, self.marks()))

    def _drop(self, rows: pa.RecordBatch | None) -> None:
        if rows is not None:
            self.rows_dropped += rows.num_rows
            self.tell("the disk does not keep up with training; rows are dropped and counted, training goes on")

    def flush(self) -> None:
        """Return when everything recorded so far is written and acknowledged (or dropped, and counted)."""
        self.hand_over()
        done = threading.Event()
        self._queue.put(done)
        while not done.wait(0.5):
            if not self._thread.is_alive():
                return

    def close(self) -> None:
        """Write what is left and end the thread."""
        self.hand_over()
        self._queue.put(None)
        self._thread.join()

    # --- on the background thread -----------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            try:
                job = self._queue.get(timeout=FLUSH_SECONDS)
            except queue.Empty:
                self._tick()
                continue
            if job is None:
                return
            if isinstance(job, threading.Event):
                job.set()
                continue
            began = time.thread_time()
            self._write(*job)
            self.thread_seconds += time.thread_time() - began

    def _tick(self) -> None:
        """Nothing came for a while: fetch what lies in the buffers, so that a pause in training hides no step."""
        if time.perf_counter() - self.last_hand_over >= FLUSH_SECONDS and self.lock.acquire(blocking=False):
            try:
                self.hand_over()
            finally:
                self.lock.release()

    def _write(
        self,
        rows: pa.RecordBatch | None,
        small: dict[str, list[tuple[Any, ...]]],
        values: pa.RecordBatch | None,
        size: int,
        first: int,
        last: int,
        marks: Marks,
    ) -> None:
        try:
            batches = {name: self.small[name].batch(listed) for name, listed in small.items()}
            if values is not None:
                alone = batches.get("values")
                batches["values"] = values if alone is None else pa.concat_batches([values, alone])
            if rows is not None:
                batches["rows"] = rows
            self.writer.write(batches, first, last)
            self.rows_written += rows.num_rows if rows is not None else 0
            if self.reader is not None:
                self.reader.add(batches, marks)
        except Exception as error:
            self.rows_dropped += rows.num_rows if rows is not None else 0
            with self.lock:  # which tensor is which: tried again, and harmless if it stands there twice
                self.small["tensors"].rows[:0] = small.get("tensors", [])
            if not self.has_failed:  # once: the text of the error names another file each time
                self.has_failed = True
                self.tell(
                    f"could not write to {self.writer.folder}: {error}. Training goes on; what was written stays readable"
                )
        finally:
            with self.lock:
                self.queued_bytes -= size
