"""The limit of a run's folder: the oldest full-resolution ranges give way to their buckets.

Works on whole compacted units of rows: what lies behind the first PROTECTED_FIRST steps and before the last
PROTECTED_LAST loses its single rows, the bucket files stay, and the manifest says from where to where. It runs in a
process of its own (`python -m weighbridge.store.limit`), started by the writer, so that the training never waits.

Where that process gets no processor, the writer leaves single rows out before they are written (`Keeper.coarser`), so that
the folder stays within its limit and SLACK (docs/decisions/0052-the-writer-keeps-the-limit-itself.md).
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weighbridge.errors import WeighbridgeError
from weighbridge.records import TABLES
from weighbridge.store.checked import read_sealed, write_sealed
from weighbridge.store.compact import MANIFEST, compact_folder
from weighbridge.store.downsample import WIDTHS
from weighbridge.store.parquet import file_entry, read_parquet, write_parquet
from weighbridge.store.status import size_of
from weighbridge.store.units import Unit, units

PROTECTED_FIRST: Final = 1_000
PROTECTED_LAST: Final = 5_000
ROWS_FILE: Final = "rows.parquet"
# Beyond the limit by no more than this share of it, whatever else the machine does: tables that never give way (steps, logs,
# buckets) still grow, and a compaction that is under way holds one segment twice.
SLACK: Final = 0.05
SEGMENTS_OF_LIMIT: Final = 8  # a segment of rows is at most this part of the limit: what is open cannot be thinned
KEPT_EVERY: Final = 64  # steps, where single rows are left out: one for each of the finest buckets
LEFT_OUT: Final = ("rows", "values", "calls", "units", "spread", "pairing", "biases", "coherence", "accumulation")
_LOOK_SECONDS: Final = 2.0  # between two looks at a folder that is being made smaller
_AGAIN_SECONDS: Final = 30.0  # and between two tries to


def keep_within(folder: Path, limit_bytes: int, last_step: int) -> list[tuple[int, int]]:
    """Compact what is closed, then thin the oldest units until the folder is small enough or nothing may go.

    Returns the ranges thinned by this call. The caller is the only one who thins this folder.
    """
    if size_of(folder) > limit_bytes:
        compact_folder(folder, time.monotonic() + 3600, is_live=True)
    done = []
    for unit in units(folder)["rows"]:
        if size_of(folder) <= limit_bytes:
            break
        if unit.is_compacted and (gone := thin(unit, last_step)):
            done.append(gone)
    return done


def thin(unit: Unit, last_step: int) -> tuple[int, int] | None:
    """Take the single rows of one unit away, as far as they are not protected. Returns the range, or nothing."""
    manifest = read_sealed(unit.stem / MANIFEST)
    kept_until = -(-PROTECTED_FIRST // WIDTHS[0]) * WIDTHS[0]  # whole buckets stay or go
    if manifest["thinned"] or manifest["last_step"] > last_step - PROTECTED_LAST or manifest["last_step"] < kept_until:
        return None
    gone = (max(manifest["first_step"], kept_until), manifest["last_step"])
    path = unit.stem / ROWS_FILE
    files: dict[str, Any] = dict(manifest["files"])
    rows = TABLES["rows"].empty_table()
    if manifest["first_step"] < kept_until:
        rows = read_parquet(path, TABLES["rows"])
        rows = rows.filter(pc.less(rows.column("step"), kept_until))
    rest = path.with_name(f"rows-below-{kept_until}.parquet")
    del files[ROWS_FILE]
    if rows.num_rows:
        part = rest.with_suffix(".part")
        write_parquet(rows, part)
        os.replace(part, rest)
        files[rest.name] = file_entry(rest)
    del manifest["check"]
    # the new manifest first: a reader that still holds the old one asks again when the file is gone
    write_sealed(unit.stem / MANIFEST, {**manifest, "rows": rows.num_rows, "thinned": list(gone), "files": files}, replace=True)
    path.unlink()
    return gone


def room_for_more(segment_bytes: int, limit_bytes: int) -> int:
    """What the folder needs free to stay inside its limit until it is looked after again, when the next segment closes.

    By then as much again has been written, the other tables at most as much, and compacting holds one segment twice.
    """
    return min(3 * segment_bytes, limit_bytes // 2)


def thinned_ranges(folder: Path) -> list[tuple[int, int]]:
    """First and last step of every thinned unit, in order."""
    found = []
    for unit in units(folder)["rows"]:
        if unit.is_compacted:
            with suppress(WeighbridgeError, OSError):
                thinned = read_sealed(unit.stem / MANIFEST)["thinned"]
                found += [(thinned[0], thinned[1])] if thinned else []
    return found


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A stretch of steps of which single rows were not written."""

    first: int
    last: int
    rows: int


class Keeper:
    """Holds a rank's folder within its limit while it is written. Used by the writer's thread; never waits but in `wait`."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder, self._limit_bytes = folder, limit_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._gives_way = False  # the process: to all others
        self._told: set[tuple[int, int]] = set(thinned_ranges(folder))
        self._taken = size_of(folder)  # as it was last looked at, and what was written since
        self._looked, self._started = time.monotonic(), -math.inf
        self._segment_bytes = limit_bytes // SEGMENTS_OF_LIMIT  # of the largest closed segment of rows
        self.left_out: LeftOut | None = None  # in the stretch that lasts

    def wrote(self, size: int) -> None:
        """So many bytes more lie in the folder."""
        self._taken += size

    def closed(self, segment_bytes: int, last_step: int) -> None:
        """A segment of rows may be compacted: begin, if it is time to."""
        self._segment_bytes = segment_bytes
        self._look()
        if self._taken > self._target:
            self.start(last_step, gives_way=not self._is_urgent)

    @property
    def _target(self) -> int:
        return self._limit_bytes - room_for_more(self._segment_bytes, self._limit_bytes)

    @property
    def _is_urgent(self) -> bool:
        """Will it be full before another segment closes?"""
        return self._taken > self._limit_bytes - self._segment_bytes

    @property
    def _is_full(self) -> bool:
        return self._taken > self._limit_bytes - self._segment_bytes // 2  # what compacting one needs beside it

    def _look(self) -> None:
        self._taken, self._looked = size_of(self._folder), time.monotonic()

    def coarser(self, batches: Mapping[str, pa.RecordBatch], last_step: int) -> Mapping[str, pa.RecordBatch]:
        """What of these may be written. Where the folder is full: of what can be left out, one step in KEPT_EVERY.

        Sees to it that the thinning no longer gives way to other processes when it would come too late.
        """
        if self._is_urgent:
            self._hurry(last_step)
        if not self._is_full:
            return batches
        kept = {name: _some(batch) if name in LEFT_OUT else batch for name, batch in batches.items()}
        self._note(batches, kept)
        return kept

    def _hurry(self, last_step: int) -> None:
        now, is_running = time.monotonic(), self._is_running
        if is_running and now - self._looked >= _LOOK_SECONDS:
            self._look()
        if (is_running and self._gives_way) or (not is_running and now - self._started >= _AGAIN_SECONDS):
            self.wait(0)
            self._look()
            self.start(last_step, gives_way=False)

    def _note(self, batches: Mapping[str, pa.RecordBatch], kept: Mapping[str, pa.RecordBatch]) -> None:
        changed = [name for name, batch in batches.items() if kept[name].num_rows < batch.num_rows]
        if changed:
            steps = np.concatenate([batches[name].column("step").to_numpy() for name in changed])
            gone = sum(batches[name].num_rows - kept[name].num_rows for name in changed)
            known = self.left_out or LeftOut(int(steps.min()), int(steps.max()), 0)
            self.left_out = LeftOut(min(int(steps.min()), known.first), max(int(steps.max()), known.last), known.rows + gone)

    def has_ended(self) -> LeftOut | None:
        """The stretch of which rows were left out, once there is room again; it then is forgotten."""
        if self.left_out is None or self._is_full:
            return None
        ended, self.left_out = self.left_out, None
        return ended

    @property
    def _is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, last_step: int, *, gives_way: bool) -> None:
        """Bring the folder down to what is aimed at, unless the last look still lasts. Does not wait.

        gives_way: to all other processes.
        """
        if self._is_running:
            return
        arguments = [str(self._folder), str(self._target), str(last_step), *(["later"] if gives_way else [])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._gives_way, self._started = gives_way, time.monotonic()
        with suppress(OSError):  # no process to be had: the writer leaves rows out, the training goes on
            self._process = subprocess.Popen(
                [sys.executable, "-m", "weighbridge.store.limit", *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def wait(self, seconds: float) -> None:
        """Wait for a look that still lasts; end it when it takes too long (it can be ended at any moment)."""
        if self._process is None:
            return
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def news(self) -> list[tuple[int, int]]:
        """Ranges thinned since the last call."""
        if self._process is None or self._is_running:
            return []
        self._process = None
        self._look()
        ranges = [found for found in thinned_ranges(self._folder) if found not in self._told]
        self._told.update(ranges)
        return ranges


def _some(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Of one step in KEPT_EVERY."""
    steps = batch.column("step").to_numpy()
    return batch.filter(pa.array(steps % KEPT_EVERY == 0))


def main(arguments: list[str]) -> None:
    folder, target_bytes, last_step = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    if "later" in arguments[3:]:
        with suppress(AttributeError, OSError):
            os.nice(10)
    keep_within(folder, target_bytes, last_step)


if __name__ == "__main__":
    main(sys.argv[1:])
