"""Findings that somebody has judged and muted for one run (store/labels.py): still found, no longer in front.

Only what is shown leaves them out. `weighbridge.diagnose` gives all that the rules found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from weighbridge.diagnosis.causes import candidates, nearest_cause
from weighbridge.diagnosis.rule import Diagnosis, Finding

MUTED: Final = ", which is muted"


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
    muted: tuple[Muted, ...] = ()
    follows: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)  # by key of a finding: of the muted ones
    covered: frozenset[str] = frozenset()  # keys of what follows from muted findings alone

    @property
    def causes(self) -> tuple[Finding, ...]:
        """Those of the whole that were not muted."""
        return tuple(one for one in (self.whole.causes if self.whole else ()) if one in self.findings)

    @property
    def undetermined(self) -> str:
        """As of the whole."""
        return self.whole.undetermined if self.whole else ""

    def record(self) -> dict[str, Any]:
        """As that of a diagnosis; `muted` with the reasons, and of each other finding the muted ones it follows from."""
        told = Diagnosis.record(self)
        for finding, listed in zip(self.findings, told["findings"], strict=True):
            if finding.key in self.follows:
                listed["follows_from_muted"] = list(self.follows[finding.key])
        return told | {"muted": [one.finding.record() | {"reason": one.reason} for one in self.muted]}


def set_aside(diagnosis: Diagnosis, muted: Iterable[tuple[str, str]]) -> tuple[Diagnosis, tuple[Muted, ...]]:
    """The diagnosis without the muted findings, and these."""
    reasons = dict(muted)
    quiet = tuple(Muted(one, reasons[one.key]) for one in diagnosis.findings if one.key in reasons)
    loud = tuple(one for one in diagnosis.findings if one.key not in reasons)
    if not quiet:
        return diagnosis, ()
    follows = {one.key: keys for one in loud if (keys := tuple(q.finding.key for q in quiet if one.key in q.finding.explains))}
    covered = _covered(diagnosis, {one.finding.key for one in quiet})
    kept = (diagnosis.subject, loud, diagnosis.answers, diagnosis.steps)
    return Loud(*kept, whole=diagnosis, muted=quiet, follows=follows, covered=covered), quiet


def _covered(diagnosis: Diagnosis, muted: set[str]) -> frozenset[str]:
    """What follows from something, and from nothing that is neither muted nor covered itself. A candidate for a cause is not
    covered, though guesses explain it: it is proved, and muting a guess must not hide a proof."""
    standing = {one.key for one in candidates(diagnosis.findings)}
    by = {one.key: {other.key for other in diagnosis.findings if one.key in other.explains} for one in diagnosis.findings}
    covered = {key for key, causes in by.items() if causes and key not in standing and key not in muted}
    while out := {key for key in covered if by[key] - muted - covered}:
        covered -= out
    return frozenset(covered)


def covered_by(diagnosis: Diagnosis) -> frozenset[str]:
    """Keys of the findings that follow from muted ones alone."""
    return diagnosis.covered if isinstance(diagnosis, Loud) else frozenset()


def follows_from(finding: Finding, diagnosis: Diagnosis) -> str:
    """What this finding follows from, in words: "", "KEY" or "KEY, which is muted"."""
    whole = diagnosis.whole if isinstance(diagnosis, Loud) and diagnosis.whole else diagnosis
    cause = nearest_cause(finding.key, whole.findings)
    is_muted = cause and all(one.key != cause for one in diagnosis.findings)
    return f"{cause}{MUTED}" if is_muted else cause


def follows_from_muted(finding: Finding, diagnosis: Diagnosis) -> str:
    """The same where that is muted; else ""."""
    told = follows_from(finding, diagnosis)
    return f"follows from {told}" if told.endswith(MUTED) else ""
