"""Questions about the big table of rows, answered by DuckDB over Parquet and the live tail as one view.

The only module that knows DuckDB. A `RowQuery` keeps one connection; it is used by one thread at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from weighbridge.catalog import FINITE, RATIO, Statistic, sql
from weighbridge.records import WHOLE, Quantity
from weighbridge.store.tables import FOREVER, Part, RankTables, read_part

_RMS = f"sqrt(sum_sq / {FINITE})"


class RowQuery:
    """Answers over `rows` of one rank."""

    def __init__(self, tables: RankTables) -> None:
        self._tables = tables
        self._connection = duckdb.connect(":memory:")
        self._connection.execute("SET enable_progress_bar = false")

    def series(self, tensor: int, quantity: Quantity, statistic: Statistic, start: int, stop: int) -> tuple[np.ndarray, ...]:
        """Steps and values of one statistic of one tensor for start <= step < stop, in order."""
        where = f"part = {WHOLE} AND tensor = {int(tensor)} AND {_between(start, stop)}"
        source = self._values(quantity, statistic, where, start, stop)
        if source is None:
            return np.empty(0, np.int64), np.empty(0)
        found = self._arrays(f"SELECT step, value FROM ({source}) ORDER BY step")
        return found["step"], found["value"]

    def at_step(self, step: int, wanted: Sequence[tuple[Quantity, Statistic]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Per wanted statistic: ids of tensors and values at one step."""
        answers = []
        for quantity, statistic in wanted:
            source = self._values(quantity, statistic, f"part = {WHOLE} AND step = {int(step)}", step, step + 1)
            if source is None:
                answers.append((np.empty(0, np.int32), np.empty(0)))
                continue
            found = self._arrays(f"SELECT tensor, value FROM ({source})")
            answers.append((found["tensor"], found["value"]))
        return answers

    def last(self, quantity: Quantity, statistic: Statistic, start: int, stop: int) -> tuple[np.ndarray, ...]:
        """Ids of tensors, their last recorded step in the range and the value there."""
        source = self._values(quantity, statistic, f"part = {WHOLE} AND {_between(start, stop)}", start, stop)
        if source is None:
            return np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0)
        found = self._arrays(f"SELECT tensor, max(step) AS step, arg_max(value, step) AS value FROM ({source}) GROUP BY tensor")
        return found["tensor"], found["step"], found["value"]

    def buckets(
        self, quantity: Quantity, statistic: Statistic, start: int, stop: int, width: int, tensor: int | None = None
    ) -> dict[str, np.ndarray]:
        """tensor, bucket (0 = from `start` on), mean, low and high of the single steps' values, NaN left out."""
        where = f"part = {WHOLE} AND {_between(start, stop)}" + (f" AND tensor = {int(tensor)}" if tensor is not None else "")
        source = self._values(quantity, statistic, where, start, stop)
        if source is None:
            empty = np.empty(0)
            return {
                "tensor": np.empty(0, np.int32),
                "bucket": np.empty(0, np.int64),
                "mean": empty,
                "low": empty,
                "high": empty,
            }
        return self._arrays(
            f"SELECT tensor, (step - {int(start)}) // {int(width)} AS bucket, avg(value) AS mean, min(value) AS low,"
            f" max(value) AS high FROM ({source}) WHERE NOT isnan(value) GROUP BY tensor, bucket"
        )

    def histogram(self, tensor: int, quantity: Quantity, step: int) -> dict[str, Any] | None:
        """The stored histogram columns of one row, or nothing."""
        source = self._rows(
            ["step", "part", "tensor", "quantity", "hist_count", "hist_bits", "hist_first", "hist"], step, step + 1
        )
        if source is None:
            return None
        where = f"step = {int(step)} AND part = {WHOLE} AND tensor = {int(tensor)} AND quantity = {int(quantity)}"
        found = self._table(f"SELECT hist_count, hist_bits, hist_first, hist FROM ({source}) WHERE {where}").to_pylist()
        return found[-1] if found else None

    def _values(self, quantity: Quantity, statistic: Statistic, where: str, start: int, stop: int) -> str | None:
        """SQL of (step, tensor, value); the ratio joins the update's row with the parameter's of the same step."""
        source = self._rows(None, start, stop)
        if source is None:
            return None
        if statistic.name != RATIO.name:
            value = f"CAST({sql(statistic)} AS DOUBLE)"
            return f"SELECT step, tensor, {value} AS value FROM ({source}) WHERE quantity = {int(quantity)} AND {where}"
        both = f"quantity IN ({int(Quantity.PARAMETER)}, {int(Quantity.UPDATE)})"
        update, parameter = (f"max(rms) FILTER (quantity = {int(q)})" for q in (Quantity.UPDATE, Quantity.PARAMETER))
        sizes = f"SELECT step, tensor, quantity, {_RMS} AS rms FROM ({source}) WHERE {both} AND {where}"
        return (
            f"SELECT * FROM (SELECT step, tensor, {update} / {parameter} AS value FROM ({sizes}) GROUP BY step, tensor)"
            " WHERE value IS NOT NULL"
        )

    def _rows(self, columns: list[str] | None, start: int, stop: int) -> str | None:
        """SQL of the rows that count and may lie in the range."""
        names = ", ".join(columns) if columns else "*"
        parts = [part for part in self._tables.parts["rows"] if _overlaps(part, start, stop)]
        sources = []
        by_limit: dict[int, list[str]] = {}
        for part in parts:
            if part.reader is None:
                limit = part.limit if part.is_cut else FOREVER
                by_limit.setdefault(limit, []).append(str(part.unit.stem / "rows.parquet"))
        for limit, files in by_limit.items():
            listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
            cut = f" WHERE step < {limit}" if limit != FOREVER else ""
            sources.append(f"SELECT {names} FROM read_parquet([{listed}]){cut}")
        live = [read_part(part) for part in parts if part.reader is not None]
        if live:
            self._connection.register("live", pa.concat_tables(live))
            sources.append(f"SELECT {names} FROM live")
        return " UNION ALL ".join(sources) if sources else None

    def _table(self, text: str) -> pa.Table:
        return self._connection.sql(text).to_arrow_table()

    def _arrays(self, text: str) -> dict[str, np.ndarray]:
        table = self._table(text)
        return {name: _numpy(table.column(name)) for name in table.column_names}


def _numpy(column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _between(start: int, stop: int) -> str:
    return f"step >= {int(start)} AND step < {int(stop)}"


def _overlaps(part: Part, start: int, stop: int) -> bool:
    return part.first_step < min(stop, part.limit) and part.last_step >= start
