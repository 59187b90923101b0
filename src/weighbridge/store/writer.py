"""Writes one rank's tables. One process, one thread, one writer; no torch, no locks.

writer = RankWriter(run, rank=0)
writer.write({"rows": batch, "steps": other}, first_step=0, last_step=255)    # returns when acknowledged
writer.finish(steps=256)
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from weighbridge.errors import WeighbridgeError
from weighbridge.records import FORMAT_VERSION, TABLES
from weighbridge.store.checked import write_sealed
from weighbridge.store.layout import FINISH_FILE, attempt_file, process_of, rank_folder, this_process, unit_name
from weighbridge.store.limit import KEPT_EVERY, SEGMENTS_OF_LIMIT, Keeper, LeftOut, keep_within
from weighbridge.store.segment import SegmentWriter
from weighbridge.store.units import last_numbers

SEGMENT_BYTES: Final = 64 << 20
SEGMENT_STEPS: Final = 5_000
FINISH_SECONDS: Final = 10.0


class RankWriter:
    """Appends record batches to the segments of one rank.

    `on_flush(table, flush)` is called after each acknowledged flush. Raises WeighbridgeError where another writer
    holds this attempt, OSError on a full disk: what was acknowledged stays, and a later write goes on in a new segment.
    """

    def __init__(
        self,
        run: Path,
        rank: int = 0,
        attempt: int = 0,
        on_flush: Callable[[str, object], None] | None = None,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        segment_steps: int = SEGMENT_STEPS,
        disk_limit_bytes: int | None = None,
        claim: Mapping[str, Any] | None = None,
    ) -> None:
        """claim: what else stands in attempt-N.json."""
        self.folder = rank_folder(run, rank)
        self.rank, self.attempt = rank, attempt
        self._on_flush = on_flush
        most = disk_limit_bytes // SEGMENTS_OF_LIMIT if disk_limit_bytes else segment_bytes
        self._segment_bytes, self._segment_steps = min(segment_bytes, most), segment_steps
        self._open: dict[str, SegmentWriter] = {}
        self._closed_bytes = 0
        self._finished = False
        self._first_step, self._last_step = -1, -1
        self.unwritten: tuple[str, ...] = ()  # after an OSError: the tables of that write that are not acknowledged
        self.folder.mkdir(parents=True, exist_ok=True)
        self._claim(claim or {})
        self._numbers = last_numbers(self.folder)
        self._limit_bytes = disk_limit_bytes
        self._keeper = Keeper(self.folder, disk_limit_bytes) if disk_limit_bytes else None

    def _claim(self, more: Mapping[str, Any]) -> None:
        mine = {"format": FORMAT_VERSION, "rank": self.rank, "attempt": self.attempt, **more}
        process = this_process()
        try:
            file = attempt_file(self.folder, self.attempt)
            write_sealed(file, {**mine, **{name: getattr(process, name) for name in process.__slots__}})
        except FileExistsError:
            raise WeighbridgeError(_taken(self.folder, self.attempt)) from None

    @property
    def size_bytes(self) -> int:
        """Bytes that this writer has put on disk and had acknowledged."""
        return self._closed_bytes + sum(segment.disk_bytes for segment in self._open.values())

    def write(self, batches: Mapping[str, pa.RecordBatch], first_step: int, last_step: int) -> None:
        """Append each batch to its table; on return all of it is acknowledged. Empty batches leave no trace.

        On OSError the tables before the failing one are acknowledged; `unwritten` names the others, for a later try.
        """
        thinned = self._keeper.news() if self._keeper is not None else []
        if self._keeper is not None:
            batches = self._within(self._keeper, batches, last_step)
        self.unwritten = tuple(batches)
        for table, batch in batches.items():
            if batch.num_rows:
                self._append(table, batch, first_step, last_step)
            self.unwritten = self.unwritten[1:]
        self._first_step = first_step if self._first_step < 0 else min(first_step, self._first_step)
        self._last_step = max(last_step, self._last_step)
        self._tell_thinned(thinned)

    def _within(self, keeper: Keeper, batches: Mapping[str, pa.RecordBatch], last_step: int) -> Mapping[str, pa.RecordBatch]:
        """What of these there is room for. Says where rows begin to be left out, and where that has ended."""
        before = keeper.left_out
        kept = keeper.coarser(batches, last_step)
        if before is None and keeper.left_out is not None:
            self._tell(_leaving_out_event(keeper.left_out, self.attempt, last_step), last_step)
        self._tell_left_out(keeper.has_ended())
        return kept

    def _append(self, table: str, batch: pa.RecordBatch, first_step: int, last_step: int) -> None:
        segment = self._open.get(table)
        if segment is not None and self._is_full(segment, last_step):
            self._close(table)
            segment = None
        if segment is None:
            number = self._numbers.get(table, 0) + 1
            segment = SegmentWriter(self.folder / unit_name(table, number), TABLES[table])
            self._numbers[table] = number
            self._open[table] = segment
        before = segment.disk_bytes
        try:
            segment.append(batch, first_step, last_step)
            if self._keeper is not None:
                self._keeper.wrote(segment.disk_bytes - before)
        except OSError:
            del self._open[table]  # what stands behind its last line is a torn tail; the next write opens a new one
            self._closed_bytes += segment.disk_bytes
            segment.abandon()
            raise
        if self._on_flush is not None:
            self._on_flush(table, segment.lines[-1])

    def _is_full(self, segment: SegmentWriter, last_step: int) -> bool:
        return segment.size_bytes >= self._segment_bytes or last_step - segment.first_step >= self._segment_steps

    def _close(self, table: str) -> None:
        segment = self._open.pop(table)
        try:
            segment.close()
        finally:
            self._closed_bytes += segment.disk_bytes
        if table == "rows" and self._keeper is not None:
            self._keeper.closed(segment.disk_bytes, self._last_step)

    def _tell_thinned(self, ranges: list[tuple[int, int]]) -> None:
        """An event for each range of which only buckets are left."""
        for first, last in ranges:
            self._tell(_thinned_event(first, last, self.attempt, self._last_step), self._last_step)

    def _tell_left_out(self, gone: LeftOut | None) -> None:
        if gone is not None:
            self._tell(_left_out_event(gone, self.attempt, self._last_step), self._last_step)

    def _tell(self, event: pa.RecordBatch, step: int) -> None:
        self._append("events", event, step, step)

    def finish(self, steps: int, compact_seconds: float = FINISH_SECONDS) -> None:
        """Close all segments, write finish.json, then compact for at most `compact_seconds`. A second call does nothing."""
        if self._finished:
            return
        self._finished = True
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.wait(compact_seconds)
            self._tell_thinned(keeper.news())
            self._tell_left_out(keeper.left_out)
        self._close_all()
        content = {"format": FORMAT_VERSION, "attempt": self.attempt, "steps": steps, "finished_ns": time.time_ns()}
        write_sealed(self.folder / FINISH_FILE, content, replace=True)
        if compact_seconds > 0:
            from weighbridge.store.compact import compact_folder  # the training process needs none of it before

            with suppress(OSError, WeighbridgeError):  # whoever reads the run next compacts what is left
                compact_folder(self.folder, time.monotonic() + compact_seconds, is_live=False)
                if self._limit_bytes:
                    self._tell_thinned(keep_within(self.folder, self._limit_bytes, self._last_step))
                    self._close_all()

    def _close_all(self) -> None:
        for table in list(self._open):
            with suppress(OSError):  # a full disk: not marked closed, which finish.json says as well
                self._close(table)


def _thinned_event(first: int, last: int, attempt: int, step: int) -> pa.RecordBatch:
    message = f"disk limit: of steps {first} to {last} only buckets of 64 steps and more are left"
    return _event("thinned", message, {"first_step": first, "last_step": last}, attempt, step)


def _leaving_out_event(gone: LeftOut, attempt: int, step: int) -> pa.RecordBatch:
    message = (
        f"disk limit: the folder is full and could not be made smaller in time: from step {gone.first} on tensors are recorded "
        f"at one step in {KEPT_EVERY} only; losses and logs are complete. More room: Plan(disk=...)"
    )
    return _event("dropped", message, {"first_step": gone.first}, attempt, step)


def _left_out_event(gone: LeftOut, attempt: int, step: int) -> pa.RecordBatch:
    message = (
        f"disk limit: of steps {gone.first} to {gone.last} tensors were recorded at one step in {KEPT_EVERY} only "
        f"({gone.rows:,} rows were left out): the folder was full and could not be made smaller in time"
    )
    return _event("dropped", message, {"first_step": gone.first, "last_step": gone.last, "rows": gone.rows}, attempt, step)


def _event(kind: str, message: str, detail: dict[str, int], attempt: int, step: int) -> pa.RecordBatch:
    made = {"step": step, "attempt": attempt, "kind": kind, "tensor": -1, "message": message}
    made |= {"detail": json.dumps(detail), "time_ns": time.time_ns()}
    return pa.RecordBatch.from_pylist([made], TABLES["events"])


def _taken(folder: Path, attempt: int) -> str:
    from weighbridge.store.checked import read_sealed

    process = process_of(read_sealed(attempt_file(folder, attempt)))
    run = folder.parent
    if process.lives() is False:
        return (
            f"{run} was written by process {process.pid}, which has ended. A run is never appended to unasked: "
            f"give this training its own name, e.g. name='{run.name}-2', or go on in it: init(name='{run.name}', resume=True)."
        )
    return (
        f"{run} is being written by process {process.pid} on {process.host}. A run has one writer; "
        f"give this training its own name, e.g. name='{run.name}-2'."
    )
