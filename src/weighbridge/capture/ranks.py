"""Which folder this process writes into: one run, one folder `rank-<RANK>` per process of its group.

Rank 0 makes the run and writes into its record which launch it belongs to. The others look for that record, for ten
seconds at most and without any collective; a rank that finds none opens its own run and says so.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from weighbridge.capture.resume import Resume, Resumed, joined, resumed_of, run_to_resume
from weighbridge.errors import WeighbridgeError
from weighbridge.store.checked import read_sealed
from weighbridge.store.layout import RUN_FILE, attempts, create_run, find_runs, process_of, rank_folder

_WAIT_SECONDS: Final = 10.0
_LAUNCH: Final = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process writes. `error` says in words why it cannot; `note` is told to the user once."""

    path: Path
    rank: int = 0
    attempt: int = 0
    note: str = ""
    error: str = ""
    is_alone: bool = True  # no other process writes into this run
    start: int = 0  # the first step
    resumed: Resumed | None = None  # what the attempts before this one recorded
    launch: str = ""  # the same in all processes of one launch, and in no other; empty for one alone


def rank_and_world() -> tuple[int, int]:
    """(rank, number of ranks), from the launcher's environment, else from torch.distributed."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def launch_key() -> str:
    """The same text in all processes of one launch, and in no other."""
    parts = [
        os.environ.get(key, "") for key in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")
    ]
    if int(os.environ.get("LOCAL_WORLD_SIZE", 0)) == int(os.environ.get("WORLD_SIZE", -1)):
        parts.append(str(os.getppid()))  # all on one machine: the launcher's process tells launches apart
    return "/".join(parts)


def open_place(folder: Path, name: str | None, info: dict[str, Any], resume: Resume = False) -> Place:
    """Make the run's folder, or find the one that rank 0 made; with `resume`, go on in the one that is there.

    Never raises for what the file system says.
    """
    rank, world = rank_and_world()
    info = {**info, "world_size": world}
    name = name or name_of_launch()
    if world > 1:
        info["launch"] = launch_key()
    asked = name if resume is not False else None
    if rank > 0:
        found = _wait_for_rank_0(folder, info["launch"], rank, asked)
        if found is not None:
            return found
        del info["launch"]  # nobody else shall join a run that is not rank 0's
    why = ""
    if asked is not None and rank == 0:
        try:
            return _go_on(folder, asked, info, resume)
        except WeighbridgeError as error:
            why = f"resume: {error}. A new run is begun"
    start = 0 if isinstance(resume, bool) else resume
    if start:
        info["first_step"] = start
    return _make(folder, name if rank == 0 else f"{name or 'run'}-rank-{rank}", info, rank, why, start)


def name_of_launch() -> str | None:
    """The name that the launcher gave the training, which several processes share."""
    elastic = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return elastic if rank_and_world()[1] > 1 and elastic != "none" else None


def _go_on(folder: Path, name: str, info: dict[str, Any], resume: Resume) -> Place:
    """Raises CannotResume, or what reading the run raises."""
    run = run_to_resume(folder, name)
    resumed = resumed_of(run, info["world_size"], resume)
    again = f"; steps {resumed.start:,} to {resumed.steps - 1:,} are trained again" if resumed.start < resumed.steps else ""
    missing = f"; steps {resumed.steps:,} to {resumed.start - 1:,} are not recorded" if resumed.start > resumed.steps else ""
    note = f"goes on in {run} at step {resumed.start:,}, as attempt {resumed.attempt}{again}{missing}"
    return _place_of(run, 0, resumed, info.get("launch", ""), note)


def _place_of(run: Path, rank: int, resumed: Resumed, launch: str, note: str = "") -> Place:
    return Place(run, rank, resumed.attempt, note, "", launch == "", resumed.start, resumed, launch)


def _make(folder: Path, name: str | None, info: dict[str, Any], rank: int, why: str, start: int) -> Place:
    note = f"rank {rank} found no run of rank 0 within {_WAIT_SECONDS:.0f} s and opens its own" if rank else why
    try:
        path = create_run(folder, name, info)
        return Place(path, rank, note=note, is_alone=rank > 0 or info["world_size"] == 1, start=start)
    except (OSError, WeighbridgeError) as error:
        path = folder / (name or "run")
        return Place(path, rank, error=f"nothing is recorded: {error} Training goes on.")


def _wait_for_rank_0(folder: Path, launch: str, rank: int, asked: str | None) -> Place | None:
    until = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < until:
        if found := _runs_of(folder, launch, rank):
            start = int(read_sealed(found[0] / RUN_FILE)["info"].get("first_step", 0))
            return Place(found[0], rank, is_alone=False, start=start)
        if asked is not None and (place := _joined(folder, asked, launch, rank)) is not None:
            return place
        time.sleep(0.05)
    return None


def _joined(folder: Path, name: str, launch: str, rank: int) -> Place | None:
    try:
        run = run_to_resume(folder, name)
        resumed = joined(run, rank, launch)
    except (OSError, KeyError, WeighbridgeError):
        return None  # just being written, or rank 0 begins another run
    return None if resumed is None else _place_of(run, rank, resumed, launch)


def _runs_of(folder: Path, launch: str, rank: int) -> list[Path]:
    """The runs of this launch into which this rank has not written yet, oldest first.

    Launches by hand often share address and port: a run whose rank 0 has ended is of an earlier one.
    """
    found = []
    for run in find_runs(folder):
        try:
            told = read_sealed(run / RUN_FILE)
            is_ours = told["info"].get("launch") == launch and process_of(told).lives() is not False
            if is_ours and not attempts(rank_folder(run, rank)):
                found.append((told["started_ns"], run))
        except (OSError, KeyError, WeighbridgeError):
            continue  # just being made, or not ours to judge
    return [run for _, run in sorted(found)]
