"""What becomes of findings while a training runs: the one place where the training side meets the rules.

What `Beside` calls runs on the thread of the rules (diagnosis/beside.py), and raises nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from weighbridge.capture.recorder import Recorder
from weighbridge.diagnosis.beside import Beside
from weighbridge.diagnosis.choice import Choice, Own, choose
from weighbridge.diagnosis.earlier import Earlier
from weighbridge.diagnosis.kept import row_of
from weighbridge.diagnosis.rule import SEVERITIES, Finding, Severity
from weighbridge.diagnosis.webhook import Webhook, checked
from weighbridge.errors import BadInput
from weighbridge.format import visible

MOST_LINES: Final = 20  # in the terminal; all of them are in the run


@dataclass(frozen=True, slots=True)
class Wishes:
    """What `watch` was asked to do with findings (its docstring has the meaning of each)."""

    live: bool | Literal["silent"]
    on_finding: Callable[[Finding], object] | None
    stop_on: frozenset[Severity]
    alert: str | None
    choice: Choice


def wished(
    live: bool | Literal["silent"] = True,
    on_finding: Callable[[Finding], object] | None = None,
    stop_on: str | None = None,
    alert: str | None = None,
    rules: Sequence[Own] = (),
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> Wishes:
    """The wishes, if they can be met. Raises BadInput."""
    if live not in (True, False, "silent"):
        raise BadInput(f"live={live!r}: write True, False, or 'silent' for findings that are not printed.")
    if live is False and (on_finding or stop_on or alert):
        raise BadInput("on_finding, stop_on and alert need the rules beside the training: leave live=False out.")
    if on_finding is not None and not callable(on_finding):
        raise BadInput(f"on_finding={on_finding!r} cannot be called. Give a function of one finding.")
    stops = frozenset[Severity]() if stop_on is None else as_severities(stop_on)
    address = None if alert is None else checked(alert)
    return Wishes(live, on_finding, stops, address, choose(select, ignore, rules=rules))


class Live:
    """The diagnosis of one run while it is recorded."""

    def __init__(self, path: Path, recorder: Recorder, tell: Callable[[str], None], stop: Callable[[Finding], None]) -> None:
        """Of rank 0; before anything is recorded."""
        self.path, self.recorder, self.tell, self.stop = path, recorder, tell, stop
        self.has_begun = self.is_silent = False
        self.callbacks: list[Callable[[Finding], object]] = []
        self.webhooks: list[Webhook] = []
        self.stop_on: frozenset[Severity] = frozenset()
        self.findings: tuple[Finding, ...] = ()
        self.beside = Beside(self, path)
        self.earlier = Earlier(path, 0, recorder.attempt, recorder.first_step) if recorder.attempt else None
        recorder.reader = self.beside

    def begin(self, wishes: Wishes, quiet: bool) -> None:
        """From now on rules read what is written. A second call adds what else is to be done with findings. Raises BadInput."""
        self.has_begun = True
        if wishes.live is False:
            if not self.beside.is_running:
                self.recorder.reader = None
            return
        rules = None if wishes.choice.is_plain else wishes.choice.rules(self.tell)  # what is mistyped is said at once
        self.is_silent = quiet or wishes.live == "silent"
        self.callbacks += [wishes.on_finding] if wishes.on_finding is not None else []
        self.webhooks += [Webhook(wishes.alert, self.path, self.tell)] if wishes.alert is not None else []
        self.stop_on |= wishes.stop_on
        self.beside.start(lambda: wishes.choice.rules(self.tell) if rules is None else rules, self.earlier)

    def close(self) -> None:
        """Everything was written. Waits for the rules, some seconds at most, and for messages that are under way."""
        self.beside.close(str(self.path))
        self.recorder.reader = None
        for webhook in self.webhooks:
            webhook.close()

    # ---- on the thread of the rules ----

    def found(self, finding: Finding, follows_from: str) -> None:
        """A finding: into the run, onto the screen, to whoever asked for it."""
        with self.recorder.lock:
            self.recorder.add("findings", *row_of(finding, self.recorder.attempt))
        self.findings += (finding,)
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
    """A finding on one line; of one that follows from another, which was told before, only that it is there.

    >>> from weighbridge.diagnosis import ValueEvidence
    >>> line(Finding("fc", 3, 5, "It is dead.", (ValueEvidence("v", 1.0),), "Use GELU.", "dead-units", "warning", "test"))
    'weighbridge: warning: dead-units at fc, from step 3: It is dead. Try: Use GELU.'
    >>> line(Finding("fc", 3, 5, "It is dead.", (), "Use GELU.", "dead-units", "warning", "test"), "high-learning-rate")
    'weighbridge: warning: dead-units at fc, from step 3 (follows from high-learning-rate)'
    """
    since = f"from step {finding.first_step:,}" if finding.first_step >= 0 else "before training"
    rest = f" (follows from {follows_from})" if follows_from else f": {finding.message} Try: {finding.fix}"
    return visible(" ".join(f"weighbridge: {finding.severity}: {finding.key}, {since}{rest}".split()))


def cards(findings: Sequence[Finding]) -> str:
    """Findings as a notebook shows them."""
    from weighbridge.diagnosis.html import card

    return "".join(map(card, findings))


def as_severities(stop_on: str) -> frozenset[Severity]:
    """This severity and the graver ones. Raises BadInput."""
    for i, severity in enumerate(SEVERITIES):
        if severity == stop_on:
            return frozenset(SEVERITIES[: i + 1])
    raise BadInput(f"stop_on={stop_on!r}: the severities are {', '.join(SEVERITIES)}. Write stop_on='error', say.")
