"""What is kept of a run that has ended, so that nobody reads all of it again: `digest.json` and `diagnosis.json` in its folder.

Both are made again where they are missing, damaged, of another version or of another state of the run; who deletes them loses
time and nothing else. In a folder that may not be written they are not kept.
"""

from __future__ import annotations

import functools
import json
import zlib
from pathlib import Path
from typing import Any

from weighbridge import __version__, diagnosis
from weighbridge.diagnosis.choice import choose
from weighbridge.errors import WeighbridgeError
from weighbridge.records import FORMAT_VERSION
from weighbridge.store.checked import read_sealed, write_sealed
from weighbridge.store.layout import DIAGNOSIS_FILE, DIGEST_FILE, attempts, rank_folder, ranks

LINE_VERSION = 2  # raise it when a line holds something else


def rules_key() -> str:
    """Changes with the rules' sources, the chosen rules and their limits."""
    try:
        chosen = repr(choose())
    except WeighbridgeError as error:  # a project's file that cannot be understood: whoever asks the rules says so
        chosen = str(error)
    return f"{__version__} {_sources()} {zlib.crc32(chosen.encode()):08x}"


@functools.cache
def _sources() -> str:
    check = 0
    for path in sorted(Path(diagnosis.__file__).parent.rglob("*.py")):
        check = zlib.crc32(path.read_bytes(), check)
    return f"{check:08x}"


def read_line(run: Path, stamp: int) -> dict[str, Any] | None:
    """The facts that were kept when the run's files were as they are now (`stamp`)."""
    line = _read(run / DIGEST_FILE, {"of": stamp, "version": f"{__version__} {LINE_VERSION}"})
    return None if line is None else line["line"]


def keep_line(run: Path, stamp: int, line: dict[str, Any]) -> None:
    """Keep the facts of a run that has ended."""
    _keep(run / DIGEST_FILE, {"of": stamp, "version": f"{__version__} {LINE_VERSION}", "line": line})


def read_diagnosis(run: Path, state: str, steps: int) -> dict[str, Any] | None:
    """What the rules as they are now said of the run as it is now."""
    kept = _read(run / DIAGNOSIS_FILE, {"of": _state(run, state, steps), "rules": rules_key()})
    return None if kept is None else kept["diagnosis"]


def keep_diagnosis(run: Path, state: str, steps: int, record: dict[str, Any]) -> None:
    """Keep what the rules said of a run that has ended."""
    _keep(run / DIAGNOSIS_FILE, {"of": _state(run, state, steps), "rules": rules_key(), "diagnosis": record})


def _state(run: Path, state: str, steps: int) -> list[Any]:
    """Other than file times, these survive compaction and copying."""
    return [state, steps, [attempts(rank_folder(run, rank)) for rank in ranks(run)]]


def _read(path: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    try:
        content = read_sealed(path)
    except (OSError, WeighbridgeError, json.JSONDecodeError):
        return None
    return content if all(content.get(name) == value for name, value in wanted.items()) else None


def _keep(path: Path, content: dict[str, Any]) -> None:
    try:
        write_sealed(path, {"format": FORMAT_VERSION, **content}, replace=True)
    except OSError:
        return  # a folder that may only be read, a full disk: it is read again next time
