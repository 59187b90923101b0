"""The rules in processes of their own (diagnosis/worker.py): two at most for all who ask here, started when somebody does."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Final

from weighbridge.diagnosis.kept import diagnosis_from_json
from weighbridge.diagnosis.rule import Diagnosis
from weighbridge.errors import WeighbridgeError

WORKER: Final = "weighbridge.diagnosis.worker"
AT_ONCE: Final = 2  # processes: what takes minutes holds up one of them


class GivenUp(WeighbridgeError):
    """Nobody waits for this answer any more, and others wait for theirs."""


class Rules:
    """Asks about one run at a time. Threads may share one: the second waits."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._is_closed = self._is_given_up = False
        atexit.register(self.close)

    def ask(self, run: Path) -> tuple[int, str, Diagnosis]:
        """How many steps the run had and its state when it was read, and what was said. Waits, perhaps for minutes.

        Raises WeighbridgeError with the rules' own sentence, or where their process has ended; GivenUp.
        """
        line = json.dumps({"run": str(run.resolve()), "folder": os.getcwd()}) + "\n"
        with self._lock:
            self._is_given_up = False
            told = self._told(line)
            if not told and not self._is_given_up:
                told = self._told(line)  # it ends when nothing is asked for a while: perhaps just now
        if not told and self._is_given_up:
            raise GivenUp(f"The rules were no longer asked about {run}: nobody waited for it, and others did.")
        if not told:
            raise WeighbridgeError("The process that asks the rules has ended before it answered.")
        answer: dict[str, Any] = json.loads(told)
        if "error" in answer:
            raise WeighbridgeError(answer["error"])
        return answer["steps"], answer["state"], diagnosis_from_json(answer["diagnosis"], str(run))

    def _told(self, line: str) -> str:
        """One line of answer; empty where there is none."""
        process = self._started()
        if process is None:
            return ""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
            told = process.stdout.readline()
        except OSError:
            told = ""
        if not told:
            self._end()  # its pipe closes a moment before it counts as ended: the next one is to be asked, not this one again
        return told

    def _started(self) -> subprocess.Popen[str] | None:
        if self._is_closed:
            return None
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", WORKER],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                text=True, encoding="utf-8", env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )  # fmt: skip
        return self._process

    def give_up(self) -> None:
        """What is under way gets no answer: whoever asked for it gets GivenUp."""
        self._is_given_up = True
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """Nothing is asked any more; what is under way is given up."""
        self._is_closed = True
        if self._process is not None:
            self._process.kill()
        with self._lock:  # whoever waits for an answer has none by now
            self._end()

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what could not be written any more
                assert pipe is not None
                pipe.close()
        self._process.wait()


class Several:
    """As Rules, about AT_ONCE runs at a time. Another process is started only where all others are asked something."""

    def __init__(self) -> None:
        self._free = [Rules() for _ in range(AT_ONCE)]
        self._busy: list[tuple[Path, Rules]] = []
        self._lock = threading.Condition()

    def ask(self, run: Path) -> tuple[int, str, Diagnosis]:
        """As Rules.ask."""
        with self._lock:
            self._lock.wait_for(lambda: bool(self._free))
            mine = (run, self._free.pop())  # the one that was asked last, and is warm
            self._busy.append(mine)
        try:
            return mine[1].ask(run)
        finally:
            with self._lock:
                self._busy.remove(mine)
                self._free.append(mine[1])
                self._lock.notify()

    def give_up(self, run: Path) -> None:
        """What is asked about this run, if anything is, gets no answer."""
        with self._lock:
            for asked, rules in self._busy:
                if asked == run:
                    rules.give_up()

    def close(self) -> None:
        """Nothing is asked any more; what is under way is given up."""
        with self._lock:
            known = [*self._free, *(rules for _, rules in self._busy)]
        for rules in known:
            rules.close()


RULES: Final = Several()
