"""Readers of what stands once per step: losses, epochs, what was logged, own cost; and events."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weighbridge.store.grid import extremes
from weighbridge.store.tables import FOREVER, parse_detail
from weighbridge.store.views import Event, Series, read_only


def between(table: pa.Table, start: int | None, stop: int | None) -> pa.Table:
    """Rows of the table of steps with start <= step < stop, in order of steps."""
    first, last = start or 0, FOREVER if stop is None else stop
    step, optimizer = (table.column(name).to_numpy() for name in ("step", "optimizer"))
    on = np.diff(step)
    if ((on > 0) | ((on == 0) & (np.diff(optimizer) >= 0))).all():  # as they are written; sorting copies whole columns
        low, high = np.searchsorted(step, (first, last))
        return table.slice(low, max(high - low, 0))
    inside = pc.and_(pc.greater_equal(table.column("step"), first), pc.less(table.column("step"), last))
    return table.filter(inside).sort_by([("step", "ascending"), ("optimizer", "ascending")])


def losses(table: pa.Table, buckets: int | None) -> Series:
    """The loss of each step (table in order of steps); with `buckets`, the lowest and highest of each range of steps only."""
    steps, values = table.column("step").to_numpy(), table.column("loss").to_numpy()
    seen = table.column("loss").is_valid().to_numpy()  # null = none seen; NaN is a loss
    steps, first = np.unique(steps[seen], return_index=True)
    values = values[seen][first]
    if buckets is not None and len(steps) > 2 * buckets:
        kept = extremes(values, buckets)
        steps, values = steps[kept], values[kept]
    return Series("loss", *read_only(steps, values))


def epochs(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Steps (table in order of steps) and the epoch at each of them, where one is known."""
    steps, told = table.column("step").to_numpy(), table.column("epoch").to_numpy()
    known = ~np.isnan(told)
    steps, first = np.unique(steps[known], return_index=True)
    return steps, told[known][first]


def samples_at(table: pa.Table, step: int) -> int | None:
    """How many samples the backward passes of one step were over; None where that is not known."""
    found = table.filter(pc.equal(table.column("step"), step)).column("samples").drop_null()
    return int(found[0].as_py()) if len(found) else None


def logged(table: pa.Table, key: str) -> Series | None:
    """What was logged under one name; None where nothing was."""
    found = table.filter(pc.equal(table.column("key"), key)).sort_by("step")
    if not found.num_rows:
        return None
    return Series(key, *read_only(found.column("step").to_numpy(), found.column("value").to_numpy()))


def own_cost(table: pa.Table) -> tuple[float, float]:
    """Seconds of ours on the training thread, and seconds on the wall, from the end of the first step to the last.

    A row tells when its step ended, not when it began, so the first one's time of ours has no wall time to stand against. Of a
    run that was restarted each attempt counts for itself: nothing ran between them.
    """
    times, own, attempts = (table.column(name).to_numpy() for name in ("time_ns", "own_ns", "attempt"))
    ours, wall = 0.0, 0.0
    for attempt in np.unique(attempts):
        of = attempts == attempt
        began = times[of].min()
        ours += float(own[of & (times > began)].sum()) / 1e9
        wall += float(times[of].max() - began) / 1e9
    return ours, wall


def events(table: pa.Table) -> list[Event]:
    """What happened to the run, in the order it was written."""
    rows = table.to_pylist()
    return [Event(r["step"], r["kind"], r["tensor"], r["message"] or "", parse_detail(r["detail"]), r["time_ns"]) for r in rows]
