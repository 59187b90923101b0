"""The layer x step picture: one statistic of all tensors in buckets of steps, with a byte that says what each cell is.

The page turns a value into a colour and nothing else. Everything that needs more than one number is computed here: buckets,
the range of colours, how many cells have which value, which member of a folded group is shown.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from weighbridge.catalog import Statistic, parse
from weighbridge.records import OF_OUTPUTS
from weighbridge.server import arrays, unitmap
from weighbridge.server.layers import folded_name, in_order, is_bias, layers_of
from weighbridge.store.record import HeatMap, RunRecord, Tensor

# What a cell is. A cell in which one step was not finite is NONFINITE, and its value is that of the others.
VALUE, ZERO, NONFINITE, ABSENT = range(4)

FOLD_FROM: Final = 60  # rows; more are folded by module, where the reader did not say otherwise
COLUMNS: Final = 1016  # of the plot on a wide page
CELLS: Final = 600_000  # of one answer: 3 MB
KEY_BINS: Final = 48
FEW_MIDDLES: Final = 4  # in most pictures each column has as many values as the others, or none
OUTER: Final = (2, 98)  # one step that overflows is 1.2 % of the 80 columns that a phone has for 400 steps


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the picture: a tensor, or several folded into one."""

    name: str  # of the tensor, or of the group
    bias: bool
    members: tuple[Tensor, ...]
    is_folded: bool = False

    def as_json(self) -> dict[str, Any]:
        one = self.members[0]
        return {
            "name": self.name,
            "bias": self.bias,
            "members": len(self.members),
            "folded": self.is_folded,
            "model": one.model,
            "role": one.role,
            "module": one.module,
            "shape": list(one.shape),
            "group": folded_name(one.name),
        }


@dataclass(frozen=True, slots=True)
class Cells:
    """value and mask, [rows, columns]; the steps of each column. Of folded rows also the least and the greatest member."""

    statistic: str
    scale: str
    rows: tuple[Row, ...]
    first: np.ndarray
    last: np.ndarray
    value: np.ndarray
    mask: np.ndarray
    least: np.ndarray | None = None
    greatest: np.ndarray | None = None


def rows_of(record: RunRecord, statistic: str, show: str, fold: str, opened: Sequence[str]) -> tuple[Row, ...]:
    """The rows in order of execution. `show`: wb, w or b; `fold`: auto, none or modules; `opened`: groups that are not."""
    outputs = statistic in unitmap.NAMES or parse(statistic)[0] in OF_OUTPUTS
    tensors = in_order(layers_of(record), outputs=outputs)
    if statistic in unitmap.NAMES:
        tensors = [tensor for tensor in tensors if tensor.module in unitmap.CUT_AT_ZERO]
    if not outputs and show != "wb":
        tensors = [tensor for tensor in tensors if is_bias(tensor) == (show == "b")]
    if fold == "none" or (fold != "modules" and len(tensors) <= FOLD_FROM):
        return tuple(Row(tensor.name, is_bias(tensor), (tensor,)) for tensor in tensors)
    groups: dict[tuple[str, str, bool], list[Tensor]] = {}
    for tensor in tensors:
        name = folded_name(tensor.name)
        alone = tensor.name if name in opened else name
        groups.setdefault((tensor.model, alone, is_bias(tensor)), []).append(tensor)
    return tuple(
        Row(name if len(members) > 1 else members[0].name, bias, tuple(members), len(members) > 1)
        for (_, name, bias), members in _together(groups)
    )


def _together(groups: dict[tuple[str, str, bool], list[Tensor]]) -> list[tuple[tuple[str, str, bool], list[Tensor]]]:
    """A group's weights and its biases stand side by side, where the first of them stood."""
    place = {(model, folded_name(members[0].name)): i for i, ((model, _, _), members) in reversed([*enumerate(groups.items())])}

    def where(entry: tuple[tuple[str, str, bool], list[Tensor]]) -> int:
        (model, _, _), members = entry
        return place[model, folded_name(members[0].name)]

    return sorted(groups.items(), key=where)


def cells_of(
    record: RunRecord, statistic: str, rows: Sequence[Row], start: int | None, stop: int | None, columns: int
) -> Cells:
    """The picture. Columns are wide enough that what is weighed at every tenth step only leaves no gaps."""
    columns = max(1, min(columns, CELLS // max(1, len(rows)) or 1))
    steps = record.steps  # the closing row of the parameters stands after the last step and is no column
    stop = steps if stop is None or stop > steps else stop
    found = _read(record, statistic, rows, start, stop, columns)
    wider = _wider(found)
    if wider > 1 and len(found.first) > 1:
        found = _read(record, statistic, rows, start, stop, max(1, len(found.first) // wider))
    return found


def _wider(cells: Cells) -> int:
    """How many columns to make one of: the usual distance between columns in which anything was recorded."""
    filled = np.flatnonzero((cells.mask != ABSENT).any(axis=0))
    return int(np.quantile(np.diff(filled), 0.9)) if len(filled) > 4 else 1


def _read(record: RunRecord, name: str, rows: Sequence[Row], start: int | None, stop: int | None, columns: int) -> Cells:
    members = [tensor for row in rows for tensor in row.members]
    if name in unitmap.NAMES:
        heat = unitmap.heat_map(record, name, members, columns, start, stop)
        scale, value = "linear", heat.mean
    else:
        statistic = parse(name)[1]
        heat = record.heat_map(name, columns, start, stop, members)
        scale, value = statistic.scale, _shown(heat, statistic)
    mask = np.full(value.shape, VALUE, np.uint8)
    mask[value == 0] = ZERO
    mask[~np.isfinite(value)] = ABSENT  # not recorded; or it was, but this statistic of it is no number: update / 0
    mask[heat.bad > 0] = NONFINITE
    mask[np.isnan(heat.bad)] = ABSENT
    found = Cells(name, scale, tuple(rows), heat.step_first, heat.step_last, value, mask)
    return found if len(members) == len(rows) else _folded(found)


def _shown(heat: HeatMap, statistic: Statistic) -> np.ndarray:
    """Extremes stay extremes, counts are those of the worst step, all else is the mean of the steps."""
    if statistic.merge == "min":
        return heat.min
    return heat.max if statistic.merge == "max" or statistic.scale == "count" or statistic.name == "abs_max" else heat.mean


def worst_member(value: np.ndarray, scale: str, typical: np.ndarray) -> np.ndarray:
    """Of members [members, columns] the one to show in each column: on a log scale the one farthest from what is typical of
    all tensors, else the largest. Exact zeros, which have no place there, are farther than any other."""
    return np.asarray(np.argmax(_how_far(value, scale, typical), axis=0))


def _how_far(value: np.ndarray, scale: str, typical: np.ndarray | None) -> np.ndarray:
    """Of each member how much it asks to be shown; -1 where it has no value."""
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.abs(np.log(np.abs(value)) - typical) if scale == "log" else np.abs(value)
    size[np.isnan(size)] = -1.0
    return np.asarray(size)


def typical_of(value: np.ndarray) -> np.ndarray:
    """Of each column the median logarithm of what is not zero; NaN where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        log = np.log(np.abs(value.T))
    is_finite = np.isfinite(log)
    log[~is_finite] = np.nan  # the last ones in order
    count, column = is_finite.sum(axis=1), np.arange(len(log))
    places = np.maximum((count - 1) // 2, 0), np.minimum(count // 2, log.shape[1] - 1)
    middle = np.unique(places)
    if len(middle) <= FEW_MIDDLES:
        log.partition(middle, axis=1)  # half the price of an order of all
    else:
        log.sort(axis=1)
    low, high = (log[column, at] for at in places)
    return np.asarray(np.where(count > 0, (low + high) / 2, np.nan))


def _folded(cells: Cells) -> Cells:
    """As many rows as there are, made of one for each of their members."""
    value, mask = cells.value, cells.mask
    sizes = np.array([len(row.members) for row in cells.rows])
    starts = np.cumsum(sizes) - sizes
    far = _how_far(value, cells.scale, typical_of(value) if cells.scale == "log" else None)
    shown, marks, is_bad, most = value[starts], mask[starts], mask[starts] == NONFINITE, far[starts]
    is_finite = np.isfinite(shown)
    least, greatest = np.where(is_finite, shown, np.inf), np.where(is_finite, shown, -np.inf)
    for number in range(1, sizes.max(initial=0)):
        rows = np.flatnonzero(sizes > number)  # that have so many members
        at = starts[rows] + number
        worse = far[at] > most[rows]
        most[rows] = np.where(worse, far[at], most[rows])
        shown[rows] = np.where(worse, value[at], shown[rows])
        marks[rows] = np.where(worse, mask[at], marks[rows])
        is_bad[rows] |= mask[at] == NONFINITE
        is_finite = np.isfinite(value[at])
        least[rows] = np.where(is_finite, np.minimum(least[rows], value[at]), least[rows])
        greatest[rows] = np.where(is_finite, np.maximum(greatest[rows], value[at]), greatest[rows])
    marks[is_bad] = NONFINITE
    return dataclasses.replace(cells, value=shown, mask=marks, least=least, greatest=greatest)


def domain_of(cells: Cells) -> tuple[float, float] | None:
    """The range of colours of a picture."""
    return domain_of_values(cells.value, cells.scale, cells.statistic)


def domain_of_values(value: np.ndarray, scale: str, statistic: str) -> tuple[float, float] | None:
    """Of the picture and of the network alike: between the outer percentiles, outward to decades, or to round numbers.

    None = there is no value.
    """
    found = value[np.isfinite(value) & ((scale != "log") | (value > 0))]
    if not len(found):
        return None
    low, high = (float(edge) for edge in np.percentile(found, OUTER))
    if scale == "log":
        low, high = np.floor(np.log10(low) + 1e-9), np.ceil(np.log10(high) - 1e-9)
        return float(10.0**low), float(10.0 ** max(high, low + 1))
    if scale == "signed":
        edge = _outward(max(abs(low), abs(high)))
        return -edge, edge
    return 0.0, 1.0 if statistic.endswith("_fraction") else _outward(high)


def _outward(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** np.floor(np.log10(value))
    return float(next(k for k in (1, 2, 5, 10) if k * unit >= value * (1 - 1e-9)) * unit)


def key_counts(cells: Cells, domain: tuple[float, float]) -> tuple[list[int], int, int]:
    """How many cells have which colour, and how many lie below and above the range."""
    found = cells.value[np.isfinite(cells.value)].astype(np.float64)
    low, high = domain
    if cells.scale == "log":
        found, low, high = np.log(found[found > 0]), np.log(low), np.log(high)
    counts, _ = np.histogram(found, KEY_BINS, (low, high))
    return counts.tolist(), int((found < low).sum()), int((found > high).sum())


def encode(cells: Cells, domain: tuple[float, float] | None) -> bytes:
    """One Arrow stream: value and mask row after row, all else in the schema's metadata."""
    own = domain_of(cells)
    used = domain or own
    counts, below, above = key_counts(cells, used) if used else ([], 0, 0)
    about = {
        "statistic": cells.statistic,
        "scale": cells.scale,
        "rows": [row.as_json() for row in cells.rows],
        "first": cells.first.tolist(),
        "last": cells.last.tolist(),
        "domain": own,
        "counts": counts,
        "below": below,
        "above": above,
    }
    spread = {"least": cells.least, "greatest": cells.greatest}
    beside = {name: column.astype(np.float32) for name, column in spread.items() if column is not None}
    return arrays.packed(about, value=cells.value.astype(np.float32), mask=cells.mask, **beside)
