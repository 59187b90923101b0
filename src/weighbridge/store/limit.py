"""The limit of a run's folder: the oldest full-resolution ranges give way to their buckets.

Works on whole compacted units of rows: what lies behind the first PROTECTED_FIRST steps and before the last
PROTECTED_LAST loses its single rows, the bucket files stay, and the manifest says from where to where. It runs in a
process of its own (`python -m weighbridge.store.limit`), started by the writer, so that the training never waits.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

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
IN_TIME: Final = 1.15  # times what is aimed at: beyond it the thinning no longer gives way to other processes


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


class Keeper:
    """Starts the thinning beside the training, one at a time, and tells what was thinned."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder, self._limit_bytes = folder, limit_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._told: set[tuple[int, int]] = set(thinned_ranges(folder))

    def start(self, last_step: int, target_bytes: int) -> None:
        """Bring the folder down to so many bytes, unless the last look still lasts. Does not wait."""
        if self._process is not None and self._process.poll() is None:
            return
        arguments = [str(self._folder), str(target_bytes), str(last_step)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        with suppress(OSError):  # no process to be had: the limit is not kept, the training goes on
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
        if self._process is None or self._process.poll() is None:
            return []
        self._process = None
        ranges = [found for found in thinned_ranges(self._folder) if found not in self._told]
        self._told.update(ranges)
        return ranges


def main(arguments: list[str]) -> None:
    folder, target_bytes = Path(arguments[0]), int(arguments[1])
    if size_of(folder) < IN_TIME * target_bytes:  # else it is behind already: a busy machine leaves it too little time
        with suppress(AttributeError, OSError):
            os.nice(10)
    keep_within(folder, target_bytes, int(arguments[2]))


if __name__ == "__main__":
    main(sys.argv[1:])
