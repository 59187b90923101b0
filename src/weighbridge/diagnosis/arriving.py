"""Blocks of a run that is being recorded, from its record batches as they are written.

The same blocks as `RecordedRun` makes of the files, up to where they are cut: nothing is read from disk, and nothing but
NumPy and Arrow works on the numbers. One thread at a time.

What comes too late, for a step that was handed out already, is counted in `late`: what was said (events, tensors, the graph)
holds from the next step on, numbers are left out.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from weighbridge.catalog import Statistic, evaluate_all, parse
from weighbridge.diagnosis.rule import Needs
from weighbridge.diagnosis.stream import (
    STEP_COLUMNS,
    Block,
    Rows,
    as_row,
    block_steps,
    groups_at,
    order_of,
    rows_of,
    tensors_at,
)
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.records import ROWS, WHOLE, Quantity
from weighbridge.store.extras import of_optimizers
from weighbridge.store.persteps import events as read_events
from weighbridge.store.views import Event, Tensor, read_only

Arrays = dict[str, np.ndarray]
_KEY: Final = ("step", "tensor")
_step = operator.itemgetter("step")
_SAID: Final = ("graph",)  # no numbers of a step, but a word on the run


class Arriving:
    """Takes batches, gives blocks."""

    def __init__(self, needs: Needs) -> None:
        self.needs = needs
        self.next = 0  # the first step that was not handed out yet
        self.late = 0  # rows
        self._wanted = _by_quantity(needs)
        self._columns = {quantity: columns_of(listed) for quantity, listed in self._wanted.items()}
        self._rows: dict[Quantity, list[Arrays]] = {quantity: [] for quantity in self._wanted}
        self._small: dict[str, list[Mapping[str, Any]]] = {name: [] for name in needs.tables - {"groups", "events"}}
        self._small["steps"] = []
        self._events: list[Event] = []
        self._described: list[tuple[int, Tensor]] = []
        self._tensors = (0, Tensors(()))
        self._last = -1  # the last step that anything was said of

    def begin(self, step: int, described: Iterable[tuple[int, Tensor]], events: Iterable[Event]) -> None:
        """What comes goes on at this step; what was said before it of tensors and optimizers still holds."""
        self.next, self._last = step, step - 1
        self._described = [(since, tensor) for since, tensor in described if since <= step]
        self._events = [e for e in of_optimizers(events) if e.step < step]

    @property
    def columns(self) -> frozenset[str]:
        """What of the table of rows is read; the rest need not be kept."""
        return frozenset(name for columns in self._columns.values() for name in columns) | {*_KEY, "quantity", "part"}

    def add(self, batches: Mapping[str, pa.RecordBatch]) -> None:
        """The next batches of each table, in the order in which they were written."""
        for table, batch in batches.items():
            if table == "tensors":
                self._described += [(max(r["step"], self.next), Tensor.from_row(r)) for r in batch.to_pylist()]
            elif table == "events":
                self._add_events(batch)
            elif table == "rows":
                self._add_rows(batch)
            elif table in self._small:
                self._add_small(table, batch)

    def _add_events(self, batch: pa.RecordBatch) -> None:
        for event in read_events(pa.Table.from_batches([batch])):
            is_late = max(event.step, 0) < self.next
            self.late += is_late
            self._last = max(self._last, event.step)
            self._events.append(dataclasses.replace(event, step=self.next) if is_late else event)

    def _add_small(self, table: str, batch: pa.RecordBatch) -> None:
        whole = pa.Table.from_batches([batch])
        rows = rows_of(whole.select(STEP_COLUMNS) if table == "steps" else whole)
        self._last = max(self._last, rows[-1]["step"])
        late = bisect.bisect_left(rows, self.next, key=_step)
        self.late += late
        said = tuple({**row, "step": self.next} for row in rows[:late]) if table in _SAID else ()
        self._small[table] = sorted([*self._small[table], *said, *rows[late:]], key=order_of(rows))

    def _add_rows(self, batch: pa.RecordBatch) -> None:
        steps, quantity = batch.column("step").to_numpy(), batch.column("quantity").to_numpy()
        self._last = max(self._last, int(steps.max()))
        is_whole = batch.column("part").to_numpy() == WHOLE
        for wanted, columns in self._columns.items():
            at = np.flatnonzero(is_whole & (quantity == int(wanted)) & (steps >= self.next))
            if len(at):
                self._rows[wanted].append({name: batch.column(name).to_numpy()[at] for name in columns})
        if steps.min() < self.next:
            self.late += int((steps < self.next).sum())

    @property
    def stop(self) -> int:
        """One more than the last step that anything was said of."""
        return self._last + 1

    @property
    def tensors(self) -> int:
        """How many are known by now."""
        return len({tensor.id for _, tensor in self._described})

    def blocks(self, below: int) -> Iterator[Block]:
        """The steps before this one that were not handed out yet. Each block counts as handed out when it is taken."""
        if self.next == 0 and below == 0:
            yield from self._passes()
        changes = {e.step for e in self._events if e.kind == "optimizer"} | {step for step, _ in self._described}
        edges = sorted({self.next, below, *(s for s in changes if self.next < s < below)})
        grids = self._grids(below) if below > self.next else {}
        for low, high in itertools.pairwise(edges) if below > self.next else ():
            tensors = self._tensors_at(low)
            groups = groups_at(self._events, low, tensors)
            for start, stop in block_steps(low, high, len(tensors)):
                arrays = _placed(grids.values(), self.needs.statistics, start, stop, tensors)
                tables = {name: self._take(name, stop) for name in self._small}
                tables["events"] = self._take_events(start, stop)
                self.next = stop
                self._forget(stop)
                yield Block(start, stop, tensors, groups, arrays, tables)

    def _tensors_at(self, step: int) -> Tensors:
        """Made anew only where something was said of a tensor: it may be thousands, and a look is one step."""
        said = sum(since <= max(step, 0) for since, _ in self._described)
        if self._tensors[0] != said:
            self._tensors = (said, tensors_at(self._described, step))
        return self._tensors[1]

    def _passes(self) -> Iterator[Block]:
        """While nobody steps, step 0 does not end: what is known of its passes comes in blocks of no steps."""
        rows = tuple(self._small.get("passes", ()))
        if rows and not self._small["steps"]:
            self._small["passes"] = []
            tensors = tensors_at(self._described, 0)
            arrays = {name: np.full((0, len(tensors)), np.nan) for name in self.needs.statistics}
            tables: dict[str, Rows] = dict.fromkeys((*self._small, "events"), ())
            yield Block(0, 0, tensors, groups_at(self._events, 0, tensors), arrays, {**tables, "passes": rows})

    # ---- what is taken out, and what is kept for later ----

    def _grids(self, below: int) -> dict[Quantity, Arrays]:
        """Of each quantity its rows of all steps before this one: step, tensor and the statistics by name."""
        found: dict[Quantity, Arrays] = {}
        for quantity, pieces in self._rows.items():
            if not pieces:
                continue
            columns = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
            inside = columns["step"] < below
            if not inside.all():
                columns = {name: column[inside] for name, column in columns.items()}
            wanted = self._wanted[quantity]
            names = [f"{quantity.word}.{one.name}" for one in wanted]
            made = dict(zip(names, evaluate_all(wanted, columns), strict=True))
            found[quantity] = {"step": columns["step"], "tensor": columns["tensor"], **made}
        return found

    def _forget(self, stop: int) -> None:
        """Rows of steps that were handed out."""
        for quantity, pieces in self._rows.items():
            left = [piece for piece in pieces if piece["step"].max() >= stop]
            self._rows[quantity] = left

    def _take(self, table: str, stop: int) -> Rows:
        """The rows of a small table before this step."""
        rows = self._small[table]
        if not rows or rows[0]["step"] >= stop:
            return ()
        at = bisect.bisect_left(rows, stop, key=_step)
        self._small[table] = rows[at:]
        return tuple(rows[:at])

    def _take_events(self, start: int, stop: int) -> Rows:
        """The events of these steps. What is kept: those to come, and the last word on each optimizer."""
        taken = tuple(as_row(e) for e in self._events if start <= max(e.step, 0) < stop)
        last = {e.detail["optimizer"]: id(e) for e in of_optimizers(self._events) if e.step < stop}
        keep = {*last.values()}
        self._events = [e for e in self._events if e.step >= stop or id(e) in keep]
        return taken


def columns_of(statistics: Sequence[Statistic]) -> tuple[str, ...]:
    """The columns of the table of rows that these statistics are made from, and the key."""
    words = {word for one in statistics for word in re.findall(r"\w+", one.formula)}
    words |= {"count", "nan", "pos_inf", "neg_inf"} if "finite" in words else set()
    return tuple(name for name in ROWS.names if name in words or name in _KEY)


def _by_quantity(needs: Needs) -> dict[Quantity, list[Statistic]]:
    found: dict[Quantity, list[Statistic]] = {}
    for quantity, statistic in map(parse, needs.statistics):
        found.setdefault(quantity, []).append(statistic)
    return found


def _placed(rows: Iterable[Arrays], statistics: Sequence[str], start: int, stop: int, tensors: Tensors) -> Arrays:
    """float64 [steps, tensors] of each statistic; NaN = not recorded."""
    arrays = {name: np.full((stop - start, len(tensors)), np.nan) for name in statistics}
    place = np.full(max(tensors.column, default=0) + 2, -1)
    place[list(tensors.column)] = np.arange(len(tensors))
    for columns in rows:
        column = place[np.minimum(columns["tensor"], len(place) - 1)]
        inside = np.flatnonzero((columns["step"] >= start) & (columns["step"] < stop) & (column >= 0))
        at = (columns["step"][inside] - start, column[inside])
        for name in columns.keys() - {"step", "tensor"}:
            arrays[name][at] = columns[name][inside]
    read_only(*arrays.values())
    return arrays
