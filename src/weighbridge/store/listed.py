"""The runs of a folder, the newest first, without opening more of them than are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weighbridge.errors import WeighbridgeError
from weighbridge.store.digest import kept_info
from weighbridge.store.layout import find_runs
from weighbridge.store.status import require_run
from weighbridge.store.views import RunInfo

Wanted = Callable[[Path, dict[str, Any]], bool]  # of a run's folder and of what run.json says of it


@dataclass(frozen=True, slots=True)
class Listed:
    """A folder's runs."""

    runs: list[RunInfo]  # the newest first
    unreadable: list[tuple[Path, str]]  # with the reason
    older: int = 0  # more of them, which were not looked at
    unwanted: int = 0  # left out


def by_age(dir: Path) -> tuple[list[tuple[Path, dict[str, Any]]], list[tuple[Path, str]]]:
    """All runs with what run.json says, the newest first; and those whose run.json cannot be read. One small file each."""
    found, broken = [], []
    for path in find_runs(dir):
        try:
            found.append((path, require_run(path)))
        except WeighbridgeError as error:
            broken.append((path, str(error)))
        except FileNotFoundError:
            continue  # deleted meanwhile
    return sorted(found, key=lambda one: one[1]["started_ns"], reverse=True), broken


def listed(dir: Path, most: int | None = None, wanted: Wanted | None = None) -> Listed:
    """At most so many runs of a folder, of those that are wanted. Of one that has ended and was read before, its kept line."""
    from weighbridge.store.record import RunRecord

    inorder, unreadable = by_age(dir)
    fit = [(path, said) for path, said in inorder if wanted is None or wanted(path, said)]
    runs: list[RunInfo] = []
    for place, (path, _) in enumerate(fit):
        if most is not None and len(runs) == most:
            return Listed(runs, unreadable, len(fit) - place, len(inorder) - len(fit))
        try:
            runs.append(kept_info(path) or RunRecord(path).info)
        except WeighbridgeError as error:
            unreadable.append((path, str(error)))
        except FileNotFoundError:
            continue  # deleted meanwhile
    return Listed(runs, unreadable, 0, len(inorder) - len(fit))
