"""What a rule is, what it finds, and what comes of asking all of them.

A rule is one file below diagnosis/rules/ (CONTRIBUTING.md says how to add one). It reads blocks of consecutive steps, keeps
state of O(tensors), and yields findings. It never imports torch and sees only what its `needs` declare.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from weighbridge.diagnosis.evidence import Evidence, as_record
from weighbridge.records import QUANTITIES

if TYPE_CHECKING:
    from weighbridge.diagnosis.stream import Block
    from weighbridge.diagnosis.tensors import Tensors

Severity = Literal["error", "warning", "note"]  # training is broken; is being wasted; worth knowing
Certainty = Literal["proof", "test", "heuristic"]  # exact; a statistic with its sample count; needs a second sign
SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "note")
CERTAINTIES: Final[tuple[Certainty, ...]] = ("proof", "test", "heuristic")
INPUT: Final = "input"  # the place of what comes with the batch
SMALL_TABLES: Final = ("steps", "passes", "events", "calls", "groups", "units", "spread", "pairing", "coherence", "graph")


class Needs:
    """What a rule reads: statistics by quantity, small tables, and statistics of each rank on its own.

    >>> Needs(update=["rms"], parameter=["rms"], tables=["steps"])
    Needs(parameter.rms, update.rms, table steps)
    """

    __slots__ = ("ranks", "statistics", "tables")

    def __init__(self, *, tables: Sequence[str] = (), ranks: Sequence[str] = (), **statistics: Sequence[str]) -> None:
        unknown = sorted({*statistics} - {*QUANTITIES} | ({*tables} - {*SMALL_TABLES}))
        if unknown:
            raise TypeError(f"Needs() knows no {', '.join(unknown)}")
        self.statistics = tuple(f"{q}.{name}" for q in QUANTITIES for name in statistics.get(q, ()))
        self.tables = frozenset(tables)
        self.ranks = tuple(ranks)  # full names, as in `statistics`; with them come each rank's losses and its table `pairing`

    @property
    def words(self) -> list[str]:
        """Everything, as people read it."""
        tables, ranks = (f"table {name}" for name in sorted(self.tables)), (f"{name} of each rank" for name in self.ranks)
        return [*self.statistics, *tables, *ranks]

    def __repr__(self) -> str:
        return f"Needs({', '.join(self.words)})"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something is wrong: what, where, since when, what shows it and what to try first. Raises ValueError without evidence."""

    place: str  # a module or parameter by PyTorch's dotted name, "input", or empty for the whole run
    first_step: int  # at which it began; -1 = before training
    told_step: int  # the last step whose rows were needed to say so
    message: str  # one or two sentences
    evidence: tuple[Evidence, ...]
    fix: str  # the first thing to try
    rule: str = ""  # id; set by the engine, as severity and certainty are where they are empty
    severity: Severity | Literal[""] = ""
    certainty: Certainty | Literal[""] = ""
    explains: tuple[str, ...] = ()  # keys of the findings that follow from this one
    experiment: str = ""  # what would prove it wrong; the rule's where empty
    depth: float = 0.0  # when inside its step it arises: forward, then backward, then update; smaller is earlier

    def __post_init__(self) -> None:
        if not self.evidence:
            raise ValueError("a finding without evidence is none")

    @property
    def key(self) -> str:
        """Rule and place, unique in a diagnosis: "lost-updates at encoder.0"."""
        return f"{self.rule} at {self.place}" if self.place else self.rule

    def __str__(self) -> str:
        since = f"from step {self.first_step:,}" if self.first_step >= 0 else "before training"
        return f"{self.severity}: {self.key}, {since}: {self.message}"

    def __repr__(self) -> str:
        return f"<Finding {self}>"

    def _repr_html_(self) -> str:
        from weighbridge.diagnosis.html import of_finding

        return of_finding(self)

    def record(self) -> dict[str, Any]:
        """The finding as a dictionary; the same order of keys always."""
        names = ("rule", "severity", "certainty", "place", "first_step", "told_step", "message")
        listed = {name: getattr(self, name) for name in names}
        last = {"experiment": self.experiment, "explains": list(self.explains)}
        return {**listed, "evidence": [as_record(e) for e in self.evidence], "fix": self.fix, **last}


class Outcome(StrEnum):
    """What came of asking one rule."""

    FOUND = "found"
    CLEAR = "clear"
    NOT_APPLICABLE = "not applicable"
    NOT_ENOUGH_DATA = "not enough data"
    FAILED = "failed"  # by its own bug; the others went on


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of one rule, and why where it is neither found nor clear."""

    rule: str
    outcome: Outcome
    reason: str = ""


class Rule(ABC):
    """Base of all rules. A new object is made for each run; `read` may yield findings at once or never."""

    id: ClassVar[str]
    title: ClassVar[str]
    severity: ClassVar[Severity]
    certainty: ClassVar[Certainty]
    since: ClassVar[str]  # version of weighbridge
    needs: ClassVar[Needs]
    causes: ClassVar[tuple[str, ...]] = ()  # ids of rules whose findings may follow from one of this
    travels: ClassVar[Literal["deeper", "shallower", "anywhere"]] = "anywhere"  # within a step, from its cause
    same: ClassVar[tuple[str, ...]] = ()  # of `causes`: other sights of the very thing, in the same pass
    is_event: ClassVar[bool] = False  # what it finds happens in one step, and is seen in that step
    experiment: ClassVar[str] = ""  # what to run, and what it shows if the finding is wrong

    def start(self, tensors: Tensors) -> None:  # noqa: B027  (not every rule has state)
        """The table of tensors; called before the first block and again when it has changed (columns never move)."""

    @abstractmethod
    def read(self, block: Block) -> Iterable[Finding]:
        """The next steps. Must find the same however the steps are cut into blocks."""

    def lacking(self) -> tuple[Outcome, str] | None:
        """Asked where nothing was found: None = clear, else NOT_APPLICABLE or NOT_ENOUGH_DATA and the reason."""
        return None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that the rules say about one run. `print` it for a summary; `weighbridge diagnose RUN` prints all of it."""

    subject: str  # the run's folder, or what was inspected
    findings: tuple[Finding, ...]  # in the order in which they began
    answers: tuple[Answer, ...] = field(default=())  # one per rule
    steps: int = 0  # that were looked at

    @property
    def causes(self) -> tuple[Finding, ...]:
        """What the other findings follow from, the likeliest first, at most three; no notes, no symptoms."""
        from weighbridge.diagnosis.causes import roots

        return roots(self.findings)

    @property
    def undetermined(self) -> str:
        """Why the cause cannot be named, where something calls for one; else empty."""
        from weighbridge.diagnosis.causes import undetermined

        return undetermined(self.findings)

    @property
    def worst(self) -> Severity | None:
        """The gravest severity; None where nothing was found."""
        return next((s for s in SEVERITIES if any(f.severity == s for f in self.findings)), None)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __str__(self) -> str:
        if not self.findings:
            return f"{self.subject}: nothing found"
        return "\n".join(map(str, self.findings))

    def __repr__(self) -> str:
        counts = [(severity, sum(f.severity == severity for f in self.findings)) for severity in SEVERITIES]
        told = ", ".join(f"{n} {severity}{'s' if n > 1 else ''}" for severity, n in counts if n) or "nothing found"
        return f"<{type(self).__name__} of {self.subject}: {told}>"

    def _repr_html_(self) -> str:
        from weighbridge.diagnosis.html import of_diagnosis

        return of_diagnosis(self)

    def record(self) -> dict[str, Any]:
        """The diagnosis as a dictionary."""
        return {
            "run": self.subject,
            "steps": self.steps,
            "findings": [f.record() for f in self.findings],
            "causes": [f.key for f in self.causes],
            "undetermined": self.undetermined,
            "rules": [{"rule": a.rule, "outcome": a.outcome.value, "reason": a.reason} for a in self.answers],
        }
