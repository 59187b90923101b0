"""The one-line state of a run, cheap enough for a list of many."""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from weighbridge.errors import NotARun
from weighbridge.store.checked import read_sealed
from weighbridge.store.layout import (
    DIAGNOSIS_FILE,
    DIGEST_FILE,
    FINISH_FILE,
    RUN_FILE,
    attempt_file,
    attempts,
    is_run,
    process_of,
)
from weighbridge.store.segment import SIDECAR_SUFFIX
from weighbridge.store.tables import RankTables
from weighbridge.store.views import RunInfo

LIVE, FINISHED, ENDED = "live", "finished", "ended without finish"
# A run on another machine is taken for live while its last flush is younger than this: a flush comes every 0.25 s or
# 1,024 steps, a step of the largest trainings takes tens of seconds, and clocks of machines differ by some seconds.
FOREIGN_LIVE_SECONDS = 600.0


def require_run(path: Path) -> dict[str, Any]:
    """What run.json says. Raises NotARun, NewerFormat or CorruptRun."""
    if is_run(path):
        return read_sealed(path / RUN_FILE)
    if not path.exists():
        raise NotARun(f"There is no folder {path}. Which runs there are: weighbridge ls")
    inside = [folder.name for folder in sorted(path.iterdir()) if is_run(folder)] if path.is_dir() else []
    hint = f"It holds the runs {', '.join(inside[:5])}: name one of them." if inside else "Which runs there are: weighbridge ls"
    raise NotARun(f"{path} is not a run (it has no {RUN_FILE}). {hint}")


def state_of(run: dict[str, Any], folder: Path, last_flush: datetime | None) -> str:
    """ "live" while the last attempt's process lives, "finished" when it said so, else "ended without finish"."""
    tried = attempts(folder)
    finish = finish_of(folder)
    if finish is not None and (not tried or finish["attempt"] == tried[-1]):
        return FINISHED
    process = process_of(read_sealed(attempt_file(folder, tried[-1])) if tried else run)
    lives = process.lives()
    if lives is None:
        age = (datetime.now(UTC) - last_flush).total_seconds() if last_flush else FOREIGN_LIVE_SECONDS
        lives = age < FOREIGN_LIVE_SECONDS
    return LIVE if lives else ENDED


def finish_of(folder: Path) -> dict[str, Any] | None:
    try:
        return read_sealed(folder / FINISH_FILE)
    except FileNotFoundError:
        return None


def last_flush_of(folder: Path) -> datetime | None:
    """When something was last acknowledged, from the sidecars' times of change."""
    newest = 0.0
    if folder.is_dir():
        for path in folder.iterdir():
            if path.suffix == SIDECAR_SUFFIX:
                newest = max(newest, path.stat().st_mtime)
    finish = finish_of(folder)
    if finish is not None:
        newest = max(newest, finish["finished_ns"] / 1e9)
    return datetime.fromtimestamp(newest, UTC) if newest else None


def size_of(path: str | Path) -> int:
    """Bytes of all files below a folder, less those that a reader keeps; files that vanish meanwhile are not counted."""
    total = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(path) as entries:  # Path.rglob takes four times as long
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.is_dir(follow_symlinks=False):
                    total += size_of(entry.path)
                elif entry.name not in (DIGEST_FILE, DIAGNOSIS_FILE) and entry.is_file():
                    total += entry.stat().st_size
    return total


def steps_of(tables: RankTables) -> int:
    """Steps taken: what finish.json says, else one more than the last recorded one."""
    finish = finish_of(tables.folder)
    last = max((min(part.last_step, part.limit - 1) for part in tables.parts["steps"]), default=-1)
    newest = max((part.attempt for part in tables.parts["steps"]), default=0)
    is_of_it = finish is not None and (finish["attempt"] <= tables.attempt if tables.attempt is not None else True)
    return int(finish["steps"]) if finish and is_of_it and finish["attempt"] >= newest else last + 1


def _last_step_end(tables: RankTables) -> datetime | None:
    """When the last step ended: of a run that did not finish no sidecar is left once all of it is compacted."""
    latest = pc.max(tables.whole("steps").column("time_ns")).as_py()
    return datetime.fromtimestamp(latest / 1e9, UTC) if latest else None


def _parameters(tables: RankTables) -> set[int]:
    """Ids of the tensors that are parameters, not what modules give."""
    table = tables.whole("tensors")
    rows = zip(table.column("tensor").to_pylist(), table.column("role").to_pylist(), strict=True)
    return {tensor for tensor, role in rows if role != "output"}


def info_of(path: Path, run: dict[str, Any], tables: RankTables) -> RunInfo:
    """One line about a run, as it is now."""
    last_flush = last_flush_of(tables.folder) or _last_step_end(tables)
    seen = tables.whole("steps").column("loss").drop_null()  # NaN is a loss, and news
    return RunInfo(
        name=run["name"],
        path=path,
        state=state_of(run, tables.folder, last_flush),
        started=datetime.fromtimestamp(run["started_ns"] / 1e9, UTC),
        last_flush=last_flush,
        steps=steps_of(tables),
        tensors=len(_parameters(tables)),
        size_bytes=size_of(path),
        last_loss=float(seen[-1].as_py()) if len(seen) else None,
    )
