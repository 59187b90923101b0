"""Reads the tables of one rank from their units, with the later attempt winning.

An attempt's units carry its number. A later attempt that starts at step s takes the place of everything that earlier
ones recorded from s on, in every table but `tensors` and `events`
(docs/decisions/0004-a-later-attempt-cuts-the-earlier-one.md).
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from weighbridge.records import NONFINITE, TABLES
from weighbridge.store.checked import read_sealed
from weighbridge.store.parquet import are_zero, fitted, read_parquet
from weighbridge.store.segment import SegmentReader
from weighbridge.store.units import Unit, units

MANIFEST: Final = "manifest.json"
_UNCUT: Final = ("tensors", "events")  # what an earlier attempt said there stays true
REFRESH_TRIES: Final = 20
FOREVER: Final = (1 << 63) - 1
NEWS_KEPT: Final = 256  # looks that saw something; who asks about an older one reads all


@dataclass(slots=True)
class Part:
    """One unit as it is read: its segment's reader or its manifest, and the step from which it no longer counts."""

    unit: Unit
    attempt: int
    first_step: int
    last_step: int
    reader: SegmentReader | None = None
    manifest: dict[str, Any] | None = None
    limit: int = FOREVER
    stamp: int = 0  # of a manifest: when it was written
    kept: tuple[int, pa.Table] | None = None  # limit and rows of a compacted unit, once read
    finite: bool | None = None  # `is_finite`, once looked at

    @property
    def is_cut(self) -> bool:
        return self.limit <= self.last_step

    @property
    def row_count(self) -> int:
        """Single rows that are left (a thinned unit may have none)."""
        if self.manifest is not None:
            return int(self.manifest["rows"])
        return sum(flush.rows for flush in self.reader.flushes) if self.reader else 0

    @property
    def rows_file(self) -> Path:
        """The compacted unit's Parquet of single rows; a thinned unit's has another name."""
        files = self.manifest["files"] if self.manifest else {}
        return self.unit.stem / next((name for name in files if name.startswith(self.unit.table)), f"{self.unit.table}.parquet")

    @property
    def is_finite(self) -> bool:
        """Do the footers of a compacted unit of rows say that no row of it counts anything that is not finite?"""
        if self.finite is None:
            self.finite = self.manifest is not None and are_zero(self.rows_file, NONFINITE)
        return self.finite

    @property
    def thinned(self) -> tuple[int, int] | None:
        """First and last step of which only buckets are left."""
        found = self.manifest.get("thinned") if self.manifest else None
        return (int(found[0]), int(found[1])) if found else None


class RankTables:
    """All tables of one rank; `refresh` looks for newly acknowledged flushes."""

    def __init__(self, folder: Path, attempt: int | None = None) -> None:
        """`attempt`: as they were before a later one began."""
        self.folder, self.attempt = folder, attempt
        self.parts: dict[str, list[Part]] = {table: [] for table in TABLES}
        self.version = 0  # changes whenever something new was seen
        self._news: deque[tuple[int, int]] = deque(maxlen=NEWS_KEPT)  # version, and the first step whose rows it changed
        self._known: dict[tuple[str, int, bool], Part] = {}
        self._whole: dict[str, tuple[tuple[tuple[int, bool, int, int], ...], pa.Table]] = {}
        self.refresh()

    def refresh(self) -> bool:
        """See what is new. Returns whether anything is. Raises CorruptRun or NewerFormat."""
        for _ in range(REFRESH_TRIES - 1):
            try:
                return self._refresh()
            except FileNotFoundError:  # a segment was compacted between the listing and the reading
                continue
        return self._refresh()

    def _refresh(self) -> bool:
        changed: list[int] = []
        parts: dict[str, list[Part]] = {table: [] for table in TABLES}
        for table, found in units(self.folder).items():
            for unit in found:
                part, since = self._part(unit)
                if since is not None:  # a step of another attempt cuts the rows of this one, too
                    changed.append(since if table in ("rows", "steps") else FOREVER)
                if part is not None and (self.attempt is None or part.attempt <= self.attempt):
                    parts[table].append(part)
        if changed:
            self.version += 1
            self._news.append((self.version, min(changed)))
        self.parts = parts
        self._set_limits()
        return bool(changed)

    def unchanged_below(self, version: int) -> int:
        """The rows of steps below this one are those that there were at that version."""
        if version + len(self._news) < self.version:  # of what followed not all is known any more
            return 0
        return min((step for at, step in self._news if at > version), default=FOREVER)

    def _part(self, unit: Unit) -> tuple[Part | None, int | None]:
        """What is known of a unit, and the first step of what is new in it; None where nothing is."""
        key = (unit.table, unit.number, unit.is_compacted)
        part = self._known.get(key)
        if unit.is_compacted:
            stamp = (unit.stem / MANIFEST).stat().st_mtime_ns  # a unit that is thinned gets a new manifest
            if part is None or part.stamp != stamp:
                manifest = read_sealed(unit.stem / MANIFEST)
                part = Part(unit, manifest["attempt"], manifest["first_step"], manifest["last_step"], manifest=manifest)
                part.stamp = stamp
                self._known[key] = part
                before = self._known.pop((unit.table, unit.number, False), None)
                is_same = before is not None and before.row_count == part.row_count  # all of its segment was read, and no other
                return part, FOREVER if is_same and not part.thinned else part.first_step
            return part, None
        reader = part.reader if part is not None else SegmentReader(unit.stem)
        assert reader is not None
        new = reader.poll() if not reader.is_closed else []
        if not reader.flushes:
            return None, None
        if part is None:
            part = Part(unit, -1, 0, 0, reader=reader)
            part.attempt = reader.decode(reader.flushes[:1])[0].column("attempt")[0].as_py()
            self._known[key] = part
        part.unit = unit
        part.first_step = min(flush.first_step for flush in reader.flushes)
        part.last_step = max(flush.last_step for flush in reader.flushes)
        return part, min((flush.first_step for flush in new), default=None)

    def _set_limits(self) -> None:
        starts: dict[int, int] = {}
        for table in ("rows", "steps"):
            for part in self.parts[table]:
                starts[part.attempt] = min(part.first_step, starts.get(part.attempt, FOREVER))
        for table, parts in self.parts.items():
            for part in parts:
                later = [start for attempt, start in starts.items() if attempt > part.attempt]
                part.limit = FOREVER if table in _UNCUT else min(later, default=FOREVER)

    def whole(self, table: str) -> pa.Table:
        """All of a small table, in the order it was written."""
        parts = self.parts[table]
        state = tuple((part.unit.number, part.unit.is_compacted, part.row_count, part.limit) for part in parts)
        kept = self._whole.get(table)
        if kept is None or kept[0] != state:
            pieces = [piece for part in parts if (piece := self._piece(part)).num_rows]
            kept = (state, pa.concat_tables(pieces) if pieces else TABLES[table].empty_table())
            self._whole[table] = kept
        return kept[1]

    def _piece(self, part: Part) -> pa.Table:
        """One unit's rows that count; a compacted unit of a small table is read once."""
        if part.manifest is None:
            return read_part(part)
        if part.kept is None or part.kept[0] != part.limit:
            part.kept = (part.limit, read_part(part))
        return part.kept[1]


def read_part(part: Part) -> pa.Table:
    """The rows of one unit that still count."""
    schema = TABLES[part.unit.table]
    if part.reader is not None:
        batches = part.reader.batches()
        table = fitted(pa.Table.from_batches(batches), schema) if batches else schema.empty_table()
    else:
        table = read_parquet(part.rows_file, schema)
    return table.filter(pc.less(table.column("step"), part.limit)) if part.is_cut else table


def parse_detail(text: str | None) -> dict[str, Any]:
    """The JSON detail of an event; what is no object becomes one."""
    try:
        content = json.loads(text) if text else {}
    except ValueError:
        return {"text": text}
    return content if isinstance(content, dict) else {"value": content}
