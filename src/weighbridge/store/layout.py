"""Where things are: the folders of a run, and who is writing them.

runs/first/run.json                     made once, by `create_run`
runs/first/rank-0/attempt-0.json        made by each writer: which process it is
runs/first/rank-0/rows-0001.arrows      an open or closed segment (store/segment.py)
runs/first/rank-0/rows-0001.flushes     its sidecar
runs/first/rank-0/rows-0002/            a compacted unit (store/compact.py)
runs/first/rank-0/finish.json           the writer ended in an orderly way
runs/first/labels.json                  tags, a note, put away or not (store/labels.py)
runs/first/digest.json, diagnosis.json  kept by the page; made again at any time (store/digest.py, server/digest.py)
"""

from __future__ import annotations

import functools
import json
import os
import platform
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from weighbridge.errors import WeighbridgeError
from weighbridge.records import FORMAT_VERSION
from weighbridge.store.checked import write_sealed
from weighbridge.store.names import new_name

RUN_FILE: Final = "run.json"
FINISH_FILE: Final = "finish.json"
DIGEST_FILE: Final = "digest.json"
DIAGNOSIS_FILE: Final = "diagnosis.json"
_RANK = re.compile(r"rank-(\d+)")
_ATTEMPT = re.compile(r"attempt-(\d+)\.json")
_FORBIDDEN = re.compile(r"[\x00-\x1f/\\:*?\"<>|]+")


def create_run(dir: Path, name: str | None, info: Mapping[str, Any]) -> Path:
    """Make a new run's folder below `dir` and return it; an existing name gets -2, -3. Without
    a name: date, time and two words.

    `info` is any JSON content (config, versions, command line); it stands in run.json under "info".
    Raises WeighbridgeError where the folder cannot be made.
    """
    wanted = clean_name(name) if name else new_name()
    try:
        path = _new_folder(Path(dir), wanted)
        content = {"format": FORMAT_VERSION, "name": path.name, **asdict(this_process())}
        write_sealed(path / RUN_FILE, {**content, "info": plain(info)})
    except OSError as problem:
        raise WeighbridgeError(
            f"Cannot make a run below {dir}: {problem.strerror or problem}. "
            "Give a folder that can be written, e.g. weighbridge.init(dir='some-folder')."
        ) from problem
    return path


def clean_name(name: str) -> str:
    """A name that is a folder's name on every system."""
    return _FORBIDDEN.sub("-", name).strip(" .")[:120] or "run"


def plain(value: Any) -> Any:
    """The value as JSON can hold it: what it cannot is written as text."""
    return json.loads(json.dumps(value, default=str, skipkeys=True))


def _new_folder(parent: Path, name: str) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = parent / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir()
            return path
        except FileExistsError:
            number += 1


def is_run(path: Path) -> bool:
    """Is this folder a run?"""
    return (path / RUN_FILE).is_file()


def find_runs(dir: Path) -> list[Path]:
    """All runs directly below a folder (or the folder itself), by name."""
    return [dir] if is_run(dir) else [dir / name for name in run_names(dir)]


def run_names(dir: Path) -> list[str]:
    """Names of the runs directly below a folder, in order. One question to the file system each: there may be thousands."""
    place = os.fspath(dir)
    try:
        return sorted(name for name in os.listdir(place) if os.path.isfile(f"{place}/{name}/{RUN_FILE}"))
    except OSError:
        return []


def rank_folder(run: Path, rank: int) -> Path:
    return run / f"rank-{rank}"


def ranks(run: Path) -> list[int]:
    """The ranks that have a folder, in order."""
    return sorted(int(match[1]) for path in run.iterdir() if (match := _RANK.fullmatch(path.name)))


def attempts(folder: Path) -> list[int]:
    """The attempts that wrote into a rank's folder, in order."""
    if not folder.is_dir():
        return []
    return sorted(int(match[1]) for path in folder.iterdir() if (match := _ATTEMPT.fullmatch(path.name)))


def attempt_file(folder: Path, attempt: int) -> Path:
    return folder / f"attempt-{attempt}.json"


def unit_name(table: str, number: int) -> str:
    """ "rows-0001": the stem of a segment's two files, and the folder that takes their place."""
    return f"{table}-{number:04d}"


@dataclass(frozen=True, slots=True)
class Process:
    """Which process writes: enough to tell later whether it still lives."""

    pid: int
    process_start: str  # in the kernel's clock ticks since boot; empty where it is not known
    host: str
    boot: str  # changes with every start of the machine, and with every container
    started_ns: int  # wall clock

    def lives(self) -> bool | None:
        """Does it still run? None = on another machine, not to be known from here."""
        here = this_process()
        if (self.host, self.boot) != (here.host, here.boot):
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return not self.process_start or self.process_start == _process_start(self.pid)


def this_process() -> Process:
    pid = os.getpid()
    return Process(pid, _process_start(pid), platform.node(), _boot(), time.time_ns())


def process_of(content: Mapping[str, Any]) -> Process:
    return Process(**{name: content[name] for name in Process.__slots__})


def _process_start(pid: int) -> str:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]  # a zombie is dead: its start never matches


@functools.cache
def _boot() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
