"""Blocks of consecutive steps: what rules read, wherever the steps come from.

    steps       [start, stop), complete for all tensors that were due in them
    arrays      one per statistic, float64 [steps, tensors]; NaN = not recorded (or NaN itself: count those by nonfinite_count)
    tables      the rows of small tables with start <= step < stop, as dictionaries (see as_rows)

Within a block the table of tensors and the optimizers' groups do not change: where they do, a new block begins.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from weighbridge.diagnosis.ranked import Ranked, RankReader
from weighbridge.diagnosis.rule import Needs
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.store.extras import of_optimizers
from weighbridge.store.views import Event, Tensor

if TYPE_CHECKING:  # the query engine has no business in a training process
    from weighbridge.store.record import RunRecord

CELLS: Final = 400_000  # steps times tensors of one block: about 3 MB a statistic
MOST_STEPS: Final = 4_096
Rows = tuple[Mapping[str, Any], ...]
STEP_COLUMNS: Final = (
    *("step", "optimizer", "optimizer_step", "loss", "backward_passes", "skipped"),
    *("clip_factor", "loss_scale", "lr", "momentum", "weight_decay", "samples"),
)


@dataclass(frozen=True, slots=True)
class Group:
    """One parameter group of an optimizer, as it stands in this block."""

    optimizer: int
    kind: str  # class of the optimizer
    number: int  # place in param_groups and in the lists of the table of steps
    columns: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)  # all but lr, momentum and weight decay: betas, eps, ...


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive steps."""

    start: int
    stop: int
    tensors: Tensors
    groups: tuple[Group, ...]
    arrays: Mapping[str, np.ndarray]
    tables: Mapping[str, Rows]
    ranks: tuple[Ranked, ...] = ()  # of a run of several, read from its files, where a rule asks for them
    made: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)  # from it, once for all rules

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, statistic: str) -> np.ndarray:
        """[steps, tensors]. Raises KeyError for what the rule's `needs` do not declare."""
        return self.arrays[statistic]

    def rows(self, table: str) -> Rows:
        """Rows of a small table, in order of steps. Raises KeyError as above."""
        return self.tables[table]

    def of_steps(self, column: str, otherwise: float = np.nan) -> np.ndarray:
        """A column of the table of steps at the tensors of the optimizer that stepped: float64 [steps, tensors].

        `lr`, `momentum` and `weight_decay` are those of the tensor's own group.
        `otherwise` stands where no optimizer stepped, or it has none.
        """
        rows = self.rows("steps")
        key = (column, otherwise)
        if key not in self.made:  # many rules ask for the same
            self.made[key] = self._of_steps(rows, column, otherwise)
        made: np.ndarray = self.made[key]
        return made.copy()

    def _of_steps(self, rows: Rows, column: str, otherwise: float) -> np.ndarray:
        found = np.full((len(self), len(self.tensors)), otherwise)
        for optimizer, groups in itertools.groupby(self.groups, lambda group: group.optimizer):
            mine = [row for row in rows if row["optimizer"] == optimizer]
            for group in groups if mine else ():
                told = [(row["step"] - self.start, _of_group(row[column], group.number)) for row in mine]
                steps, values = zip(*told, strict=True)
                here = np.array([otherwise if value is None else value for value in values], float)
                found[np.ix_(steps, group.columns)] = here[:, None]
        return found

    def seen_by(self, needs: Needs) -> Block:
        """Only what was asked for."""
        arrays = {name: self.arrays[name] for name in needs.statistics}
        tables = {name: self.tables.get(name, ()) for name in needs.tables}
        ranks = self.ranks if needs.ranks else ()
        return Block(self.start, self.stop, self.tensors, self.groups, arrays, tables, ranks, self.made)

    def cut(self, *places: int) -> Iterator[Block]:
        """The same steps in pieces that begin at these steps."""
        edges = [self.start, *sorted({p for p in places if self.start < p < self.stop}), self.stop]
        for low, high in itertools.pairwise(edges):
            inside = slice(low - self.start, high - self.start)
            tables = {name: tuple(r for r in rows if low <= r["step"] < high) for name, rows in self.tables.items()}
            arrays = {name: array[inside] for name, array in self.arrays.items()}
            ranks = tuple(one.cut(low, high, self.start) for one in self.ranks)
            yield replace(self, start=low, stop=high, arrays=arrays, tables=tables, ranks=ranks, made={})


def _of_group(value: Any, number: int) -> Any:
    """Of a list that has one entry per group, this group's; None where there is none."""
    if not isinstance(value, list | tuple):
        return value
    return value[number] if number < len(value) else None


def summed(array: np.ndarray) -> np.ndarray:
    """Sum over tensors at each step: float64 [steps, tensors] to [steps].

    NumPy adds in the order of memory, which a choice of columns changes; here it is one, so that the last bit is the same
    however steps are cut into blocks.
    """
    return np.asarray(np.ascontiguousarray(array).sum(axis=1))


def rows_by_step(rows: Iterable[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    """Rows of a small table, by their step; in the order in which they come."""
    found: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["step"], []).append(row)
    return found


def needed(needs: Iterable[Needs]) -> Needs:
    """All that several rules need."""
    every = Needs()
    listed = [*needs]
    every.statistics = tuple(dict.fromkeys(name for one in listed for name in one.statistics))
    every.tables = frozenset(name for one in listed for name in one.tables)
    every.ranks = tuple(dict.fromkeys(name for one in listed for name in one.ranks))
    return every


class RecordedRun:
    """A run in its files, as blocks. While it grows the last step is left out: not all of its rows may be there yet."""

    def __init__(self, record: RunRecord, needs: Needs, *, is_growing: bool = False) -> None:
        self.record, self.needs = record, needs
        self.tables = {name: record.whole(name) for name in needs.tables - {"groups", "events", "steps"}}
        self.tables["steps"] = record.steps_table().select(STEP_COLUMNS)
        self.events = record.events()
        lasts = [int(t.column("step").to_numpy().max()) for t in self.tables.values() if t.num_rows]
        self.stop = 1 + max([record.last_step, *lasts, *(e.step for e in self.events)], default=-1)
        steps = self.tables["steps"].column("step").to_numpy()
        if is_growing and len(steps):
            self.stop = max(0, min(record.last_step, int(steps.max())))
        self.described = record.descriptions()
        self.ranks = RankReader(record, needs.ranks)

    def blocks(self) -> Iterator[Block]:
        """All steps, each once."""
        changes = {e.step for e in self.events if e.kind == "optimizer"} | {step for step, _ in self.described}
        for low, high in itertools.pairwise(sorted({0, self.stop, *(s for s in changes if 0 < s < self.stop)})):
            tensors = tensors_at(self.described, low)
            groups = groups_at(self.events, low, tensors)
            for start, stop in block_steps(low, high, len(tensors)):
                yield self._block(start, stop, tensors, groups)

    def _block(self, start: int, stop: int, tensors: Tensors, groups: tuple[Group, ...]) -> Block:
        arrays = self.record.grids(self.needs.statistics, start, stop, [t.id for t in tensors])
        tables = {name: _between(table, start, stop) for name, table in self.tables.items()}
        tables["events"] = tuple(as_row(e) for e in self.events if start <= max(e.step, 0) < stop)
        return Block(start, stop, tensors, groups, arrays, tables, self.ranks.between(start, stop, tensors))


# ---- how any source of blocks makes them (arriving.py has the other one) ----


def block_steps(low: int, high: int, tensors: int) -> Iterator[tuple[int, int]]:
    """Start and stop of the blocks of these steps, none of them too large."""
    size = min(MOST_STEPS, max(1, CELLS // max(1, tensors)))
    for start in range(low, high, size):
        yield start, min(start + size, high)


def tensors_at(described: Iterable[tuple[int, Tensor]], step: int) -> Tensors:
    """What is watched at this step. described: from which step on, in the order in which it was said."""
    known: dict[int, Tensor] = {}
    for since, tensor in described:
        if since <= max(step, 0):
            known[tensor.id] = tensor
    return Tensors(known[number] for number in sorted(known))


def groups_at(events: Iterable[Event], step: int, tensors: Tensors) -> tuple[Group, ...]:
    """The groups of each optimizer as they were last told up to this step."""
    told = {e.detail["optimizer"]: e.detail for e in of_optimizers(events) if e.step <= step}
    return tuple(
        Group(number, detail["class"], i, _columns(group["tensors"], tensors), group["settings"])
        for number, detail in sorted(told.items())
        for i, group in enumerate(detail["groups"])
    )


def _columns(ids: Iterable[int], tensors: Tensors) -> tuple[int, ...]:
    return tuple(tensors.column[number] for number in ids if number in tensors.column)


def as_row(event: Event) -> Mapping[str, Any]:
    """An event as rules see it."""
    named = {"kind": event.kind, "tensor": event.tensor, "message": event.message, "detail": event.detail}
    return {"step": max(event.step, 0), **named}


def _between(table: pa.Table, start: int, stop: int) -> Rows:
    step = table.column("step").to_numpy()
    inside = np.flatnonzero((step >= start) & (step < stop))
    return rows_of(table.take(pa.array(inside)))


def rows_of(table: pa.Table) -> Rows:
    """The rows of a small table as dictionaries, in order of steps; in one step in the same order, live and compacted."""
    names = table.column_names
    columns = [_plain(table.column(name)) for name in names]
    rows = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    return tuple(sorted(rows, key=order_of(rows)))


def order_of(rows: Sequence[Mapping[str, Any]]) -> Callable[[Mapping[str, Any]], Any]:
    """In which order rows of such a table stand."""
    names = rows[0].keys() if rows else {"step"}
    return operator.itemgetter(*(name for name in ("step", "optimizer", "tensor", "quantity") if name in names))


def _plain(column: pa.ChunkedArray) -> list[Any]:
    """Python's own values, the quick way where there is one; long lists (of units) as arrays."""
    if pa.types.is_list(column.type) and not column.type.value_field.nullable:
        return [one.values.to_numpy() for one in column]
    if column.null_count or not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return list(column.to_pylist())
    return list(column.to_numpy().tolist())
