"""Findings that somebody has judged and muted for one run (store/labels.py): still found, no longer in front.

Only what is shown leaves them out. `weighbridge.diagnose` gives all that the rules found.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from weighbridge.diagnosis.rule import Diagnosis, Finding


@dataclass(frozen=True, slots=True)
class Muted:
    """A finding, and why it was muted."""

    finding: Finding
    reason: str


@dataclass(frozen=True, slots=True)
class Loud(Diagnosis):
    """A diagnosis without what was muted. What follows from what is judged by the whole: a symptom of a muted cause does not
    become a cause, nor one without any."""

    whole: Diagnosis | None = None

    @property
    def causes(self) -> tuple[Finding, ...]:
        """Those of the whole that were not muted."""
        return tuple(one for one in (self.whole.causes if self.whole else ()) if one in self.findings)

    @property
    def undetermined(self) -> str:
        """As of the whole."""
        return self.whole.undetermined if self.whole else ""


def set_aside(diagnosis: Diagnosis, muted: Iterable[tuple[str, str]]) -> tuple[Diagnosis, tuple[Muted, ...]]:
    """The diagnosis without the muted findings, and these."""
    reasons = dict(muted)
    quiet = tuple(Muted(one, reasons[one.key]) for one in diagnosis.findings if one.key in reasons)
    loud = tuple(one for one in diagnosis.findings if one.key not in reasons)
    if not quiet:
        return diagnosis, ()
    return Loud(diagnosis.subject, loud, diagnosis.answers, diagnosis.steps, diagnosis), quiet
