"""The runs that the server has open: found by name below one folder, at most a few at a time."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from weighbridge.errors import NotARun, nearest
from weighbridge.store.layout import is_run, run_names
from weighbridge.store.record import RunRecord, open_run

OPEN_AT_MOST: Final = 16
REFRESH_SECONDS: Final = 0.2  # all who watch one run share one look at its files


class _Open:
    """One open run. A record is used by one thread at a time."""

    def __init__(self, record: RunRecord) -> None:
        self.record = record
        self.lock = threading.Lock()
        self.looked = time.monotonic()


class Runs:
    """Names to runs. A name is the run's path below the folder; a folder that is itself a run has its own name."""

    def __init__(self, root: Path, keeps: bool = False) -> None:
        """`keeps`: what was found out about a run that has ended may be kept in its folder (digest.py)."""
        self.root, self.keeps = root, keeps
        self._own_name: str | None = None  # of a folder that is itself a run
        self._open: OrderedDict[tuple[str, int | None, int | None], _Open] = OrderedDict()  # by name, rank and attempt
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """All runs of the folder. Looks at the disk; may block."""
        self._own_name = self.root.resolve().name if is_run(self.root) else None
        if self._own_name is not None:
            return [self._own_name]
        return run_names(self.root)

    def path(self, name: str) -> Path:
        """Where the run of this name lies. Raises NotARun; never leaves the folder."""
        found = self.find(name)
        if found is None:
            raise NotARun(
                f"There is no run {name!r} in {self.root}.{nearest(name, self.names())} All runs: weighbridge ls {self.root}"
            )
        return found

    def find(self, name: str) -> Path | None:
        """The same, or None."""
        if is_run(self.root) and name == self.root.resolve().name:
            return self.root
        is_below = name and not Path(name).is_absolute() and ".." not in Path(name).parts and "\0" not in name
        return self.root / name if is_below and is_run(self.root / name) else None

    def place(self, name: str) -> Path:
        """The same of a name that `names` gave; asks nobody."""
        return self.root if self._own_name == name else self.root / name

    def told(self, error: Exception) -> str:
        """What an error says, with files by their run's name and their place in it: where the folder lies on the server is
        nothing that a reader of the page needs."""
        text = str(error)
        for root in dict.fromkeys((self.root.resolve(), self.root)):  # the longer one first
            text = text.replace(f"{root.parent if is_run(root) else root}{os.sep}", "")
        return text

    def open_names(self) -> list[str]:
        """Those that somebody looks at, or did of late."""
        with self._lock:
            return list(dict.fromkeys(name for name, *_ in self._open))

    def close(self, name: str) -> None:
        """Nobody may look at it any more."""
        with self._lock:
            for key in [key for key in self._open if key[0] == name]:
                del self._open[key]

    @contextmanager
    def use(self, name: str, rank: int | None = None, attempt: int | None = None) -> Iterator[RunRecord]:
        """The open run (all ranks as one, or one of them; as it is, or as an earlier attempt left it), for this thread alone
        while the block lasts. Raises WeighbridgeError; blocks."""
        path, key = self.path(name), (name, rank, attempt)
        with self._lock:
            entry = self._open.get(key)
            if entry is not None:
                self._open.move_to_end(key)
        if entry is None:
            opened = _Open(open_run(path, rank, attempt))
            with self._lock:
                entry = self._open.setdefault(key, opened)
                while len(self._open) > OPEN_AT_MOST:
                    self._open.popitem(last=False)
        with entry.lock:
            now = time.monotonic()
            if now - entry.looked >= REFRESH_SECONDS:
                entry.record.refresh()
                entry.looked = now
            yield entry.record


class SomeRuns(Runs):
    """Chosen runs, wherever they lie. Runs of one name are told apart by the folders above them."""

    def __init__(self, places: Sequence[Path]) -> None:
        self._places = _named([place.resolve() for place in places])
        super().__init__(next(iter(self._places.values())).parent)

    def names(self) -> list[str]:
        """In the order in which they were given."""
        return list(self._places)

    def path(self, name: str) -> Path:
        """Where the run of this name lies. Raises NotARun."""
        if name not in self._places or not is_run(self._places[name]):
            raise NotARun(f"There is no run {name!r} here.{nearest(name, self.names())}")
        return self._places[name]

    def place(self, name: str) -> Path:
        """The same of a name that `names` gave."""
        return self._places[name]


def _named(places: Sequence[Path]) -> dict[str, Path]:
    """By as few of the last parts of their paths as tell them apart."""
    different = list(dict.fromkeys(places))
    for parts in range(1, max(len(place.parts) for place in different)):
        names = ["/".join(place.parts[-parts:]) for place in different]
        if len(set(names)) == len(names):
            return dict(zip(names, different, strict=True))
    return {str(place): place for place in different}
