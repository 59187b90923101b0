"""Questions about the big table of rows, answered by DuckDB over Parquet and the live tail as one view.

The only module that knows DuckDB. A `RowQuery` keeps one connection; it is used by one thread at a time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from weighbridge.catalog import RATIO, Statistic, sql
from weighbridge.errors import CorruptRun
from weighbridge.records import ROWS, WHOLE, Quantity
from weighbridge.store.histogram import merged_histograms
from weighbridge.store.shards import Merge
from weighbridge.store.sources import Plan, buckets_sql, numbers_sql, plan_buckets, plan_rows, rows_sql, tail_name, values_sql
from weighbridge.store.tables import RankTables

FEW = 16  # tensors that are named to the engine; of more it reads all
Arrays = dict[str, np.ndarray]
_EMPTY: dict[str, np.ndarray] = {
    "step": np.empty(0, np.int64),
    "tensor": np.empty(0, np.int32),
    "quantity": np.empty(0, np.int8),
    "bucket": np.empty(0, np.int64),
    **{name: np.empty(0) for name in ("value", "bad")},
}


class RowQuery:
    """Answers over `rows` of one rank, or of several as one (`merge`; then single rows answer, never bucket files)."""

    def __init__(self, tables: RankTables) -> None:
        self._tables = tables
        self._others: dict[int, RankTables] = {}
        self._merge: Merge | None = None
        self._opened: duckdb.DuckDBPyConnection | None = None  # made at the first question: a list of runs asks none

    def read_as_one(self, ranks: dict[int, RankTables], merge: Merge | None) -> None:
        """Answer for these ranks together; with None, for the one rank of the constructor."""
        self._others, self._merge = ranks, merge

    @property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        if self._opened is None:
            self._opened = duckdb.connect(":memory:")
            self._opened.execute("SET enable_progress_bar = false")
            self._opened.execute("SET parquet_metadata_cache = true")  # footers are read once: compacted files never change
        return self._opened

    def series(
        self, tensor: int, quantity: Quantity, statistics: Sequence[Statistic], start: int, stop: int
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each statistic of one tensor steps and values for start <= step < stop, in order. The ratio is asked for alone."""
        plan = self._plan_rows(start, stop)
        source = numbers_sql(plan, quantity, statistics, f"tensor = {int(tensor)}")
        names = [f"value{i}" for i in range(len(statistics))]
        found = self._arrays(plan, f"SELECT step, {', '.join(names)} FROM ({source})" if source else None)
        order = np.argsort(found["step"], kind="stable")
        return [(found["step"][order], found.get(name, np.empty(0))[order]) for name in names]

    def at_step(self, step: int, wanted: Sequence[tuple[Quantity, Statistic]]) -> list[Arrays]:
        """Per wanted statistic tensor and value at one step."""
        plan = self._plan_rows(step, step + 1)
        answers = []
        for quantity, statistic in wanted:
            source = values_sql(plan, quantity, statistic, f"step = {int(step)}")
            answers.append(self._arrays(plan, f"SELECT tensor, value FROM ({source})" if source else None))
        return answers

    def singles(self, quantity: Quantity, statistic: Statistic, start: int, stop: int) -> Iterator[Arrays]:
        """step, tensor, value and `bad` (elements not finite) of one statistic of all tensors for start <= step < stop.

        In pieces: put together, the columns of millions of rows take longer than what is done with them.
        """
        plan = self._plan_rows(start, stop, looks=True)
        source = values_sql(plan, quantity, statistic, "true")
        table = self._run(plan, f"SELECT step, tensor, value, CAST(bad AS BIGINT) AS bad FROM ({source})") if source else None
        for batch in table.to_batches() if table is not None else ():
            yield {name: batch.column(name).to_numpy(zero_copy_only=False) for name in batch.schema.names}

    def grid(
        self, quantity: Quantity, wanted: Sequence[Statistic], start: int, stop: int, steps: np.ndarray | None = None
    ) -> Arrays:
        """step, tensor and these statistics (by name) of one quantity for start <= step < stop (or of these steps only); single
        rows only."""
        plan = self._plan_rows(start, stop)
        columns = ", ".join(f'CAST({sql(one)} AS DOUBLE) AS "{one.name}"' for one in wanted)
        where = f"part = {WHOLE} AND quantity = {int(quantity)} AND step >= {int(start)} AND step < {int(stop)}"
        where += f" AND step IN ({', '.join(map(str, steps.tolist()))})" if steps is not None else ""
        return self._arrays(plan, rows_sql(plan, f"step, tensor, {columns}", where))

    def last(self, quantity: Quantity, statistic: Statistic, start: int, stop: int) -> Arrays:
        """tensor, its last recorded step in the range and the value there."""
        plan = self._plan_rows(start, stop)
        source = values_sql(plan, quantity, statistic, "true")
        text = f"SELECT tensor, max(step) AS step, arg_max(value, step) AS value FROM ({source}) GROUP BY tensor"
        return self._arrays(plan, text if source else None)

    def buckets(
        self,
        wanted: Sequence[tuple[Quantity, Statistic]],
        span: tuple[int, int],
        grid: tuple[int, int, int],
        ids: np.ndarray,
        cells: int,
    ) -> list[tuple[np.ndarray, ...]]:
        """Of each wanted statistic mean, least and greatest of the single steps' values as [ids, cells], NaN where there is
        none; and the most elements that one step had which are not finite, NaN where nothing was recorded.

        `span` = start and stop; `grid` = where cell 0 begins, steps in a cell, and the level of bucket files to use (0 = none).
        """
        plan = self._plan_rows(*span)  # of several ranks: means of shards do not add up, what does is in single rows
        if self._merge is None:
            plan = plan_buckets(self._tables.parts["rows"], *span, grid[2])
        some = f"tensor IN ({', '.join(map(str, ids.tolist()))})" if len(ids) <= FEW else "true"
        answers: dict[tuple[Quantity, Statistic], tuple[np.ndarray, ...]] = {}
        for together in [wanted] if plan.is_of_buckets else of_one_quantity(wanted):  # to open many files takes the longest
            quantities, statistics = [*dict.fromkeys(one for one, _ in together)], [one for _, one in together]
            found = self._arrays(plan, buckets_sql(plan, quantities, statistics, some, grid))
            for quantity in quantities:
                numbers = [i for i, one in enumerate(together) if one[0] == quantity]
                answers |= zip([together[i] for i in numbers], _placed(found, quantity, numbers, ids, cells), strict=True)
        return [answers[one] for one in wanted]

    def histogram(self, tensor: int, quantity: Quantity, step: int) -> dict[str, Any] | None:
        """The stored histogram columns of one row, or nothing."""
        if self._merge is not None:
            return self._merged_histogram(tensor, quantity, step)
        plan = self._plan_rows(step, step + 1)
        where = f"step = {int(step)} AND part = {WHOLE} AND tensor = {int(tensor)} AND quantity = {int(quantity)}"
        source = rows_sql(plan, "hist_count, hist_bits, hist_first, hist", where)
        if source is None:
            return None
        found = self._run(plan, source).to_pylist()
        return found[-1] if found else None

    def histograms(self, tensor: int, quantity: Quantity, steps: Sequence[int]) -> list[dict[str, Any]]:
        """The stored histogram columns of the rows at these steps, each with its `step`."""
        if not len(steps):
            return []
        if self._merge is not None:
            found = [(step, self._merged_histogram(tensor, quantity, int(step))) for step in steps]
            return [{"step": step, **row} for step, row in found if row is not None]
        plan = self._plan_rows(int(min(steps)), int(max(steps)) + 1)
        where = f"step IN ({', '.join(str(int(step)) for step in steps)})"
        where += f" AND part = {WHOLE} AND tensor = {int(tensor)} AND quantity = {int(quantity)}"
        source = rows_sql(plan, "step, hist_count, hist_bits, hist_first, hist", where)
        rows: list[dict[str, Any]] = self._run(plan, source).to_pylist() if source else []
        return rows

    def _merged_histogram(self, tensor: int, quantity: Quantity, step: int) -> dict[str, Any] | None:
        parts: list[dict[str, Any]] = []
        plan = self._plan_rows(step, step + 1)
        for one, share in plan.merged:
            for own in [own for own, number in share.items() if number == tensor]:
                where = f"step = {int(step)} AND part = {WHOLE} AND tensor = {own} AND quantity = {int(quantity)}"
                source = rows_sql(one, '"count", hist_count, hist_bits, hist_first, hist', where)
                parts += self._run(one, source).to_pylist()[-1:] if source else []
        elements = sum(part["count"] for part in parts)
        if not elements or elements != plan.whole.get(tensor, elements):
            return None
        return merged_histograms(parts)

    def _plan_rows(self, start: int, stop: int, looks: bool = False) -> Plan:
        if self._merge is None:
            return plan_rows(self._tables.parts["rows"], start, stop, looks)
        plan = Plan(whole=self._merge.whole)
        for rank, tables in self._others.items():
            plan.merged.append((plan_rows(tables.parts["rows"], start, stop), self._merge.shares[rank]))
        return plan

    @contextmanager
    def _live_tails(self, plan: Plan, text: str) -> Iterator[None]:
        """Make the segments of a plan known to the engine while the block lasts: the columns that are named in the question,
        read from the files as the engine asks for them. What was kept of them would grow for as long as nobody compacts."""
        columns = [name for name in ROWS.names if re.search(rf"\b{name}\b", text)]
        names = []
        try:
            for part, low, high in [tail for one in plan.pieces() for tail in one.tails]:
                assert part.reader is not None
                names.append(tail_name(part))
                assert len(re.findall(rf"\b{names[-1]}\b", text)) == 1, text  # a stream can be read once
                self._connection.register(names[-1], part.reader.stream(columns, low, high))
            yield
        finally:
            for name in names:
                self._connection.unregister(name)

    def _arrays(self, plan: Plan, text: str | None) -> Arrays:
        if text is None:
            return dict(_EMPTY)
        table = self._run(plan, text)
        return {name: _numpy(table.column(name)) for name in table.column_names}

    def _run(self, plan: Plan, text: str) -> pa.Table:
        """Raises FileNotFoundError where a file went meanwhile (ask again after a refresh), CorruptRun where one is damaged."""
        try:
            with self._live_tails(plan, text):
                return self._connection.sql(text).to_arrow_table()
        except duckdb.Error as problem:
            listings = [listed for one in plan.pieces() for listed in (*one.files.values(), *one.buckets.values())]
            files = [file for listed in listings for file in listed]
            gone = [file for file in files if not os.path.exists(file)]
            if gone:
                raise FileNotFoundError(gone[0]) from problem
            if not isinstance(problem, duckdb.IOException | duckdb.InvalidInputException | duckdb.SerializationException):
                raise
            said = str(problem).splitlines()[0]
            raise CorruptRun(f"A compacted file cannot be read: {said}. Which one and where: weighbridge verify") from problem


def of_one_quantity(wanted: Sequence[tuple[Quantity, Statistic]]) -> list[list[tuple[Quantity, Statistic]]]:
    """Those that single rows can answer at once: of one quantity; the ratio alone."""
    found: dict[tuple[Quantity, bool], list[tuple[Quantity, Statistic]]] = {}
    for which in dict.fromkeys(wanted):
        found.setdefault((which[0], which[1] is RATIO), []).append(which)
    return list(found.values())


def _placed(
    found: Arrays, quantity: Quantity, numbers: Sequence[int], ids: np.ndarray, cells: int
) -> Iterator[tuple[np.ndarray, ...]]:
    """Of an answer the statistics with these numbers, for one quantity and these tensors."""
    place = np.full(int(max(ids.max(initial=0), found["tensor"].max(initial=0))) + 1, -1, dtype=np.int64)
    place[ids] = np.arange(len(ids))
    row = place[found["tensor"]]
    inside = (row >= 0) & (found["quantity"] == quantity)
    if not inside.all():
        found, row = {name: column[inside] for name, column in found.items()}, row[inside]
    cell = row * cells + found["bucket"]
    return (_folded(cell, found, str(number), (len(ids), cells)) for number in numbers)


def _folded(cell: np.ndarray, found: Arrays, which: str, shape: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """The pieces of each cell put together."""
    size = shape[0] * shape[1]
    if not len(cell):
        return tuple(np.full(shape, np.nan) for _ in range(4))
    total, weight = (np.bincount(cell, found[name + which], size) for name in ("total", "weight"))
    low, high, bad = np.full(size, np.inf), np.full(size, -np.inf), np.full(size, np.nan)
    np.fmin.at(low, cell, found["low" + which])
    np.fmax.at(high, cell, found["high" + which])
    np.fmax.at(bad, cell, found["bad"])
    with np.errstate(invalid="ignore"):
        mean = total / weight  # 0 / 0 = NaN: nothing recorded
    low[weight == 0] = high[weight == 0] = np.nan
    return tuple(grid.reshape(shape) for grid in (mean, low, high, bad))


def _numpy(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(column.to_numpy())
