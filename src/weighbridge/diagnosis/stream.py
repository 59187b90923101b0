"""Blocks of consecutive steps: what rules read, wherever the steps come from.

    steps       [start, stop), complete for all tensors that were due in them
    arrays      one per statistic, float64 [steps, tensors]; NaN = not recorded (or NaN itself: count those by nonfinite_count)
    tables      the rows of small tables with start <= step < stop, as dictionaries (see as_rows)

Within a block the table of tensors and the optimizers' groups do not change: where they do, a new block begins.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa

from weighbridge.diagnosis.rule import Needs
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.store.record import RunRecord
from weighbridge.store.views import Event, Tensor

CELLS: Final = 400_000  # steps times tensors of one block: about 3 MB a statistic
MOST_STEPS: Final = 4_096
LONG_LISTS: Final = frozenset({"active", "sum", "sum_sq", "max"})
Rows = tuple[Mapping[str, Any], ...]
STEP_COLUMNS: Final = (
    *("step", "optimizer", "optimizer_step", "loss", "backward_passes", "skipped"),
    *("clip_factor", "loss_scale", "lr", "momentum", "weight_decay"),
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
        found = np.full((len(self), len(self.tensors)), otherwise)
        members: dict[int, list[Group]] = {}
        for group in self.groups:
            members.setdefault(group.optimizer, []).append(group)
        for row in self.rows("steps"):
            for group in members.get(row["optimizer"], ()):
                value = row[column]
                if isinstance(value, list | tuple):
                    value = value[group.number] if group.number < len(value) else None
                if value is not None:
                    found[row["step"] - self.start, list(group.columns)] = value
        return found

    def seen_by(self, needs: Needs) -> Block:
        """Only what was asked for."""
        arrays = {name: self.arrays[name] for name in needs.statistics}
        return replace(self, arrays=arrays, tables={name: self.tables.get(name, ()) for name in needs.tables})

    def cut(self, *places: int) -> Iterator[Block]:
        """The same steps in pieces that begin at these steps."""
        edges = [self.start, *sorted({p for p in places if self.start < p < self.stop}), self.stop]
        for low, high in itertools.pairwise(edges):
            inside = slice(low - self.start, high - self.start)
            tables = {name: tuple(r for r in rows if low <= r["step"] < high) for name, rows in self.tables.items()}
            yield replace(self, start=low, stop=high, arrays={n: a[inside] for n, a in self.arrays.items()}, tables=tables)


def needed(needs: Iterable[Needs]) -> Needs:
    """All that several rules need."""
    every = Needs()
    listed = [*needs]
    every.statistics = tuple(dict.fromkeys(name for one in listed for name in one.statistics))
    every.tables = frozenset(name for one in listed for name in one.tables)
    return every


class RecordedRun:
    """A run in its files, as blocks."""

    def __init__(self, record: RunRecord, needs: Needs) -> None:
        self.record, self.needs = record, needs
        self.tables = {name: record.whole(name) for name in needs.tables - {"groups", "events", "steps"}}
        self.tables["steps"] = record.steps_table().select(STEP_COLUMNS)
        self.events = record.events()
        lasts = [int(t.column("step").to_numpy().max()) for t in self.tables.values() if t.num_rows]
        self.stop = 1 + max([record.last_step, *lasts, *(e.step for e in self.events)], default=-1)
        self.described = record.descriptions()

    def blocks(self) -> Iterator[Block]:
        """All steps, each once."""
        changes = {e.step for e in self.events if e.kind == "optimizer"} | {step for step, _ in self.described}
        for low, high in itertools.pairwise(sorted({0, self.stop, *(s for s in changes if 0 < s < self.stop)})):
            tensors = self._tensors(low)
            groups = _groups(self.events, low, tensors)
            size = min(MOST_STEPS, max(1, CELLS // max(1, len(tensors))))
            for start in range(low, high, size):
                yield self._block(start, min(start + size, high), tensors, groups)

    def _tensors(self, step: int) -> Tensors:
        known: dict[int, Tensor] = {}
        for since, tensor in self.described:
            if since <= max(step, 0):
                known[tensor.id] = tensor
        return Tensors(known[number] for number in sorted(known))

    def _block(self, start: int, stop: int, tensors: Tensors, groups: tuple[Group, ...]) -> Block:
        arrays = self.record.grids(self.needs.statistics, start, stop, [t.id for t in tensors])
        tables = {name: _between(table, start, stop) for name, table in self.tables.items()}
        tables["events"] = tuple(_as_row(e) for e in self.events if start <= max(e.step, 0) < stop)
        return Block(start, stop, tensors, groups, arrays, tables)


def _groups(events: Iterable[Event], step: int, tensors: Tensors) -> tuple[Group, ...]:
    """The groups of each optimizer as they were last told up to this step."""
    told = {e.detail["optimizer"]: e.detail for e in events if e.kind == "optimizer" and e.step <= step}
    return tuple(
        Group(number, detail["class"], i, _columns(group["tensors"], tensors), group["settings"])
        for number, detail in sorted(told.items())
        for i, group in enumerate(detail["groups"])
    )


def _columns(ids: Iterable[int], tensors: Tensors) -> tuple[int, ...]:
    return tuple(tensors.column[number] for number in ids if number in tensors.column)


def _as_row(event: Event) -> Mapping[str, Any]:
    named = {"kind": event.kind, "tensor": event.tensor, "message": event.message, "detail": event.detail}
    return {"step": max(event.step, 0), **named}


def _between(table: pa.Table, start: int, stop: int) -> Rows:
    step = table.column("step").to_numpy()
    inside = np.flatnonzero((step >= start) & (step < stop))
    return tuple(sorted(as_rows(table.take(pa.array(inside))), key=lambda row: row["step"]))


def as_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows as dictionaries; long lists of numbers (of the table of units) as NumPy arrays."""
    long = {field.name for field in table.schema if pa.types.is_list(field.type) and field.name in LONG_LISTS}
    rows: list[dict[str, Any]] = table.drop_columns([*long]).to_pylist()
    for name in long:
        for row, numbers in zip(rows, table.column(name), strict=True):
            row[name] = numbers.values.to_numpy()
    return rows
