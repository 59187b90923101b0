"""Series as Arrow: what the page draws, already put into buckets here. JavaScript computes no statistics."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from weighbridge.catalog import parse
from weighbridge.records import OF_OUTPUTS
from weighbridge.store.record import Buckets, RunRecord

BUCKETS: Final = 1200  # more points than a screen has columns are never sent
BUCKETS_AT_MOST: Final = 4096

SCHEMA: Final = pa.schema(
    [
        ("series", pa.int32()),  # place in the list that was asked for
        ("step_first", pa.int64()),
        ("step_last", pa.int64()),
        ("mean", pa.float64()),
        ("min", pa.float64()),
        ("max", pa.float64()),
        ("bad", pa.float64()),  # the most non-finite elements (or losses) that one step of the bucket had
    ]
)


@dataclass(frozen=True, slots=True)
class Part:
    """One series, cut into buckets: arrays of one length. Buckets in which nothing was recorded are left out."""

    step_first: np.ndarray
    step_last: np.ndarray
    mean: np.ndarray
    min: np.ndarray
    max: np.ndarray
    bad: np.ndarray


def table_of(parts: Sequence[Part]) -> pa.Table:
    """Several series in one table, one after the other, `series` telling them apart."""
    if not parts:
        return SCHEMA.empty_table()
    places = np.concatenate([np.full(len(part.step_first), place, np.int32) for place, part in enumerate(parts)])
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in SCHEMA.names[1:]}
    return pa.table({"series": places, **columns}, schema=SCHEMA)


def statistics_of(
    record: RunRecord, tensors: Sequence[str], statistics: Sequence[str], start: int | None, stop: int | None, buckets: int
) -> list[Part]:
    """Every statistic of every tensor, tensor by tensor."""
    return [_recorded(found) for found in record.several_buckets(tensors, statistics, buckets, start, stop)]


def _recorded(found: Buckets) -> Part:
    kept = ~np.isnan(found.bad)
    columns = (found.step_first, found.step_last, found.mean, found.min, found.max, found.bad)
    return Part(*(column[kept] for column in columns))


def told_of(
    record: RunRecord, tensors: Sequence[str], statistics: Sequence[str], start: int | None, stop: int | None
) -> list[dict[str, Any]]:
    """Each statistic of each tensor over the steps as one: their mean, least and greatest, elements not finite at worst."""
    told = []
    for tensor in tensors:
        for statistic in statistics:
            quantity, _ = parse(statistic)
            if (quantity in OF_OUTPUTS) != record.tensor(tensor).is_output:
                continue
            found = record.series_buckets(tensor, statistic, 1, start, stop)
            bad = found.bad
            one = {"tensor": tensor, "statistic": statistic, "recorded": bool(len(bad) and not np.isnan(bad[0]))}
            for name in ("mean", "min", "max"):
                values = getattr(found, name)
                one[name] = float(values[0]) if len(values) else None
            told.append({**one, "bad": float(bad[0]) if one["recorded"] else None})
    return told


def loss_of(record: RunRecord, start: int | None, stop: int | None, buckets: int) -> Part:
    """The loss of each step. A loss that was NaN is there as NaN; a step that had no backward pass is not."""
    table = record.steps_table(start, stop)
    steps, losses = table.column("step").to_numpy(), table.column("loss").to_numpy()
    seen = table.column("loss").is_valid().to_numpy()  # null = none seen; NaN is a loss
    steps, first = np.unique(steps[seen], return_index=True)
    return in_buckets(steps, losses[seen][first], buckets)


def metric_of(record: RunRecord, key: str, start: int | None, stop: int | None, buckets: int) -> Part:
    """What the training logged under one name."""
    series = record.logged(key)
    first = 0 if start is None else int(np.searchsorted(series.steps, start, "left"))
    last = len(series.steps) if stop is None else int(np.searchsorted(series.steps, stop, "left"))
    return in_buckets(series.steps[first:last], series.values[first:last], buckets)


def cost_of(record: RunRecord, start: int | None, stop: int | None, buckets: int) -> Part:
    """Our own time as a share of each step's, which ends where its row is written; of a bucket the share of both sums.

    What we did behind the row of a step took time of the steps that follow: no step gives more than it lasted.
    """
    table = record.steps_table(start, stop)
    steps, first = np.unique(table.column("step").to_numpy(), return_index=True)
    own, times, attempts = (table.column(name).to_numpy()[first] for name in ("own_ns", "time_ns", "attempt"))
    wall = np.diff(times).astype(np.float64)  # whole numbers until here: a float holds no time since 1970
    own, steps = own[1:].astype(np.float64), steps[1:]  # when the first step began is not known
    known = (wall > 0) & (np.diff(attempts) == 0)  # clocks can be set back; nothing ran between two attempts
    own, wall, steps = own[known], wall[known], steps[known]
    left = np.cumsum(own - wall)
    left -= np.minimum(np.minimum.accumulate(left), 0.0) if len(left) else 0.0  # of ours, still to be done behind each step
    own = own + np.concatenate([[0.0], left[:-1]]) - left if len(left) else own
    part = in_buckets(steps, own / wall, buckets)
    starts = np.searchsorted(steps, part.step_first)
    share = np.add.reduceat(own, starts) / np.add.reduceat(wall, starts) if len(steps) else own
    return dataclasses.replace(part, mean=share)


def clock_of(record: RunRecord, points: int, start: int | None = None, stop: int | None = None) -> Part:
    """Seconds of training from the end of the first step to that of each, at so many of these steps at most; the last is among
    them.

    Between two attempts nothing ran: that time is left out. A clock that was set back stands still meanwhile.
    """
    steps, times, attempts = _times(record)
    passed = np.where(np.diff(attempts) == 0, np.maximum(np.diff(times), 0), 0)
    seconds = np.concatenate([[0], np.cumsum(passed)])[: len(steps)] / 1e9
    low = 0 if start is None else int(np.searchsorted(steps, start, "left"))
    high = len(steps) if stop is None else int(np.searchsorted(steps, stop, "left"))
    kept = np.unique(np.linspace(low, max(low, high - 1), max(0, min(points, high - low))).round().astype(np.int64))
    at, value = steps[kept], seconds[kept]
    return Part(at, at, value, value, value, np.zeros(len(at)))


def pauses_of(record: RunRecord) -> dict[int, float]:
    """Of each attempt but the first the seconds that no clock counts: from the last step of an earlier one that still counts to
    the end of its own first step. Steps that were trained again are part of it."""
    _, times, attempts = _times(record)
    begin = np.flatnonzero(np.diff(attempts)) + 1
    return {int(attempts[i]): max(0.0, float(times[i] - times[i - 1]) / 1e9) for i in begin}


def _times(record: RunRecord) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, when each ended, and in which attempt."""
    table = record.steps_table(None, None)
    steps, first = np.unique(table.column("step").to_numpy(), return_index=True)
    times, attempts = (table.column(name).to_numpy()[first] for name in ("time_ns", "attempt"))
    return steps, times, attempts


def in_buckets(steps: np.ndarray, values: np.ndarray, buckets: int) -> Part:
    """Neighbours put together until there are at most `buckets`, of like length.

    mean, min and max are over the finite values; a bucket without one is NaN. A bucket of one value is that value, to
    the last bit. `bad` counts the values that are not finite.
    """
    finite = np.isfinite(values)
    if len(steps) <= buckets:
        return Part(steps, steps, values, values, values, (~finite).astype(np.float64))
    edges = np.linspace(0, len(steps), buckets + 1).astype(np.int64)
    starts = edges[:-1]
    count = np.add.reduceat(finite.astype(np.int64), starts)
    low = np.minimum.reduceat(np.where(finite, values, np.inf), starts)
    high = np.maximum.reduceat(np.where(finite, values, -np.inf), starts)
    with np.errstate(invalid="ignore"):
        mean = np.add.reduceat(np.where(finite, values, 0.0), starts) / count
    nothing = count == 0
    return Part(
        steps[starts],
        steps[edges[1:] - 1],
        mean,
        np.where(nothing, np.nan, low),
        np.where(nothing, np.nan, high),
        (np.diff(edges) - count).astype(np.float64),
    )


def packed(about: dict[str, Any], **columns: np.ndarray) -> bytes:
    """Arrays of one length, row after row, as one Arrow stream; their shape and all else as JSON in the schema's metadata."""
    arrays = {name: pa.array(np.ascontiguousarray(column).ravel()) for name, column in columns.items()}
    return encode(pa.table(arrays).replace_schema_metadata({"about": json.dumps(about)}))


def encode(table: pa.Table) -> bytes:
    """One Arrow IPC stream, in as few batches as there can be, uncompressed: it travels over loopback."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return bytes(sink.getvalue())
