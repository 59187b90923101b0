"""The line that is kept of a run that has ended, `digest.json` in its folder, so that a list of many opens none of them.

Written by the page (server/catalogue.py), read by every list. Made again where it is missing, damaged, of another version or of
another state of the run; who deletes it loses time and nothing else. In a folder that may not be written it is not kept.
"""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from weighbridge import __version__
from weighbridge.errors import WeighbridgeError
from weighbridge.records import FORMAT_VERSION
from weighbridge.store.checked import read_sealed, write_sealed
from weighbridge.store.layout import DIGEST_FILE, rank_folder, ranks
from weighbridge.store.views import RunInfo

LINE_VERSION: Final = 3  # raise it when a line holds something else


def read_line(run: Path, stamp: int) -> dict[str, Any] | None:
    """What was kept when the run's files were as they are now (`stamp`)."""
    kept = read_kept(run / DIGEST_FILE, {"of": stamp, "version": f"{__version__} {LINE_VERSION}"})
    return None if kept is None else kept["line"]


def keep_line(run: Path, stamp: int, line: dict[str, Any]) -> None:
    """Keep it of a run that has ended."""
    write_kept(run / DIGEST_FILE, {"of": stamp, "version": f"{__version__} {LINE_VERSION}", "line": line})


def kept_info(run: Path) -> RunInfo | None:
    """The run in one line, if it was kept and is still so."""
    kept = read_line(run, changed_at(run)[1])
    if kept is None:
        return None
    line = kept["line"]
    flushed, loss = line["last_flush"], line["last_loss"]
    return RunInfo(
        name=Path(line["name"]).name,
        path=run,
        state=line["state"],
        started=datetime.fromisoformat(line["started"]),
        last_flush=datetime.fromisoformat(flushed) if flushed else None,
        steps=line["steps"],
        tensors=line["tensors"],
        size_bytes=line["size_bytes"],
        last_loss=None if loss is None else float(loss),
    )


def changed_at(run: str | Path) -> tuple[int, int]:
    """Times of change of the run's folder, and of its lowest rank's: a restart, a new segment and compaction change the
    second. That a live run grows changes neither."""
    return _changed(run), _changed(f"{run}/rank-0") or _first_rank(Path(run))


def _first_rank(run: Path) -> int:
    try:
        return next((_changed(rank_folder(run, rank)) for rank in ranks(run)), 0)
    except OSError:
        return 0


def _changed(path: str | Path) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def read_kept(path: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """What stands in the file, if it holds these; None where it is not there, damaged, or of something else."""
    try:
        content = read_sealed(path)
    except (OSError, WeighbridgeError, json.JSONDecodeError):
        return None
    return content if all(content.get(name) == value for name, value in wanted.items()) else None


def write_kept(path: Path, content: dict[str, Any]) -> None:
    """In one step, or not at all."""
    try:
        write_sealed(path, {"format": FORMAT_VERSION, **content}, replace=True)
    except OSError:
        return  # a folder that may only be read, a full disk: it is read again next time
