"""The rules beside a training: one thread of its process that reads what the writer has written.

The training never waits for it. It wakes seldom, and only where something came; it spends no more than SHARE of
the time (after a first allowance, so that a short run is judged at once), and where the rules need longer than that, the
diagnosis lags behind. What waits for it is bounded, in memory and on disk; past the bound it gives up, says so, and what it
found stays.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import pyarrow as pa

from weighbridge.diagnosis.arriving import Arriving
from weighbridge.diagnosis.causes import nearest_cause
from weighbridge.diagnosis.earlier import Earlier
from weighbridge.diagnosis.engine import Engine
from weighbridge.diagnosis.rule import Diagnosis, Finding, Rule
from weighbridge.diagnosis.waiting import NoRoom, Waiting
from weighbridge.records import ROWS, SHARD

PERIOD_SECONDS: Final = 0.75  # between two looks: with the flush of 0.25 s a finding is on the screen within 2 s of its row
HOLD_SECONDS: Final = 0.4  # without news: then the last step is taken for complete
SHARE: Final = 0.007  # of the time
ALLOWANCE_SECONDS: Final = 0.25  # of processor time before the share counts
LOOK_SECONDS: Final = 0.03  # of processor time in one go: the training waits for the interpreter meanwhile
MOST_STEPS: Final = 4_096  # of one look
CATCH_UP_SECONDS: Final = 5.0  # at the end of the run
_NOT_READ: Final = ("values", "findings")
BEFORE_SECONDS: Final = 30.0  # for the steps of earlier attempts, while the training is set up
WHOLE: Final = "What is recorded is complete: weighbridge diagnose reads all of it"
TOO_FAR: Final = f"the rules are too far behind this training and no longer run beside it. {WHOLE}"
TOO_LONG: Final = f"the earlier steps of this run are too many to be read first, and no rule runs beside this training. {WHOLE}"
NO_DISK: Final = "the rules are behind this training, and what waits for them could not be kept in the run's folder"
SHARDS: Final = (
    "each rank holds only parts of the parameters: the rules do not run beside this training. Afterwards: weighbridge diagnose"
)


class Marks(Protocol):
    """How far everything written is complete (capture/marks.py)."""

    @property
    def below(self) -> int: ...
    @property
    def likely_below(self) -> int: ...


class Listener(Protocol):
    """Who is told, on the thread of the rules."""

    def found(self, finding: Finding, follows_from: str) -> None:
        """follows_from: the key of the finding that explains it; empty where none does."""

    def say(self, message: str) -> None:
        """Something about the diagnosis itself."""


class Beside:
    """Reads a run while it is written. `add` is called by the writer's thread, `start` and `close` by the training's."""

    def __init__(self, listener: Listener, folder: Path | None = None) -> None:
        """folder: where there is room on disk for what waits; None: as the system has it."""
        self.listener = listener
        self.diagnosis: Diagnosis | None = None  # all of it, once the run has ended and everything was looked at
        self.gave_up = ""  # why no rule reads any more
        self._waiting: Waiting[Marks] = Waiting(folder)
        self._columns = [name for name in ROWS.names if name != "hist"]
        self._last_news = self._last_look = 0.0
        self._news = threading.Condition()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._rules: Callable[[], Sequence[type[Rule]]] = lambda: ()
        self._earlier: Earlier | None = None
        self._is_ready = threading.Event()
        self._deadline = float("inf")
        self._below = self._likely_below = 0
        self._at_once = 64  # steps of one look
        self.seconds = 0.0  # of processor time, the start left out

    # ---- from other threads --------------------------------------------------------------------------------------

    def add(self, batches: Mapping[str, pa.RecordBatch], marks: Marks) -> None:
        """What was just written. Never blocks."""
        if self.gave_up:
            return
        needed = {name: batch for name, batch in batches.items() if name not in _NOT_READ}
        if "rows" in needed:
            rows = needed["rows"].select(self._columns)
            every = pa.array(np.arange(rows.num_rows))
            needed["rows"] = rows.take(every)  # a copy: else each would keep the recorder's whole block
        with self._news:
            try:
                self._waiting.put(needed, marks)
            except (NoRoom, OSError) as error:
                self.gave_up = TOO_FAR if isinstance(error, NoRoom) else f"{NO_DISK} ({error}). {WHOLE}"
                self._waiting.clear()
            self._last_news = time.monotonic()
            self._news.notify()

    def start(self, rules: Callable[[], Sequence[type[Rule]]], earlier: Earlier | None = None) -> None:
        """Begin. rules: called on the thread; may take its time.

        earlier: what the run recorded before, where it goes on. The rules read it first, and this waits for them: they judge
        by how a training began, and later they would be in its way.
        """
        if self._thread is None:
            self._rules, self._earlier = rules, earlier
            self._thread = threading.Thread(target=self._work, name="weighbridge-rules", daemon=True)
            self._thread.start()
            if earlier is not None:
                self._is_ready.wait(2 * BEFORE_SECONDS)

    @property
    def is_running(self) -> bool:
        """Was it started, and not yet closed?"""
        return self._thread is not None and not self._closing.is_set()

    def close(self, subject: str, seconds: float = CATCH_UP_SECONDS) -> None:
        """Everything was written: look at what is left, for so long at most, and end the thread."""
        thread = self._thread
        if thread is None or self._closing.is_set():
            return
        self._subject, self._deadline = subject, time.monotonic() + seconds
        with self._news:
            self._closing.set()
            self._news.notify()
        if thread is not threading.current_thread():
            thread.join(seconds + 1.0)

    # ---- on the thread -------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._engine = Engine(self._rules())
            self._arriving = Arriving(self._engine.needs)
            self._columns = sorted(self._arriving.columns)
            self._failed: set[str] = set()
            if self._earlier is not None:
                self._read_earlier(self._earlier)
            self._is_ready.set()
            self._began = time.monotonic()
            while self._wait():
                self._look()
            if not self.gave_up:
                self._end()
        except Exception as error:  # of ours: the training must not learn of it otherwise
            self.gave_up = "the rules no longer run beside this training after an error of ours "
            self.gave_up += f"({type(error).__name__}: {error})"
        self._is_ready.set()
        with self._news:
            self._waiting.clear()
        if self.gave_up:
            self.listener.say(self.gave_up)

    def _read_earlier(self, earlier: Earlier) -> None:
        """What was found there was told when it was found."""
        until = time.monotonic() + BEFORE_SECONDS
        for block in earlier.blocks(self._engine.needs):
            if time.monotonic() > until:
                self.gave_up = TOO_LONG
                return
            self._engine.feed(block)
        self._failed |= self._engine.failed.keys()
        self._arriving.begin(earlier.start, earlier.described, earlier.events)

    def _wait(self) -> bool:
        """Until there is something to do. False: the run has ended, or nothing is read any more."""
        with self._news:
            while not (self._waiting or self._closing.is_set() or self.gave_up or self._arriving.next < self._below):
                is_held = self._likely_below > self._arriving.next
                if not self._news.wait(HOLD_SECONDS if is_held else None):
                    break
        if not self.gave_up:
            self._rest()
        return not (self._closing.is_set() or self.gave_up)

    def _rest(self) -> None:
        """Wake seldom, and keep to the share of the time."""
        now = time.monotonic()
        ahead = (self.seconds - ALLOWANCE_SECONDS) / SHARE - (now - self._began)
        self._closing.wait(max(0.0, self._last_look + PERIOD_SECONDS - now, ahead))

    def _look(self) -> None:
        began, first = time.thread_time(), self._arriving.next
        self._take()
        is_quiet = not self._waiting and time.monotonic() - self._last_news >= HOLD_SECONDS
        below = max(self._below, self._likely_below if is_quiet else 0)
        self._judge(min(below, first + self._at_once))
        self._last_look = time.monotonic()
        spent = time.thread_time() - began
        self.seconds += spent
        steps = max(1, self._arriving.next - first)
        self._at_once = max(1, min(int(LOOK_SECONDS * steps / max(spent, 1e-6)), 4 * self._at_once, MOST_STEPS))

    def _end(self) -> None:
        """The training is over: no share counts any more, only the time."""
        while time.monotonic() < self._deadline and not self.gave_up:
            self._take()
            is_all = not self._waiting
            if is_all and self._arriving.next >= self._arriving.stop:
                self.diagnosis = self._engine.diagnosis(self._subject)
                return
            self._judge(min(self._arriving.stop if is_all else self._below, self._arriving.next + max(self._at_once, 64)))
        self.gave_up = self.gave_up or (
            f"the rules have looked at {self._arriving.next:,} steps of this training and had no time for the rest; at all of "
            f"them: weighbridge diagnose {self._subject}"
        )

    def _take(self) -> None:
        """From what waits, until enough steps lie ready for one look."""
        while self._below - self._arriving.next < self._at_once:
            with self._news:
                if not self._waiting:
                    return
                batches, marks = self._waiting.take()
            if "tensors" in batches and SHARD in batches["tensors"]["placement"].to_pylist():
                self.gave_up = SHARDS
            self._arriving.add(batches)
            self._below, self._likely_below = marks.below, marks.likely_below

    def _judge(self, below: int) -> None:
        for block in () if self.gave_up else self._arriving.blocks(below):
            if new := {finding.key for finding in self._engine.feed(block)}:
                self._tell(new)
            for rule, error in self._engine.failed.items():
                if rule not in self._failed:
                    self._failed.add(rule)
                    self.listener.say(f"the rule {rule} has failed ({error}); the others go on")

    def _tell(self, new: set[str]) -> None:
        known = self._engine.findings
        for finding in known:
            if finding.key in new:
                self.listener.found(finding, nearest_cause(finding.key, known))
