"""What a program gets: one table per view, as CSV or JSON, in full precision and with stable column names.

Floats are written so that reading them back gives the same 64 bits. "Not recorded" is an empty cell in CSV and null in
JSON; NaN and the infinities are numbers that were met: `nan`, `inf`, `-inf` in CSV and the strings "NaN", "Infinity",
"-Infinity" in JSON, which has no such numbers (Python's float() and JavaScript's Number() read all of them).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weighbridge.diagnosis.kept import jsonable
from weighbridge.store.labels import shown_labels
from weighbridge.store.record import RunInfo

Cell = str | int | float | None


@dataclass(frozen=True, slots=True)
class Table:
    """Named columns and their rows; `view` says which question it answers."""

    view: str
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]


def to_csv(table: Table) -> str:
    """The table as CSV (RFC 4180 quoting, lines end with \\n)."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([[_csv_cell(cell) for cell in row] for row in table.rows])
    return out.getvalue()


def to_json(info: RunInfo, table: Table, **more: Any) -> str:
    """The run's facts and the table as JSON: {"run": {...}, "view": ..., "rows": [{column: value, ...}, ...]}."""
    rows = [dict(zip(table.columns, map(jsonable, row), strict=True)) for row in table.rows]
    content = {"run": run_facts(info), "view": table.view, **{k: jsonable(v) for k, v in more.items()}, "rows": rows}
    return json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1)


def runs_json(infos: Sequence[RunInfo], unreadable: Sequence[tuple[Path, str]] = ()) -> str:
    """All runs of a folder as a JSON list; those that cannot be read have "state": "unreadable" and "error"."""
    listed = [run_facts(info) for info in infos]
    listed += [{"name": p.name, "path": str(p), "state": "unreadable", "error": why} for p, why in unreadable]
    return json.dumps(listed, ensure_ascii=False, allow_nan=False, indent=1)


def run_facts(info: RunInfo) -> dict[str, Any]:
    """One run's facts, ready for JSON."""
    labels = shown_labels(info.path)
    return {
        "name": info.name,
        "path": str(info.path),
        "state": info.state,
        "started": info.started.isoformat() if info.started else None,
        "steps": info.steps,
        "tensors": info.tensors,
        "last_loss": jsonable(info.last_loss),
        "size_bytes": info.size_bytes,
        "tags": list(labels.tags),
        "note": labels.note,
        "archived": labels.is_archived,
    }


def _csv_cell(cell: Cell) -> str:
    if cell is None:
        return ""
    return repr(cell) if isinstance(cell, float) else str(cell)
