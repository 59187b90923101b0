"""What the results say of a tool: recall, place, delay, false alarms. Pure functions of results; definitions in README.md."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from statistics import median

from clinic.frame.trial import Result
from clinic.tools import Verdict

ALARMS = ("error", "warning")


def hits(result: Result) -> list[Verdict]:
    """The verdicts that name the fault: the exact label, as warning or error."""
    return [v for v in result.verdicts if result.label and v.label == result.label and v.severity in ALARMS]


def placed(result: Result) -> list[Verdict]:
    """Those of the hits that are at an accepted place."""
    return [v for v in hits(result) if any(fnmatchcase(v.place, glob) for glob in result.places)]


def delay(result: Result) -> int | None:
    """Steps from the first at which the truth holds to the first at which it was told; never below 0; None = not found."""
    told = [v.told_step for v in hits(result)]
    return max(0, min(told) - (result.first_true or 0)) if told else None


def alarms(result: Result) -> list[Verdict]:
    """Warnings and errors on a program without a fault. (What is said beside the fault of an ill one is not counted.)"""
    free = not result.label
    return [v for v in result.verdicts if free and v.severity in ALARMS and v.label not in result.also]


def notes(result: Result) -> int:
    return sum(v.severity == "note" for v in result.verdicts)


def is_sound(result: Result) -> bool:
    """The program did what it says; others are listed and not counted. (One that a tool has changed is listed and counted.)"""
    return not result.failure and result.is_proved


@dataclass(frozen=True, slots=True)
class Score:
    """One tool over many results."""

    ill: int
    found: int
    placed: int
    named_first: int  # among the causes that the tool itself puts first
    delays: tuple[int, ...]
    twins: int
    healthy: int
    alarmed_twins: int
    alarmed_healthy: int
    errors: int  # runs without a fault and with an alarm of severity error
    notes: int  # on runs of healthy programs
    seconds: float
    tool_seconds: float

    @property
    def median_delay(self) -> float | None:
        return median(self.delays) if self.delays else None


def score(results: Iterable[Result]) -> Score:
    """Counts over the sound results."""
    sound = [r for r in results if is_sound(r)]
    ill = [r for r in sound if r.label]
    twins, healthy = [r for r in sound if r.is_twin], [r for r in sound if not r.label and not r.is_twin]
    return Score(
        ill=len(ill),
        found=sum(bool(hits(r)) for r in ill),
        placed=sum(bool(placed(r)) for r in ill),
        named_first=sum(any(v.is_cause for v in hits(r)) for r in ill),
        delays=tuple(d for r in ill if (d := delay(r)) is not None),
        twins=len(twins),
        healthy=len(healthy),
        alarmed_twins=sum(bool(alarms(r)) for r in twins),
        alarmed_healthy=sum(bool(alarms(r)) for r in healthy),
        errors=sum(any(v.severity == "error" for v in alarms(r)) for r in twins + healthy),
        notes=sum(notes(r) for r in healthy),
        seconds=sum(r.seconds for r in sound),
        tool_seconds=sum(r.tool_seconds for r in sound),
    )
