"""A training goes on in a run that an earlier process has written: `init(resume=...)` (docs/decisions/0058).

What the earlier attempts know is read once, before the training begins. Where the run cannot be gone on with, a new one is
begun, and the reason is told: a training that starts again at night must be recorded, whatever lies in its folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from weighbridge.errors import BadInput, WeighbridgeError
from weighbridge.format import counted
from weighbridge.store.checked import read_sealed
from weighbridge.store.find import ended_by
from weighbridge.store.layout import attempt_file, attempts, clean_name, is_run, process_of, rank_folder, ranks
from weighbridge.store.status import finish_of, require_run, steps_of
from weighbridge.store.tables import RankTables

_MOST_TOLD: Final = 8  # differences of a model
Resume = bool | int  # True: after the last recorded step; a number: at this step


@dataclass(frozen=True, slots=True)
class Seen:
    """A tensor of an earlier attempt: ids go on, so that its series is one."""

    id: int
    model: str
    name: str
    role: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Resumed:
    """What a rank recorded before the attempt that now begins."""

    attempt: int  # the number of the new one
    start: int  # its first step
    steps: int  # taken before, as far as they are recorded
    tensors: tuple[Seen, ...] = ()


class CannotResume(WeighbridgeError):
    """Why another run is begun instead; says nothing of what is done now."""


def check_resume(resume: object, name: str | None, is_named_otherwise: bool) -> None:
    """Raise BadInput for what cannot be meant."""
    if not isinstance(resume, int) or resume < 0:
        raise BadInput(
            f"init was given resume={resume!r}. Write resume=True to go on after the last recorded step, or the step at which "
            "training goes on, as the checkpoint has it: resume=700."
        )
    if resume is not False and name is None and not is_named_otherwise:
        raise BadInput(
            "init was given resume, but no name: which run shall go on? Give it its name, resume=True, name='first'. "
            "Which runs there are: weighbridge ls"
        )


def run_to_resume(folder: Path, name: str) -> Path:
    """The run of this name below the folder, or at this path; its last words are enough. Raises CannotResume for none."""
    for path in (folder / clean_name(name), Path(name).expanduser()):
        if is_run(path):
            return path
    ending = ended_by(folder, name)
    if len(ending) == 1:
        return folder / ending[0]
    several = f"; several end so: {', '.join(ending)}" if ending else ""
    raise CannotResume(f"there is no run {name!r} in {folder} yet{several}")


def resumed_of(run: Path, world: int, resume: Resume) -> Resumed:
    """What the new attempt of rank 0 begins with. Raises CannotResume where the run must be left alone."""
    try:
        told = require_run(run)
        before = max(int(told["info"].get("world_size", 1)), *(rank + 1 for rank in ranks(run)), 1)
        if before != world:
            raise CannotResume(f"{run} is of {counted(before, 'process', 'processes')}, and now there are {world}")
        tried, finish = attempts(rank_folder(run, 0)), finish_of(rank_folder(run, 0))
        process = process_of(read_sealed(attempt_file(rank_folder(run, 0), tried[-1])) if tried else told)
        is_over = finish is not None and (not tried or finish["attempt"] == tried[-1])  # perhaps of this very process
        if process.lives() and not is_over:
            raise CannotResume(f"{run} is being written by process {process.pid}, and a run has one writer")
        tables = RankTables(rank_folder(run, 0))
        steps = steps_of(tables)
        return Resumed(tried[-1] + 1 if tried else 0, steps if resume is True else int(resume), steps, _seen(tables))
    except (OSError, LookupError, ValueError) as error:
        raise CannotResume(f"{run} cannot be read ({type(error).__name__}: {error})") from error


def joined(run: Path, rank: int, launch: str) -> Resumed | None:
    """What rank 0 of this launch has begun in this run, for another rank; None as long as it has begun nothing."""
    mine = set(attempts(rank_folder(run, rank)))
    for number in attempts(rank_folder(run, 0)):
        told = read_sealed(attempt_file(rank_folder(run, 0), number))
        if number not in mine and told.get("launch") == launch and process_of(told).lives() is not False:
            tables = RankTables(rank_folder(run, rank))
            return Resumed(number, int(told["first_step"]), steps_of(tables), _seen(tables))
    return None


def _seen(tables: RankTables) -> tuple[Seen, ...]:
    rows = {row["tensor"]: row for row in tables.whole("tensors").to_pylist()}
    return tuple(
        Seen(number, row["model"], row["name"], row["role"], tuple(row["shape"])) for number, row in sorted(rows.items())
    )


def changes(before: tuple[Seen, ...], now: dict[str, tuple[int, ...] | None]) -> str:
    """How the parameters of a model differ from those of the earlier attempts; empty where they do not.

    now: shape by name; None = not known yet (a lazy layer).
    >>> before = (Seen(0, "model", "0.weight", "weight", (4, 2)), Seen(1, "model", "0.bias", "bias", (4,)))
    >>> changes(before, {"0.weight": (8, 2), "1.weight": (1, 8)})
    '0.weight was (4, 2) and is (8, 2); 1.weight is new; 0.bias is gone'
    """
    was = {one.name: one.shape for one in before}
    told = [f"{name} was {was[name]} and is {shape}" for name, shape in now.items() if shape and was.get(name, shape) != shape]
    told += [f"{name} is new" for name in now if name not in was]
    told += [f"{name} is gone" for name in was if name not in now]
    return "; ".join(told[:_MOST_TOLD]) + (f"; and {len(told) - _MOST_TOLD} more" if len(told) > _MOST_TOLD else "")
