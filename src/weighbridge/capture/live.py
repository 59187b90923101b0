"""What becomes of findings while a training runs: the one place where the training side meets the rules.

Everything here but `Live.start` and `Live.close` runs on the thread of the rules (diagnosis/beside.py), and raises nothing.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from weighbridge.capture.recorder import Recorder
from weighbridge.diagnosis.beside import Beside
from weighbridge.diagnosis.choice import Choice
from weighbridge.diagnosis.kept import row_of
from weighbridge.diagnosis.rule import SEVERITIES, Finding, Severity
from weighbridge.diagnosis.webhook import Webhook
from weighbridge.errors import BadInput
from weighbridge.format import visible

MOST_LINES: Final = 20  # in the terminal; all of them are in the run
Wish = Literal["print", "silent"] | bool


class Live:
    """The diagnosis of one run while it is recorded."""

    def __init__(self, path: Path, recorder: Recorder, tell: Callable[[str], None], stop: Callable[[Finding], None]) -> None:
        self.path, self.recorder, self.tell, self.stop = path, recorder, tell, stop
        self.is_silent = False
        self.callbacks: list[Callable[[Finding], object]] = []
        self.webhooks: list[Webhook] = []
        self.stop_on: frozenset[Severity] = frozenset()
        self.findings: tuple[Finding, ...] = ()
        self.beside = Beside(self)
        recorder.reader = self.beside

    def wish(self, on_finding: Callable[[Finding], object] | None, stop_on: str | None, alert: str | None) -> None:
        """What else is to be done with findings. Raises BadInput."""
        stops = as_severities(stop_on) if stop_on is not None else frozenset()
        webhook = Webhook(alert, self.path, self.tell) if alert is not None else None
        self.stop_on |= stops
        if on_finding is not None:
            self.callbacks.append(on_finding)
        if webhook is not None:
            self.webhooks.append(webhook)

    def start(self, choice: Choice) -> None:
        """From now on rules read what is written."""
        self.beside.start(lambda: choice.rules(self.say))

    def leave(self) -> None:
        """No rules for this run."""
        self.recorder.reader = None

    def close(self) -> None:
        """Everything was written. Waits for the rules, some seconds at most, and for messages that are under way."""
        self.beside.close(str(self.path))
        self.leave()
        for webhook in self.webhooks:
            webhook.close()

    # ---- on the thread of the rules ----

    def found(self, finding: Finding, follows_from: str) -> None:
        """A finding: into the run, onto the screen, to whoever asked for it."""
        self.findings += (finding,)
        with self.recorder.lock:
            self.recorder.add("findings", *row_of(finding, self.recorder.attempt))
        if not self.is_silent:
            self._print(finding, follows_from)
        for callback in self.callbacks:
            self._call(callback, finding)
        for webhook in self.webhooks:
            webhook.send(finding)
        if finding.severity in self.stop_on:
            self.stop(finding)

    def say(self, message: str) -> None:
        """Something about the diagnosis itself."""
        self.tell(message)

    def _print(self, finding: Finding, follows_from: str) -> None:
        if len(self.findings) <= MOST_LINES:
            print(line(finding, follows_from), file=sys.stderr)
        elif len(self.findings) == MOST_LINES + 1:
            print(f"weighbridge: more findings are not printed; all of them: weighbridge diagnose {self.path}", file=sys.stderr)

    def _call(self, callback: Callable[[Finding], object], finding: Finding) -> None:
        try:
            callback(finding)
        except Exception as error:
            self.tell(f"on_finding raised {type(error).__name__}: {error}; training goes on, and it is called again")


def line(finding: Finding, follows_from: str = "") -> str:
    """A finding on one line.

    >>> from weighbridge.diagnosis import ValueEvidence
    >>> line(Finding("fc", 3, 5, "It is dead.", (ValueEvidence("v", 1.0),), "Use GELU.", "dead-units", "warning", "test"))
    'weighbridge: warning: dead-units at fc, from step 3: It is dead. Try: Use GELU.'
    """
    since = f"from step {finding.first_step:,}" if finding.first_step >= 0 else "before training"
    rest = f"(follows from {follows_from})" if follows_from else f"Try: {finding.fix}"
    return " ".join(visible(f"weighbridge: {finding.severity}: {finding.key}, {since}: {finding.message} {rest}").split())


def as_severities(stop_on: str) -> frozenset[Severity]:
    """This severity and the graver ones. Raises BadInput."""
    for i, severity in enumerate(SEVERITIES):
        if severity == stop_on:
            return frozenset(SEVERITIES[: i + 1])
    raise BadInput(f"stop_on={stop_on!r}: the severities are {', '.join(SEVERITIES)}. Write stop_on='error', say.")


def is_rules_thread() -> bool:
    """Does this run on the thread of some run's rules, as a callback does?"""
    return threading.current_thread().name == "weighbridge-rules"
