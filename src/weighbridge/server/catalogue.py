"""What is known of all runs of a folder, without opening those that have not changed.

A look at the folder costs two questions to the file system a run. A run that has ended is read once in its life (digest.py
keeps its line); those that are live are read again at each look. What a look may not finish in its time, the next one goes on
with, the newest runs first: a folder of ten thousand runs that nobody has seen yet is listed at once, by their names.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from weighbridge.diagnosis.kept import diagnosis_from_json, told_of
from weighbridge.diagnosis.muted import set_aside
from weighbridge.diagnosis.rule import Diagnosis
from weighbridge.errors import WeighbridgeError
from weighbridge.server.digest import read_diagnosis, rules_key
from weighbridge.server.lines import health_of, line_of, told_health, top_of
from weighbridge.server.runs import Runs
from weighbridge.store.digest import changed_at, keep_line, read_line
from weighbridge.store.labels import Labels, read_labels, shown_labels
from weighbridge.store.record import RunRecord, open_run
from weighbridge.store.status import LIVE

LOOK_SECONDS: Final = 0.4  # of one look at runs that are new or have changed
LIVE_SECONDS: Final = 0.5  # a live run is read again no more often
OPEN_AT_MOST: Final = 16  # live runs that are kept open
ASKED_BYTES: Final = 256 * 2**20  # the rules read no larger run before somebody opens it
UNREAD, UNREADABLE = "unread", "unreadable"
NOTHING: Final = health_of(None)


@dataclass(slots=True)
class Entry:
    """One run."""

    name: str
    place: str = ""  # its folder
    stamp: tuple[int, int] = (0, 0)
    state: str = UNREAD
    read_at: float = 0.0
    line: dict[str, Any] = field(default_factory=dict)
    born: dict[str, Any] = field(default_factory=dict)  # what labels there are without the file
    labels: Labels = field(default_factory=Labels)
    health: dict[str, Any] = field(default_factory=lambda: NOTHING)
    top: float | None = None
    error: str = ""

    @property
    def started(self) -> str:
        return str(self.line.get("started", ""))


class Catalogue:
    """Asked by any thread."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._entries: dict[str, Entry] = {}
        self._due: list[str] = []
        self._live: dict[str, RunRecord] = {}
        self._lock = threading.RLock()
        self._key = rules_key()

    def look(self, seconds: float = LOOK_SECONDS) -> list[Entry]:
        """All runs as far as they are known; spends about so long on reading those that are new or have changed."""
        with self._lock:
            self._key = rules_key()
            self._list()
            end = time.monotonic() + seconds
            while self._due and time.monotonic() < end:
                self._read(self._due.pop())
            return list(self._entries.values())

    def of(self, names: Sequence[str]) -> list[Entry]:
        """These runs, read now where they are not known yet; those that are gone are left out."""
        with self._lock:
            if any(name not in self._entries for name in names):
                self._list()
            for name in names:
                entry = self._entries.get(name)
                if entry is not None and (entry.state == UNREAD or self._is_due(entry)):
                    self._read(name)
            return [self._entries[name] for name in names if name in self._entries]

    @property
    def unread(self) -> int:
        """How many are known by name only."""
        return sum(entry.state == UNREAD for entry in self._entries.values())

    def undiagnosed(self, first: Iterable[str], most: int) -> list[str]:
        """Runs that have ended and of which not all is said yet: these first, then the newest. Large ones wait to be opened."""
        with self._lock:
            due = {name for name, entry in self._entries.items() if _is_to_ask(entry)}
            newest = sorted(due, key=lambda name: self._entries[name].started, reverse=True)
            return list(dict.fromkeys([name for name in first if name in due] + newest[:most]))

    def diagnosed(self, name: str, said: Diagnosis) -> None:
        """The rules have answered."""
        with self._lock:
            entry = self._entries.get(name)
            if entry is not None:
                entry.health = health_of(_loud(said, entry.labels), is_whole=True)
                self._keep(entry)
                entry.stamp = changed_at(self._runs.place(name))

    # ---- what has changed ----

    def _list(self) -> None:
        names = self._runs.names()
        for gone in self._entries.keys() - set(names):
            del self._entries[gone]
            self._live.pop(gone, None)
        found = []
        for name in names:
            entry = self._entries.get(name)
            if entry is None:  # ten thousand are looked at every other second: nothing is made anew for those that are known
                entry = self._entries[name] = Entry(name, os.fspath(self._runs.place(name)))
            stamp = changed_at(entry.place)
            if stamp != entry.stamp or self._is_due(entry):
                entry.stamp = stamp
                found.append((stamp[1], name))
        self._due = [name for _, name in sorted(found)]  # the newest last: it is taken first

    def _is_due(self, entry: Entry) -> bool:
        return entry.state == UNREAD or (entry.state == LIVE and time.monotonic() - entry.read_at >= LIVE_SECONDS)

    # ---- one run ----

    def _read(self, name: str) -> None:
        entry = self._entries[name]
        path = self._runs.place(name)
        entry.read_at, entry.error = time.monotonic(), ""
        try:
            stamp = changed_at(path)[1]
            kept = read_line(path, stamp) if name not in self._live else None
            if kept is not None and kept.get("muted", []) == _keys(shown_labels(path)):
                entry.line = kept["line"]
                entry.health = kept["health"] if kept["rules"] == self._key else NOTHING
                entry.born = kept["born"]
                entry.labels = read_labels(path, entry.born)
            else:
                self._read_all(entry, path, stamp)
            entry.state, entry.top = entry.line["state"], top_of(entry.line["loss"])
        except WeighbridgeError as error:
            self._fail(entry, self._runs.told(error))
        except OSError as error:
            self._fail(entry, f"It cannot be read: {self._runs.told(error)}")
        entry.stamp = changed_at(path)

    def _read_all(self, entry: Entry, path: Path, stamp: int) -> None:
        record = self._live.pop(entry.name, None) or open_run(path)
        entry.line, entry.labels = line_of(entry.name, record), read_labels(path, record.about)
        state, steps = entry.line["state"], entry.line["steps"]
        told = read_diagnosis(path, state, steps) if state != LIVE else None
        asked = None if told is None else diagnosis_from_json(told, str(path))
        entry.health = (
            told_health(record, entry.labels)
            if asked is None
            else health_of(_loud(told_of(record, asked), entry.labels), is_whole=True)
        )
        entry.born = {"tags": record.about.get("tags")}
        if state == LIVE:
            self._live[entry.name] = record
            while len(self._live) > OPEN_AT_MOST:
                del self._live[next(iter(self._live))]
        else:
            self._keep(entry)

    def _keep(self, entry: Entry) -> None:
        if self._runs.keeps and entry.line and entry.line["state"] != LIVE:
            path = self._runs.place(entry.name)
            kept = {"line": entry.line, "health": entry.health, "born": entry.born, "rules": self._key}
            kept["muted"] = _keys(entry.labels)
            keep_line(path, changed_at(path)[1], kept)

    def _fail(self, entry: Entry, sentence: str) -> None:
        entry.state, entry.error, entry.health = UNREADABLE, sentence, NOTHING
        self._live.pop(entry.name, None)


def _keys(labels: Labels) -> list[str]:
    return [key for key, _ in labels.muted]


def _loud(diagnosis: Diagnosis, labels: Labels) -> Diagnosis:
    """What nobody has muted."""
    return set_aside(diagnosis, labels.muted)[0]


def _is_to_ask(entry: Entry) -> bool:
    has_ended = entry.state not in (LIVE, UNREAD, UNREADABLE)
    return has_ended and not entry.health["whole"] and entry.line["size_bytes"] <= ASKED_BYTES
