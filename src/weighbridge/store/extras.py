"""Readers of the tables about what modules give (units, calls, biases), and of what optimizers hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weighbridge.records import Quantity
from weighbridge.store.views import BiasShare, Detail, Event, Group, NonFinite, Units

BATCH: Final = "the batch"


def last_units(table: pa.Table) -> dict[int, Units]:
    """The last row of each output, by its id."""
    newest: dict[int, tuple[int, int]] = {}
    steps = table.column("step").to_pylist()
    for i, tensor in enumerate(table.column("tensor").to_pylist()):
        if tensor not in newest or steps[i] > newest[tensor][0]:
            newest[tensor] = (steps[i], i)
    return {tensor: units_at(table, i) for tensor, (_, i) in newest.items()}


def units_at(table: pa.Table, row: int) -> Units:
    """One row of the table of units."""
    lists = {name: table.column(name)[row].values.to_numpy(zero_copy_only=False) for name in ("active", "sum", "sum_sq", "max")}
    for array in lists.values():
        array.flags.writeable = False
    step, n, steps = (int(table.column(name)[row].as_py()) for name in ("step", "n", "steps"))
    return Units(step, n, **lists, steps=steps)


def units_of(table: pa.Table, tensor: int) -> list[Units]:
    """All rows of one output, in order of steps."""
    found = table.filter(pc.equal(table.column("tensor"), tensor)).sort_by("step")
    return [units_at(found, i) for i in range(found.num_rows)]


def first_nonfinite(table: pa.Table, names: dict[int, str]) -> NonFinite | None:
    """What was not finite first: in the earliest step, in the order in which that step met it."""
    bad = table.filter(pc.greater_equal(table.column("nonfinite_call"), 0))
    if not bad.num_rows:
        return None
    row = bad.sort_by([("step", "ascending"), ("place", "ascending")]).slice(0, 1).to_pylist()[0]
    name = names.get(row["tensor"], BATCH)
    return NonFinite(row["step"], name, Quantity(row["quantity"]).word, row["nonfinite_call"])


def bias_share(table: pa.Table, tensor: int) -> BiasShare:
    """What a bias adds, beside what it is added to, at each step at which both were weighed."""
    found = table.filter(pc.equal(table.column("tensor"), tensor)).sort_by("step")
    columns = {name: found.column(name).to_numpy() for name in ("step", "bias_sq", "rest_sq", "dot")}
    with np.errstate(all="ignore"):
        share = np.sqrt(columns["bias_sq"] / columns["rest_sq"])
        cosine = columns["dot"] / np.sqrt(columns["bias_sq"] * columns["rest_sq"])
    for array in (share, cosine):
        array.flags.writeable = False
    return BiasShare(columns["step"], share, cosine)


def last_detail(events: Iterable[Event]) -> Detail | None:
    """The last change of detail, where it left something out."""
    changes = [event for event in events if event.kind == "detail"]
    if not changes or not (told := changes[-1].detail).get("level"):
        return None
    cost, allowed = (_float(told.get(name)) for name in ("cost", "allowed"))
    return Detail(changes[-1].step, str(told.get("words", "")), cost, allowed)


def _float(value: object) -> float:
    return float(value) if isinstance(value, int | float) else np.nan


def optimizer_groups(events: Iterable[Event], names: Mapping[int, str]) -> list[Group]:
    """What stood in the events about optimizers, in their order."""
    found = []
    for event in of_optimizers(events):
        optimizer, kind = event.detail["optimizer"], event.detail["class"]
        for number, group in enumerate(event.detail["groups"]):
            tensors = tuple(names[tensor] for tensor in group["tensors"] if tensor in names)
            found.append(Group(optimizer, kind, number, event.step, group["settings"], tensors))
    return found


def of_optimizers(events: Iterable[Event]) -> list[Event]:
    """The events that tell of an optimizer and its groups. One that lacks a part, as others may write it, tells of none."""
    return [event for event in events if event.kind == "optimizer" and _is_whole(event.detail)]


def _is_whole(told: Mapping[str, Any]) -> bool:
    groups = told.get("groups")
    is_named = isinstance(told.get("optimizer"), int) and isinstance(told.get("class"), str)
    return is_named and isinstance(groups, list) and all(map(_is_group, groups))


def _is_group(told: object) -> bool:
    if not isinstance(told, dict):
        return False
    tensors = told.get("tensors")
    are_ids = isinstance(tensors, list) and all(isinstance(one, int) for one in tensors)
    return are_ids and isinstance(told.get("settings"), dict)
