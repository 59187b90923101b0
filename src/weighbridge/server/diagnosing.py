"""What the rules say of a run, asked on a thread of its own and kept until the run has grown.

Rules read a run from its beginning, which may take a while; the page gets what was said last, and `pending` where more is
being asked. A run that grows is asked again when it is a fifth longer, or has ended; where rules beside the training tell what
they find (diagnosis/beside.py), that serves meanwhile, and it is asked when it is twice as long.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from weighbridge.diagnosis import Diagnosis, registry
from weighbridge.diagnosis.engine import diagnose
from weighbridge.diagnosis.kept import jsonable, told_of
from weighbridge.server.runs import Runs
from weighbridge.store.record import RunRecord

GROWN_BY: Final = 0.2
TOLD_GROWN_BY: Final = 1.0  # where its own rules have told something
KEPT_AT_MOST: Final = 64
_NICE: Final = 10


@dataclass(frozen=True, slots=True)
class Known:
    """What is known about one run now."""

    diagnosis: Diagnosis | None  # None: nothing yet
    is_pending: bool  # more is being asked
    error: str


@dataclass(frozen=True, slots=True)
class _Said:
    """The last answer about one run."""

    steps: int = -1  # that the run had when it was asked
    state: str = ""
    diagnosis: Diagnosis | None = None
    error: str = ""


class Diagnoser:
    """Asks the rules about runs, one run at a time."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._said: OrderedDict[str, _Said] = OrderedDict()
        self._waiting: list[str] = []
        self._lock = threading.Condition()
        self._thread: threading.Thread | None = None

    def ask(self, name: str, record: RunRecord) -> dict[str, Any]:
        """`known` as the page takes it. `pending`: ask again soon."""
        known = self.known(name, record)
        return {"pending": known.is_pending, "error": known.error, **_as_json(known.diagnosis)}

    def known(self, name: str, record: RunRecord) -> Known:
        """What is known now; asks for more where the run has grown or ended. Does not wait."""
        info = record.info
        has_told = record.whole("findings").num_rows > 0
        with self._lock:
            said = self._said.setdefault(name, _Said())
            self._said.move_to_end(name)
            while len(self._said) > KEPT_AT_MOST:
                self._said.popitem(last=False)
            if _is_due(said, info.steps, info.state, has_told) and name not in self._waiting:
                self._waiting.append(name)
                self._start()
                self._lock.notify_all()
            is_pending = name in self._waiting
        told = told_of(record, said.diagnosis)  # a run that is being recorded says more as it goes
        return Known(told if said.diagnosis is not None or told.findings else None, is_pending, said.error)

    def keep(self, name: str, record: RunRecord) -> None:
        """Ask now, and wait for it: `ask` then has the answer."""
        info = record.info
        with self._lock:
            self._said[name] = _Said(info.steps, info.state, diagnose(record))

    def wait(self, seconds: float) -> bool:
        """Until everything asked for is answered; for tests."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._waiting, seconds)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="weighbridge-diagnoser", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        if sys.platform == "linux":  # where priority is the thread's own
            import os

            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while True:
            with self._lock:
                self._lock.wait_for(lambda: bool(self._waiting))
                name = self._waiting[0]
            said = self._asked(name)
            with self._lock:
                self._said[name] = said
                self._waiting.remove(name)
                self._lock.notify_all()

    def _asked(self, name: str) -> _Said:
        try:
            path: Path = self._runs.path(name)
            record = RunRecord(path)  # its own: the page's questions do not wait for this one
            info = record.info
            return _Said(info.steps, info.state, diagnose(record))
        except Exception as error:  # the sentence takes the panel's place; a damaged run must not end the thread
            return _Said(sys.maxsize, "", None, str(error) or type(error).__name__)


def _is_due(said: _Said, steps: int, state: str, has_told: bool) -> bool:
    if said.error:
        return False
    grown_by = TOLD_GROWN_BY if has_told and state == "live" else GROWN_BY
    return said.steps < 0 or steps > said.steps * (1 + grown_by) or (state != said.state and state != "live")


def _as_json(diagnosis: Diagnosis | None) -> dict[str, Any]:
    if diagnosis is None:
        return {"known": False, "findings": [], "causes": [], "rules": [], "steps": 0}
    record = diagnosis.record()
    titles = {rule.id: rule.title for rule in registry.rules()}
    for finding in record["findings"]:
        finding["title"] = titles.get(finding["rule"], finding["rule"])
    for answer in record["rules"]:
        answer["title"] = titles.get(answer["rule"], answer["rule"])
    return {"known": True, **jsonable(record)}
