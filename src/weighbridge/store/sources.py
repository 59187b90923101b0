"""Which files and which steps of them answer a question about rows. Makes SQL text only; query.py runs it.

For buckets of steps a compacted unit answers with its bucket file where a bucket lies wholly inside what is asked and
what counts, and with its single rows at the edges; a thinned unit has only its buckets, which then answer whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from weighbridge.catalog import FINITE, RATIO, Statistic, sql
from weighbridge.records import NONFINITE, WHOLE, Quantity
from weighbridge.store.compact import bucket_file
from weighbridge.store.downsample import weight_of
from weighbridge.store.shards import Share, merged_sql
from weighbridge.store.tables import FOREVER, Part

_RMS = f"sqrt(sum_sq / {FINITE})"
_BAD = f"({' + '.join(NONFINITE)})"
_ZEROS = ", ".join(f"0::BIGINT AS {name}" for name in NONFINITE)
_ANY_NUMBER = 1 << 60


@dataclass(slots=True)
class Plan:
    """The parts of an answer: single rows of files and of the live tail, and bucket files."""

    # (low, high) = steps that count of these files, and whether all in them is known to be finite; tails are read from memory
    files: dict[tuple[int, int, bool], list[str]] = field(default_factory=dict)
    tails: list[tuple[Part, int, int]] = field(default_factory=list)
    # (low, high) = numbers of the buckets that count
    buckets: dict[tuple[int, int], list[str]] = field(default_factory=dict)
    # of several ranks: each one's own plan and what it has part in; and the elements that a sharded tensor must have
    merged: list[tuple[Plan, Share]] = field(default_factory=list)
    whole: dict[int, int] = field(default_factory=dict)

    @property
    def is_of_buckets(self) -> bool:
        """Do bucket files alone answer?"""
        return not (self.files or self.tails or self.merged)

    def pieces(self) -> list[Plan]:
        """The plans of single ranks."""
        return [one for one, _ in self.merged] or [self]

    def add_rows(self, part: Part, low: int, high: int, looks: bool = False) -> None:
        if low >= high:
            return
        if part.reader is not None:
            self.tails.append((part, low, high))
        elif part.row_count:
            low = 0 if low <= part.first_step else low
            high = FOREVER if high > part.last_step else high
            self.files.setdefault((low, high, looks and part.is_finite), []).append(str(part.rows_file))


def plan_rows(parts: list[Part], start: int, stop: int, looks: bool = False) -> Plan:
    """Single rows of start <= step < stop. `looks`: into footers, for what need not be read: worth it where much is read."""
    plan = Plan()
    for part in parts:
        high = min(stop, part.limit)
        if part.first_step < high and part.last_step >= start:
            plan.add_rows(part, start, high, looks)
    return plan


def plan_buckets(parts: list[Part], start: int, stop: int, level: int) -> Plan:
    """Bucket files of `level` steps (0 = none, where no unit is thinned), and single rows where they do not fit."""
    plan = Plan()
    for part in parts:
        high = min(stop, part.limit)
        if part.first_step >= high or part.last_step < start:
            continue
        if part.reader is not None or not level:
            plan.add_rows(part, start, high)
            continue
        first = 0 if part.first_step >= start else -(-start // level)
        last = _ANY_NUMBER if part.last_step < high else high // level
        if part.thinned:  # only buckets are left: they answer whole where the question cuts them, not where an attempt does
            first = 0 if part.first_step >= start else start // level
            last = -(-high // level) if last != _ANY_NUMBER and high < part.limit else last
        plan.buckets.setdefault((first, last), []).append(str(part.unit.stem / bucket_file(level)))
        if not part.thinned:
            plan.add_rows(part, start, min(high, first * level))
            plan.add_rows(part, max(start, min(last * level, FOREVER)), high)
    return plan


def rows_sql(plan: Plan, columns: str, where: str) -> str | None:
    """SQL of the rows of a plan; each tail is registered under its `tail_name`."""
    if plan.merged:
        both = merged_sql([(rows_sql(one, "*", "true"), share) for one, share in plan.merged], plan.whole)
        return f"SELECT {columns} FROM ({both}) WHERE {where}" if both else None
    pieces = []
    for (low, high, is_finite), files in plan.files.items():
        source = f"(SELECT * REPLACE ({_ZEROS}) FROM {_files(files)})" if is_finite else _files(files)
        pieces.append(f"SELECT {columns} FROM {source} WHERE {where}{_steps(low, high)}")
    for part, low, high in plan.tails:
        pieces.append(f"SELECT {columns} FROM {tail_name(part)} WHERE {where}{_steps(low, high)}")
    return " UNION ALL ".join(pieces) if pieces else None


def values_sql(plan: Plan, quantity: Quantity, statistic: Statistic, where: str) -> str | None:
    """SQL of (step, tensor, value, bad). `bad`: elements that are not finite."""
    source = numbers_sql(plan, quantity, [statistic], where)
    return f"SELECT step, tensor, value0 AS value, bad FROM ({source})" if source else None


def numbers_sql(plan: Plan, quantity: Quantity, statistics: Sequence[Statistic], where: str) -> str | None:
    """SQL of (step, tensor, value0, value1 ..., bad).

    The ratio, which stands alone, joins the update's row with the parameter's of the same step.
    """
    whole = f"part = {WHOLE} AND {where}"
    if RATIO not in statistics:
        values = ", ".join(f"CAST({sql(one)} AS DOUBLE) AS value{i}" for i, one in enumerate(statistics))
        return rows_sql(plan, f"step, tensor, {values}, {_BAD} AS bad", f"{whole} AND quantity = {int(quantity)}")
    assert len(statistics) == 1, statistics
    both = f"{whole} AND quantity IN ({int(Quantity.PARAMETER)}, {int(Quantity.UPDATE)})"
    sizes = rows_sql(plan, f"step, tensor, quantity, {_RMS} AS rms, {_BAD} AS bad", both)
    if sizes is None:
        return None
    update, parameter = (f"max(rms) FILTER (quantity = {int(q)})" for q in (Quantity.UPDATE, Quantity.PARAMETER))
    return (
        f"SELECT * FROM (SELECT step, tensor, {update} / {parameter} AS value0,"
        f" max(bad) FILTER (quantity = {int(Quantity.UPDATE)}) AS bad FROM ({sizes}) GROUP BY step, tensor)"
        " WHERE value0 IS NOT NULL"
    )


def buckets_sql(
    plan: Plan, quantities: Sequence[Quantity], statistics: Sequence[Statistic], where: str, grid: tuple[int, int, int]
) -> str | None:
    """SQL of (quantity, tensor, bucket, bad, and of each statistic total0, weight0, low0, high0), NaN left out of all but
    `bad`; a cell may come in several pieces. Several quantities at once: where bucket files alone answer.

    `grid` = where bucket 0 begins, steps in a bucket, level of bucket files. Single rows are grouped by the engine;
    bucket rows, few per cell, are not: the caller adds the pieces, which costs a third of a GROUP BY over them.
    """
    base, width, level = grid
    pieces = []
    source = None if plan.is_of_buckets else numbers_sql(plan, quantities[0], statistics, where)
    if source is not None:
        assert len(quantities) == 1, quantities
        numbers, folded = f"tensor, (step - {base}) // {width} AS bucket, bad", "CAST(max(bad) AS DOUBLE) AS bad"
        for i in range(len(statistics)):
            value = f"value{i}"
            numbers += f", CASE WHEN isnan({value}) THEN NULL ELSE {value} END AS {value}"
            folded += f", coalesce(sum({value}), 0) AS total{i}, CAST(count({value}) AS BIGINT) AS weight{i}"
            folded += f", coalesce(min({value}), 'NaN') AS low{i}, coalesce(max({value}), 'NaN') AS high{i}"
        kind = f"{int(quantities[0])} AS quantity"
        pieces.append(
            f"SELECT {kind}, tensor, bucket, {folded} FROM (SELECT {numbers} FROM ({source})) GROUP BY tensor, bucket"
        )
    for (first, last), files in plan.buckets.items():
        at = f"(greatest(bucket * {level}, {base}) - {base}) // {width} AS bucket"
        inside = f"quantity IN ({', '.join(str(int(one)) for one in quantities)}) AND {where}"
        inside += f" AND bucket >= {first}" if first else ""
        inside += f" AND bucket < {last}" if last != _ANY_NUMBER else ""
        columns = f"quantity, tensor, {at}, nonfinite_count_high AS bad"
        for i, one in enumerate(statistics):
            columns += f", {one.name}_sum AS total{i}, {weight_of(one)} AS weight{i}"
            columns += f", {one.name}_low AS low{i}, {one.name}_high AS high{i}"
        pieces.append(f"SELECT {columns} FROM {_files(files)} WHERE {inside}")
    return " UNION ALL ".join(pieces) if pieces else None


def tail_name(part: Part) -> str:
    return f"tail_{part.unit.folder.name.replace('-', '_')}_{part.unit.number}"


def _files(files: list[str]) -> str:
    listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
    return f"read_parquet([{listed}])"


def _steps(low: int, high: int) -> str:
    return (f" AND step >= {low}" if low else "") + (f" AND step < {high}" if high != FOREVER else "")
