"""What the rules said of a run that has ended, kept in its folder so that nobody asks them again: `diagnosis.json`.

Made again as `digest.json` is (store/digest.py), and where the rules are others.
"""

from __future__ import annotations

import functools
import zlib
from pathlib import Path
from typing import Any

from weighbridge import __version__, diagnosis
from weighbridge.diagnosis.choice import choose
from weighbridge.errors import WeighbridgeError
from weighbridge.store.digest import read_kept, write_kept
from weighbridge.store.layout import DIAGNOSIS_FILE, attempts, rank_folder, ranks


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


def read_diagnosis(run: Path, state: str, steps: int) -> dict[str, Any] | None:
    """What the rules as they are now said of the run as it is now."""
    kept = read_kept(run / DIAGNOSIS_FILE, {"of": _state(run, state, steps), "rules": rules_key()})
    return None if kept is None else kept["diagnosis"]


def keep_diagnosis(run: Path, state: str, steps: int, record: dict[str, Any]) -> None:
    """Keep what the rules said of a run that has ended."""
    write_kept(run / DIAGNOSIS_FILE, {"of": _state(run, state, steps), "rules": rules_key(), "diagnosis": record})


def _state(run: Path, state: str, steps: int) -> list[Any]:
    """Other than file times, these survive compaction and copying."""
    return [state, steps, [attempts(rank_folder(run, rank)) for rank in ranks(run)]]
