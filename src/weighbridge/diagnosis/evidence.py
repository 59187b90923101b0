"""Evidence is typed data: a value, a series, a histogram, a table or a setting.

Terminal, page and programs each draw these five kinds, so a rule needs no code for any of them. All numbers are plain
Python numbers in tuples: findings can be compared, sent and kept. NaN = not recorded.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

Cell = str | int | float | None


@dataclass(frozen=True, slots=True)
class ValueEvidence:
    """One number and, where there is one, the limit that it is past."""

    name: str
    value: float
    limit: float | None = None
    unit: str = ""


@dataclass(frozen=True, slots=True)
class SeriesEvidence:
    """One number over steps."""

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class HistogramEvidence:
    """Counts between edges (one more edge than counts)."""

    name: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TableEvidence:
    """Named columns and their rows."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True)
class SettingEvidence:
    """A setting of the user's program, as it was recorded."""

    name: str
    value: str


Evidence = ValueEvidence | SeriesEvidence | HistogramEvidence | TableEvidence | SettingEvidence
KINDS: Final = {
    ValueEvidence: "value",
    SeriesEvidence: "series",
    HistogramEvidence: "histogram",
    TableEvidence: "table",
    SettingEvidence: "setting",
}


def as_record(evidence: Evidence) -> dict[str, Any]:
    """The evidence as a dictionary with its `kind`."""
    return {"kind": KINDS[type(evidence)], **asdict(evidence)}
