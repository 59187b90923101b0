"""The tables of a run's ranks, read as those of one process. Ranks may begin, and their segments be compacted, meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from weighbridge.errors import BadInput
from weighbridge.records import SHARD
from weighbridge.store import layout
from weighbridge.store.coherence import Gradients, add_ranks, with_variance
from weighbridge.store.query import RowQuery
from weighbridge.store.shards import Merge, merge
from weighbridge.store.status import last_flush_of, state_of
from weighbridge.store.tables import Part, RankTables
from weighbridge.store.views import Attempt, Tensor

Answer = TypeVar("Answer")


class AllRanks:
    """All ranks of a run, or the one that is asked for. `lead`: the lowest, whose word counts where ranks are not merged."""

    def __init__(self, path: Path, rank: int | None, attempt: int | None = None) -> None:
        self.path, self.rank, self.attempt = path, rank, attempt
        self.numbers: tuple[int, ...] = tuple(layout.ranks(path))
        if rank is not None and rank not in self.numbers:
            there = ", ".join(map(str, self.numbers)) or "none"
            raise BadInput(f"{path} holds no rank {rank}. Ranks that recorded something: {there}.")
        self._lead = rank if rank is not None else (self.numbers[0] if self.numbers else 0)
        self.lead = self._tables(self._lead)
        self.query = RowQuery(self.lead)
        self._all = {self._lead: self.lead}
        self._lock = threading.RLock()
        self._merged: tuple[dict[int, pa.Table], Merge | None] = ({}, None)
        self._gradients: tuple[tuple[int, ...], Gradients] | None = None
        self._described: tuple[object, tuple[Tensor, ...]] = (None, ())
        self._look()

    def refresh(self) -> bool:
        """See newly acknowledged flushes, and new ranks; returns whether there are any."""
        with self._lock:
            news = [self._look(), *(tables.refresh() for tables in self._all.values())]
            return any(news)

    @property
    def version(self) -> tuple[int, ...]:
        """Another one whenever something new was seen."""
        return tuple(tables.version for tables in self._all.values())

    def unchanged_below(self, version: tuple[int, ...]) -> int:
        """The rows of steps below this one are those that there were at that version; 0 where ranks are merged: of theirs a
        step counts only once all have recorded it."""
        is_of_one = self.ask(self._merge) is None and len(version) == len(self._all)
        return self.lead.unchanged_below(version[0]) if is_of_one else 0

    def _look(self) -> bool:
        """Ranks begin one after the other; those that came since the last look. A rank alone looks at no other."""
        if self.rank is not None:
            return False
        self.numbers = tuple(layout.ranks(self.path))
        new = [rank for rank in self.numbers if rank not in self._all]
        self._all |= {rank: self._tables(rank) for rank in new}
        return bool(new)

    def _tables(self, rank: int) -> RankTables:
        return RankTables(layout.rank_folder(self.path, rank), self.attempt)

    def ask(self, question: Callable[[], Answer]) -> Answer:
        """Ask the query engine; once more if somebody compacted a segment away meanwhile."""
        with self._lock:
            try:
                self._merge()
                return question()
            except FileNotFoundError:
                self.refresh()
                self._merge()
                return question()

    def whole(self, table: str) -> pa.Table:
        """All of a small table of the lowest rank, in the order it was written."""
        return self.ask(lambda: self.lead.whole(table))

    def gradients(self) -> Gradients:
        """Successive gradients, and those that several passes have added up: of all ranks as one."""
        if self._gradients is None or self._gradients[0] != self.version:
            successive, accumulated = self.ask(lambda: self._added("coherence")), self.ask(lambda: self._added("accumulation"))
            self._gradients = (self.version, Gradients(successive, accumulated))
        return self._gradients[1]

    def _added(self, table: str) -> pa.Table:
        merged = self._merge()
        ranks = self._all if merged is not None else {self._lead: self.lead}
        tables = {rank: one.whole(table) for rank, one in ranks.items()}
        tables = {rank: with_variance(one) for rank, one in tables.items()} if table == "coherence" else tables
        return add_ranks(tables, merged.shares, merged.whole) if merged is not None else tables[self._lead]

    def tensors(self) -> tuple[Tensor, ...]:
        """All that is watched, in order; a later description of the same tensor wins."""
        merged = self.ask(self._merge)
        table: object = merged or self.whole("tensors")
        if self._described[0] is not table:
            rows = merged.tensors if merged else self.whole("tensors").to_pylist()
            by_id = {row["tensor"]: row for row in rows}
            found = sorted((Tensor.from_row(row) for row in by_id.values()), key=lambda tensor: (tensor.order, tensor.id))
            self._described = (table, tuple(found))
        return self._described[1]

    def _merge(self) -> Merge | None:
        """How the ranks go together; None where one rank's rows say everything. Makes the query read them so."""
        if self.rank is not None:
            return None
        tables = {rank: one.whole("tensors") for rank, one in self._all.items()}
        if not _is_same(self._merged[0], tables):
            is_simple = len(tables) == 1 and not _has_shards(tables[self._lead])
            found = None if is_simple else merge({rank: table.to_pylist() for rank, table in tables.items()})
            self._merged = (tables, None if found is None or found.is_of_one(self._lead) else found)
            self.query.read_as_one(self._all, self._merged[1])
        return self._merged[1]

    @property
    def has_shards(self) -> bool:
        """Are there tensors of which each rank holds a part?"""
        merged = self.ask(self._merge)
        return merged is not None and bool(merged.whole)

    @property
    def parts(self) -> list[Part]:
        """All units of the table of rows."""
        return [part for tables in self._all.values() for part in tables.parts["rows"]]

    def attempts(self) -> list[Attempt]:
        """Those of the lowest rank that took a step, in order."""
        found: dict[int, list[Part]] = {}
        for part in self.lead.parts["steps"]:
            found.setdefault(part.attempt, []).append(part)
        return [
            Attempt(
                number,
                min(part.first_step for part in parts),
                max(part.last_step for part in parts),
                max(min(part.last_step, part.limit - 1) for part in parts),
            )
            for number, parts in sorted(found.items())
        ]

    def states(self, run: dict[str, Any]) -> list[tuple[int, str, int]]:
        """Of each rank: its number, its state (as RunInfo.state) and the last step that it recorded."""
        states = []
        for rank in self.numbers:
            tables = self._all.get(rank) or self._tables(rank)
            state = state_of(run, tables.folder, last_flush_of(tables.folder))
            states.append((rank, state, max((min(p.last_step, p.limit - 1) for p in tables.parts["steps"]), default=-1)))
        return states


def _has_shards(tensors: pa.Table) -> bool:
    return bool(pc.any(pc.equal(tensors.column("placement"), SHARD)).as_py())


def _is_same(one: dict[int, pa.Table], other: dict[int, pa.Table]) -> bool:
    """The very same tables (each is kept until something is added to it)?"""
    return one.keys() == other.keys() and all(one[rank] is other[rank] for rank in one)
