"""Runs that were deleted and can still be had back: moved aside at once, removed later.

    runs/.weighbridge-deleted/1764158400000-3f2a/relu/     deleted at this millisecond
    runs/.weighbridge-deleted/gone-1764158400000-3f2a/     being removed

A move inside one folder is one step of the file system: a run is whole in the one place or in the other. Whoever comes by after
the time is over removes what is left, so a server that ends meanwhile leaves no run for ever.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from weighbridge.errors import BadInput, NotARun, WeighbridgeError
from weighbridge.store import layout
from weighbridge.store.record import RunRecord
from weighbridge.store.status import LIVE

TRASH: Final = ".weighbridge-deleted"
UNDO_SECONDS: Final = 30.0
GRACE_SECONDS: Final = 5.0  # for the way from the page to here
_TOKEN: Final = re.compile(r"(\d{13})-[0-9a-f]{8}")


def delete_runs(root: Path, names: Sequence[str]) -> str:
    """Move these runs of a folder aside; what comes back brings them back (`restore`). All of them or none.

    Raises WeighbridgeError for a run that is live, and where the folder may not be written.
    """
    for name in names:
        _refuse_live(root / name)
    token = f"{int(time.time() * 1000):013d}-{secrets.token_hex(4)}"
    place, moved = root / TRASH / token, list[str]()
    try:
        place.mkdir(parents=True)
        for name in names:
            os.rename(root / name, place / name)
            moved.append(name)
            _refuse_live(place / name)  # a training may have begun to write again just before it was moved
    except (OSError, WeighbridgeError) as error:
        for name in moved:
            os.rename(place / name, root / name)
        with contextlib.suppress(OSError):
            place.rmdir()
        if isinstance(error, OSError):
            raise WeighbridgeError(f"Nothing was deleted: {root} may not be changed ({error.strerror}).") from error
        raise
    return token


def restore(root: Path, token: str) -> list[str]:
    """Bring back what was deleted together; a name that is taken meanwhile gets -2. Raises NotARun when it is too late."""
    if not _TOKEN.fullmatch(token):
        raise BadInput(f"{token!r} is no deletion of this page.")
    place, names = root / TRASH / token, list[str]()
    for name in layout.run_names(place):
        names.append(_move_back(place / name, root, name))
    if not names:
        raise NotARun("It is too late: these runs are removed already.")
    with contextlib.suppress(OSError):
        place.rmdir()
        place.parent.rmdir()
    return names


def sweep(root: Path, seconds: float = UNDO_SECONDS + GRACE_SECONDS) -> int:
    """Remove what was deleted so long ago. Gives the number of deletions that went. May take a while for large runs."""
    trash, done = root / TRASH, 0
    try:
        found = os.listdir(trash)
    except OSError:
        return 0
    for name in found:
        match = _TOKEN.fullmatch(name)
        if match is not None and time.time() - int(match[1]) / 1000 < seconds:
            continue
        if match is None and not name.startswith("gone-"):
            continue  # not ours
        with contextlib.suppress(OSError):  # somebody else removes it, or brings it back
            gone = trash / (name if match is None else f"gone-{name}")
            os.rename(trash / name, gone)
            shutil.rmtree(gone, ignore_errors=True)
            done += 1
    with contextlib.suppress(OSError):
        trash.rmdir()
    return done


def _refuse_live(run: Path) -> None:
    record = RunRecord(run)
    states = [state for _, state, _ in record.rank_states()]
    if LIVE in (record.info.state, *states):
        raise WeighbridgeError(
            f"{run.name} is live: end its training first. (A training on another machine is taken for live until ten minutes "
            "after its last word.)"
        )


def _move_back(run: Path, root: Path, name: str) -> str:
    number = 1
    while (root / (free := name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    os.rename(run, root / free)
    return free
