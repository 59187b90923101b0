"""What the rules say of a run, asked in a process of their own (asking.py) and kept until the run has grown.

Rules read a run from its beginning, which may take a while; the page gets what was said last, and `pending` where more is
being asked. A run that grows is asked again when it is a fifth longer, or has ended; where rules beside the training tell what
they find (diagnosis/beside.py), that serves meanwhile, and it is asked when it is twice as long.

Who came last is answered first: it is what somebody looks at. What takes minutes holds up one process of two, and is given
up where others wait and nobody has asked for it of late (docs/decisions/0054-a-long-diagnosis-holds-nobody-up.md).
"""

from __future__ import annotations

import atexit
import math
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from weighbridge.diagnosis import Diagnosis, registry
from weighbridge.diagnosis.engine import diagnose
from weighbridge.diagnosis.kept import diagnosis_from_json, diagnosis_to_json, jsonable, told_of
from weighbridge.diagnosis.muted import set_aside
from weighbridge.server.asking import AT_ONCE, RULES, GivenUp
from weighbridge.server.digest import keep_diagnosis, read_diagnosis
from weighbridge.server.runs import Runs
from weighbridge.store.labels import shown_labels
from weighbridge.store.record import RunRecord
from weighbridge.store.status import LIVE

GROWN_BY: Final = 0.2
TOLD_GROWN_BY: Final = 1.0  # where its own rules have told something
KEPT_AT_MOST: Final = 64
LATER_AT_MOST: Final = 200
CLOSE_SECONDS: Final = 3.0
GONE_SECONDS: Final = 10.0  # since a page asked: then nobody waits for the answer (a page asks again every second)
REST: Final = 1.0  # times as long at rest as a run of the list took: the page's own questions go between


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
    """Asks the rules about runs, a few at a time."""

    def __init__(self, runs: Runs, tell: Callable[[str, Diagnosis], None] = lambda name, said: None) -> None:
        """`tell` is called, on the diagnoser's thread, with what was said of a run that has ended."""
        self._runs, self._tell = runs, tell
        self._said: OrderedDict[str, _Said] = OrderedDict()
        self._waiting: list[str] = []  # somebody looks at them; who came last, last
        self._looked: dict[str, float] = {}  # when somebody last asked about them, of those
        self._under_way: set[str] = set()
        self._later: list[str] = []  # of the list
        self._lock = threading.Condition()
        self._is_closed = False
        self._threads: list[threading.Thread] = []

    def ask(self, name: str, record: RunRecord) -> dict[str, Any]:
        """`known` as the page takes it. `pending`: ask again soon."""
        known = self.known(name, record)
        muted = shown_labels(record.path).muted
        return {"pending": known.is_pending, "error": known.error, **_as_json(known.diagnosis, muted)}

    def known(self, name: str, record: RunRecord) -> Known:
        """What is known now; asks for more where the run has grown or ended. Does not wait."""
        info = record.info
        has_told = record.whole("findings").num_rows > 0
        with self._lock:
            said = self._said[name] if name in self._said else _kept(record)
            self._remember(name, said)
            if _is_due(said, info.steps, info.state, has_told) and name not in self._waiting:
                self._waiting.append(name)
                self._start()
                self._lock.notify_all()
            is_pending = name in self._waiting
            if is_pending:
                self._looked[name] = time.monotonic()
                self._make_room(name)
        told = told_of(record, said.diagnosis)  # a run that is being recorded says more as it goes
        return Known(told if said.diagnosis is not None or told.findings else None, is_pending, said.error)

    def _make_room(self, name: str) -> None:
        """What nobody waits for any more is given up where it holds this one up."""
        if name in self._under_way or len(self._under_way) < AT_ONCE:
            return
        since = {one: self._looked.get(one, -math.inf) for one in self._under_way}
        oldest = min(since, key=since.__getitem__)
        if time.monotonic() - since[oldest] > GONE_SECONDS:
            RULES.give_up(self._runs.path(oldest))

    def _remember(self, name: str, said: _Said) -> None:
        self._said[name] = said
        self._said.move_to_end(name)
        while len(self._said) > KEPT_AT_MOST:
            self._said.popitem(last=False)

    def later(self, names: Sequence[str]) -> None:
        """When there is nothing else to do, ask about these, the first one first. Takes the place of what was wanted before."""
        with self._lock:
            self._later = [name for name in names if not self._is_hopeless(name)][:LATER_AT_MOST]
            if self._later:
                self._start()
                self._lock.notify_all()

    def _is_hopeless(self, name: str) -> bool:
        return name in self._said and bool(self._said[name].error)

    def keep(self, name: str, record: RunRecord) -> None:
        """Ask now, and wait for it, unless it was asked before and kept with the run: `ask` then has the answer."""
        info, found = record.info, answered(record)
        with self._lock:
            self._said[name] = _Said(info.steps, info.state, found)

    def wait(self, seconds: float) -> bool:
        """Until everything asked for is answered; for tests."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._waiting and not self._later, seconds)

    def _close(self) -> None:
        """The program ends: nothing is asked any more, and what is under way is given up."""
        with self._lock:
            self._is_closed = True
            self._lock.notify_all()
        RULES.close()
        for thread in self._threads:
            thread.join(CLOSE_SECONDS)

    def _start(self) -> None:
        if not self._threads:
            atexit.register(self._close)  # a thread inside a library of C++ must not outlive the interpreter
            for number in range(AT_ONCE):
                thread = threading.Thread(target=self._work, args=(number == 0,), name="weighbridge-diagnoser", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _next(self, also_later: bool) -> str | None:
        names = [*reversed(self._waiting), *(self._later if also_later else ())]
        return next((name for name in names if name not in self._under_way), None)

    def _work(self, also_later: bool) -> None:
        """also_later: what nobody waits for, too. One thread of them, so that another is free when somebody comes."""
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._is_closed or self._next(also_later) is not None)
                name = self._next(also_later)
                if self._is_closed or name is None:
                    return
                is_awaited = name in self._waiting
                self._under_way.add(name)
            began = time.monotonic()
            said = self._asked(name)
            with self._lock:
                self._under_way.discard(name)
                if said is not None:
                    self._remember(name, said)
                self._waiting = [one for one in self._waiting if one != name]
                self._later = [one for one in self._later if one != name]
                self._looked.pop(name, None)
                self._lock.notify_all()
                if not is_awaited:  # unless somebody comes meanwhile
                    self._lock.wait_for(lambda: bool(self._waiting or self._is_closed), REST * (time.monotonic() - began))

    def _asked(self, name: str) -> _Said | None:
        """What was said; None where it was given up."""
        try:
            record = RunRecord(self._runs.path(name))  # its own: the page's questions do not wait for this one
            said = _kept(record)
            if said.diagnosis is None:
                said = _Said(*RULES.ask(record.path))
                self._has_said(name, record, said)
            elif said.state != LIVE:
                self._tell(name, told_of(record, said.diagnosis))
            return said
        except GivenUp:
            return None
        except Exception as error:  # the sentence takes the panel's place; a damaged run must not end the thread
            return _Said(sys.maxsize, "", None, self._runs.told(error) or type(error).__name__)

    def _has_said(self, name: str, record: RunRecord, said: _Said) -> None:
        if said.state != LIVE and said.diagnosis is not None and record.info.steps == said.steps:
            if self._runs.keeps:
                keep_diagnosis(record.path, said.state, said.steps, diagnosis_to_json(said.diagnosis))
            self._tell(name, told_of(record, said.diagnosis))


def answered(record: RunRecord) -> Diagnosis:
    """What the rules say of a run: kept with it where they were asked when it had ended, else they are asked now."""
    kept = _kept(record).diagnosis
    return kept if kept is not None else diagnose(record)


def _kept(record: RunRecord) -> _Said:
    """What was said when it had ended, by this server or another one."""
    info = record.info
    told = None if info.state == LIVE else read_diagnosis(record.path, info.state, info.steps)
    return _Said() if told is None else _Said(info.steps, info.state, diagnosis_from_json(told, str(record.path)))


def _is_due(said: _Said, steps: int, state: str, has_told: bool) -> bool:
    if said.error:
        return False
    grown_by = TOLD_GROWN_BY if has_told and state == "live" else GROWN_BY
    return said.steps < 0 or steps > said.steps * (1 + grown_by) or (state != said.state and state != "live")


def _as_json(diagnosis: Diagnosis | None, muted: Iterable[tuple[str, str]]) -> dict[str, Any]:
    if diagnosis is None:
        return {"known": False, "findings": [], "muted": [], "causes": [], "rules": [], "steps": 0}
    record = {"muted": [], **set_aside(diagnosis, muted)[0].record()}
    titles = {rule.id: rule.title for rule in registry.rules()}
    for finding in (*record["findings"], *record["muted"]):
        finding["title"] = titles.get(finding["rule"], finding["rule"])
    for answer in record["rules"]:
        answer["title"] = titles.get(answer["rule"], answer["rule"])
    return {"known": True, **jsonable(record)}
