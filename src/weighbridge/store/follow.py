"""Follows a run that is being written: the new record batches of each table since the last look.

    follower = Follower(path)
    for table, batches in follower.poll().items():
        ...

A poll with nothing new lists the rank's folder and reads to the end of each table's last sidecar: well below a
millisecond. Blocks come in the order in which they were written, each exactly once. Where a segment was compacted
before the follower had read all of it, the steps it has not seen come from the Parquet, sorted by tensor.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from weighbridge.records import TABLES
from weighbridge.store import layout
from weighbridge.store.checked import read_sealed
from weighbridge.store.compact import MANIFEST
from weighbridge.store.parquet import fitted, read_parquet
from weighbridge.store.segment import SegmentReader
from weighbridge.store.status import require_run
from weighbridge.store.units import Unit, units


class _Position:
    """How far one table was read: all units before `number`, and of that one what `reader` has seen."""

    def __init__(self) -> None:
        self.number = 1
        self.reader: SegmentReader | None = None
        self.flushes = 0  # of the reader's, handed out

    def begin_next(self, number: int) -> None:
        self.number, self.reader, self.flushes = number + 1, None, 0


class Follower:
    """New record batches of one rank. `from_start=False` leaves out what is there already."""

    def __init__(self, path: Path, rank: int | None = None, *, from_start: bool = True) -> None:
        require_run(path)
        known = layout.ranks(path)
        self._run = path
        self._rank = rank if rank is not None or not known else known[0]
        self._positions = {table: _Position() for table in TABLES}
        if not from_start:
            self._skip()

    def poll(self) -> dict[str, list[pa.RecordBatch]]:
        """New batches per table, tables without any left out. Raises CorruptRun."""
        found: dict[str, list[pa.RecordBatch]] = {}
        for table, known in self._units().items():
            for unit in known:
                try:
                    batches = self._read(unit)
                except FileNotFoundError:  # just being compacted: the next poll finds it as Parquet
                    break
                if batches:
                    found.setdefault(table, []).extend(batches)
        return found

    def _units(self) -> dict[str, list[Unit]]:
        if self._rank is None:  # the writer has not begun yet
            self._rank = next(iter(layout.ranks(self._run)), None)
            if self._rank is None:
                return {}
        found = units(layout.rank_folder(self._run, self._rank))
        return {table: [u for u in known if u.number >= self._positions[table].number] for table, known in found.items()}

    def _read(self, unit: Unit) -> list[pa.RecordBatch]:
        position = self._positions[unit.table]
        if unit.is_compacted:
            batches = self._rest_of(unit, position)
            position.begin_next(unit.number)
            return batches
        if position.reader is None:
            position.number, position.reader = unit.number, SegmentReader(unit.stem)
        reader = position.reader
        reader.poll()
        batches = reader.decode(reader.flushes[position.flushes :])
        position.flushes = len(reader.flushes)
        if reader.is_closed or not unit.is_last:  # the listing is older than the poll: nothing can follow
            position.begin_next(unit.number)
        return fitted(pa.Table.from_batches(batches), TABLES[unit.table]).to_batches() if batches else []

    def _rest_of(self, unit: Unit, position: _Position) -> list[pa.RecordBatch]:
        """What of a compacted unit was not read while it was a segment."""
        manifest = read_sealed(unit.stem / MANIFEST)
        if not manifest["rows"]:
            return []
        name = next(name for name in manifest["files"] if name.startswith(unit.table))
        table = read_parquet(unit.stem / name, TABLES[unit.table])
        if position.reader is not None and position.flushes:
            seen = position.reader.flushes[: position.flushes]
            table = table.filter(pc.greater(table.column("step"), max(flush.last_step for flush in seen)))
        return [batch for batch in table.to_batches() if batch.num_rows]

    def _skip(self) -> None:
        for table, known in self._units().items():
            position = self._positions[table]
            for unit in known:
                if unit.is_compacted or not unit.is_last:
                    position.begin_next(unit.number)
                    continue
                position.number, position.reader = unit.number, SegmentReader(unit.stem)
                try:
                    position.reader.poll()
                except FileNotFoundError:
                    position.begin_next(unit.number)
                    continue
                position.flushes = len(position.reader.flushes)
