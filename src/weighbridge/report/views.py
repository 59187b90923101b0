"""What `show` shows, as plain data: every view of a run as one table in full precision, before anybody lays it out.

"Not recorded" is None, NaN is NaN. They are told apart by `quantity.count`: where a row exists, it has a count.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from weighbridge.catalog import parse
from weighbridge.errors import NothingRecorded
from weighbridge.report.machine import Cell, Table
from weighbridge.report.named import label
from weighbridge.store import persteps
from weighbridge.store.record import RunRecord, Tensor

LAST_STATISTICS: Final = ("parameter.min", "parameter.max", "parameter.rms", "gradient.rms", "update.ratio")
TENSOR_COLUMNS: Final = ("tensor", "role", "module", "shape", "dtype", "count")
WEIGHED: Final = ("parameter", "gradient", "update")
MANY: Final = 4  # tensors from which on they are asked for together
MOST_CELLS: Final = 20_000_000  # numbers held in memory for that (160 MB)


def real_step(record: RunRecord, step: int) -> int:
    """The step that a number on the command line means: -1 is the last update, -2 the one before it."""
    last = last_update(record)
    if last < 0:
        raise NothingRecorded(f"{record.info.name} has no step yet. Wait for the first optimizer step, then ask again.")
    real = step if step >= 0 else last + 1 + step
    if not record.first_step <= real <= record.last_step:
        raise NothingRecorded(
            f"{record.info.name} has no step {step:,}: its steps are {record.first_step:,} to {record.last_step:,} "
            f"(from the end: -1 is the last update, step {last:,})."
        )
    return real


def last_update(record: RunRecord) -> int:
    """The last step that updated something; after `finish` one closing row of parameters stands behind it."""
    return min(record.info.steps - 1, record.last_step) if record.info.steps > 0 else record.last_step


def samples(record: RunRecord, step: int) -> int | None:
    """How many samples the backward passes of this step were over; None where nobody knows."""
    return persteps.samples_at(record.whole("steps"), step)


def at_step(record: RunRecord, step: int, statistics: Sequence[str]) -> dict[str, list[float | None]]:
    """Each statistic of all tensors (in the order of `record.tensors`) at one step."""
    counts = {f"{parse(name)[0].word}.count" for name in statistics}
    arrays = record.at_step(step, sorted({*statistics, *counts}))
    return {name: _told(arrays[name], arrays[f"{parse(name)[0].word}.count"]) for name in statistics}


def last(record: RunRecord, statistics: Sequence[str]) -> dict[str, list[float | None]]:
    """Each statistic of all tensors, each tensor at the last step at which that quantity of it was recorded."""
    newest: dict[str, list[float | None]] = {name: [None] * len(record.tensors) for name in statistics}
    for step in _steps_from_the_end(record):
        for name, values in at_step(record, step, statistics).items():
            newest[name] = [new if old is None else old for old, new in zip(newest[name], values, strict=True)]
        if all(v is not None for values in newest.values() for v in values):
            return newest
    missing = [name for name, values in newest.items() if any(v is None for v in values)]
    for name, found in record.summary(missing, points=1).items():  # some step more rarely than others
        newest[name] = [
            one.last if old is None and one.last_step >= 0 else old for old, one in zip(newest[name], found, strict=True)
        ]
    return newest


def _steps_from_the_end(record: RunRecord) -> list[int]:
    return [step for step in (record.last_step, record.last_step - 1) if step >= max(record.first_step, 0)]


def sparks(record: RunRecord, statistic: str, points: int) -> list[list[float | None]]:
    """One statistic of all tensors in at most `points` buckets; a bucket with something not finite in it is NaN."""
    quantity, _ = parse(statistic)
    stop = None if quantity.word == "parameter" else last_update(record) + 1  # the closing row is of parameters only
    means = record.heat_map(statistic, points, stop=stop).mean
    bad = record.heat_map(f"{quantity.word}.nonfinite_count", points, stop=stop).max
    return [
        [None if math.isnan(b) else math.nan if b > 0 else float(m) for m, b in zip(mean, flags, strict=True)]
        for mean, flags in zip(means, bad, strict=True)
    ]


def overview(record: RunRecord, tensors: Sequence[Tensor], statistics: Sequence[str], step: int | None = None) -> Table:
    """All tensors and their statistics, at one step or at the last one recorded."""
    values = last(record, statistics) if step is None else at_step(record, step, statistics)
    place = {t.id: i for i, t in enumerate(record.tensors)}
    rows = [(*tensor_cells(record, t), *(values[s][place[t.id]] for s in statistics)) for t in tensors]
    return Table("tensors" if step is None else f"step {step}", (*TENSOR_COLUMNS, *statistics), rows)


def tensor_cells(record: RunRecord, tensor: Tensor) -> tuple[Cell, ...]:
    shape = "x".join(str(n) for n in tensor.shape)
    return (label(record, tensor), tensor.role, tensor.module, shape, tensor.dtype, tensor.count)


def series(record: RunRecord, tensors: Sequence[Tensor], statistics: Sequence[str]) -> Table:
    """Statistics over steps: one row per tensor and step at which anything of it was recorded."""
    rows: list[tuple[Cell, ...]] = []
    for tensor, (steps, columns) in zip(tensors, every_series(record, tensors, statistics), strict=True):
        name = label(record, tensor)
        rows += [(name, step, *(c[i] for c in columns)) for i, step in enumerate(steps)]
    return Table("series", ("tensor", "step", *statistics), rows)


Columns = tuple[list[int], list[list[float | None]]]  # the steps, and each statistic at each of them


def every_series(record: RunRecord, tensors: Sequence[Tensor], statistics: Sequence[str]) -> Iterable[Columns]:
    """`tensor_series` of each tensor; of many tensors with one question a statistic instead of one a tensor."""
    first = max(record.first_step, 0)
    cells = len(record.tensors) * (record.last_step + 1 - first) * len(statistics)
    if (
        len(tensors) < MANY
        or any(t.is_output for t in tensors)
        or cells > MOST_CELLS
        or record.thinned
        or record.last_step < first
    ):
        return (tensor_series(record, tensor, statistics) for tensor in tensors)
    return _from_grids(record, tensors, statistics, first)


def _from_grids(record: RunRecord, tensors: Sequence[Tensor], statistics: Sequence[str], first: int) -> Iterable[Columns]:
    words = [parse(name)[0].word for name in statistics]
    steps = record.last_step + 1 - first  # as many buckets: each holds one step, so its mean is the number itself
    counts = {word: record.heat_map(f"{word}.count", buckets=steps).mean for word in dict.fromkeys(words)}
    grids = [record.heat_map(name, buckets=steps).mean for name in statistics]
    place = {t.id: i for i, t in enumerate(record.tensors)}
    for tensor in tensors:
        row = place[tensor.id]
        known = ~np.isnan(np.array([counts[word][row] for word in words]))
        at = np.flatnonzero(known.any(axis=0))
        columns = [[float(grid[row, i]) if told[i] else None for i in at] for grid, told in zip(grids, known, strict=True)]
        yield [int(i) + first for i in at], columns


def tensor_series(record: RunRecord, tensor: Tensor, statistics: Sequence[str]) -> tuple[list[int], list[list[float | None]]]:
    """The steps at which the tensor has a row, and each statistic at each of them."""
    found = [record.series(label(record, tensor), name) for name in statistics]
    steps = sorted(set().union(*(s.steps.tolist() for s in found))) if found else []
    columns: list[list[float | None]] = []
    for one in found:
        known = dict(zip(one.steps.tolist(), one.values.tolist(), strict=True))
        columns.append([known.get(step) for step in steps])
    return steps, columns


def values(record: RunRecord, tensors: Sequence[Tensor], step: int) -> Table:
    """The numbers themselves: one row per element. `row` counts along the first dimension (one neuron each)."""
    rows: list[tuple[Cell, ...]] = []
    for tensor in tensors:
        for quantity in WEIGHED:
            array = exact_values(record, tensor, quantity, step)
            if array is None:
                continue
            matrix = as_matrix(array)
            name = label(record, tensor)
            rows += [(name, quantity, step, r, c, _element(x)) for r, line in enumerate(matrix) for c, x in enumerate(line)]
    return Table("values", ("tensor", "quantity", "step", "row", "column", "value"), rows)


def exact_values(record: RunRecord, tensor: Tensor, quantity: str, step: int) -> np.ndarray | None:
    """The numbers of one quantity at exactly this step, or None where they were not recorded."""
    if step not in record.value_steps(label(record, tensor), quantity):
        return None
    return np.asarray(record.values(label(record, tensor), quantity, step)[1])


def as_matrix(array: np.ndarray) -> np.ndarray:
    """Rows along the first dimension, everything else side by side; a bias is one column, so its row is its neuron."""
    return array.reshape(1, 1) if array.ndim == 0 else array.reshape(array.shape[0], -1)


def _element(value: object) -> Cell:
    if isinstance(value, (complex, np.complexfloating)):
        return str(value)
    return float(value)  # type: ignore[arg-type]


def epochs(record: RunRecord, tensors: Sequence[Tensor], statistics: Sequence[str]) -> Table:
    """One row per tensor and epoch: each statistic at the epoch's last step, and its mean over the epoch."""
    spans = epoch_spans(record)
    loss_steps, loss_values = losses(record)
    rows: list[tuple[Cell, ...]] = []
    columns = [c for name in statistics for c in (f"{name}.last", f"{name}.mean")]
    for tensor, (steps, found) in zip(tensors, every_series(record, tensors, statistics), strict=True):
        at = np.asarray(steps, dtype=np.int64)
        for epoch, first, final in spans:
            cells: list[Cell] = []
            for one in found:
                inside = [one[i] for i in np.flatnonzero((at >= first) & (at <= final)) if one[i] is not None]
                known = [x for x in inside if x is not None]
                cells += [known[-1], float(np.mean(known))] if known else [None, None]
            rows.append(
                (label(record, tensor), epoch, first, final, mean_between(loss_steps, loss_values, first, final), *cells)
            )
    return Table("epochs", ("tensor", "epoch", "first_step", "last_step", "loss_mean", *columns), rows)


def epoch_spans(record: RunRecord) -> list[tuple[int, int, int]]:
    """(epoch, first step, last step) of every epoch. Raises NothingRecorded where the loop did not tell epochs."""
    steps, told = record.epochs()
    known = ~np.isnan(told)
    steps, told = steps[known], np.floor(told[known])
    if not len(steps):
        raise NothingRecorded(
            f"{record.info.name} knows no epochs. Write `for epoch in run.epochs(50):` in the training, "
            "or run.log({'epoch': epoch}), and record again."
        )
    return [(int(e), int(steps[told == e].min()), int(steps[told == e].max())) for e in np.unique(told)]


def mean_between(steps: np.ndarray, values: np.ndarray, first: int, final: int) -> float | None:
    """The mean of the values of first <= step <= final; None where there are none."""
    inside = values[(steps >= first) & (steps <= final)]
    return float(np.mean(inside)) if len(inside) else None


def losses(record: RunRecord) -> tuple[np.ndarray, np.ndarray]:
    """Steps and their loss, NaN among them."""
    found = record.losses()
    return found.steps, found.values


def logged(record: RunRecord, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of something that the user logged."""
    series = record.logged(key)
    return series.steps, series.values


def _told(values: np.ndarray, counts: np.ndarray) -> list[float | None]:
    return [None if math.isnan(n) else float(v) for v, n in zip(values, counts, strict=True)]
