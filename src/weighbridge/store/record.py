"""Reading a run: all that CLI, page, report and tests know of it.

    record = open_run("weighbridge-runs/first")
    record.series("layers.0.weight", "gradient.rms").values
    record.refresh()                                    # while it is being written

A RunRecord is used by one thread at a time. Everything raises WeighbridgeError with what to do.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np

from weighbridge.catalog import Statistic, parse
from weighbridge.errors import NothingRecorded, WeighbridgeError
from weighbridge.format import counted
from weighbridge.records import QUANTITIES, Quantity, histogram_bins
from weighbridge.store.downsample import WIDTHS
from weighbridge.store.grid import bucket_grid
from weighbridge.store.histogram import edges_of, full_histogram
from weighbridge.store.pictures import Pictures
from weighbridge.store.recent import RECENT, Kept
from weighbridge.store.smalltables import SmallTables
from weighbridge.store.views import Buckets, Event, HeatMap, RunInfo, Series, Tensor, TensorSummary, read_only

# Where more single rows than this would have to be read (about 0.1 us each), the bucket files answer instead, though
# their ranges are wider than asked for by up to 64 / COARSE_FROM.
MANY_ROWS = 500_000
COARSE_FROM = 8

__all__ = ["Buckets", "Event", "HeatMap", "RunInfo", "RunRecord", "Series", "Tensor", "TensorSummary", "list_runs", "open_run"]


def open_run(path: str | PathLike[str], rank: int | None = None, attempt: int | None = None) -> RunRecord:
    """Open a run's folder for reading: all ranks as one or one of them, and of a run that was restarted its newest history or
    what there was before the attempt after this one began. Raises NotARun, NewerFormat or CorruptRun."""
    return RunRecord(Path(path), rank, attempt)


def list_runs(dir: str | PathLike[str]) -> list[RunInfo]:
    """One line about each run directly below a folder, oldest first. Unreadable runs are left out (see `verify`)."""
    from weighbridge.store.listed import listed

    return listed(Path(dir)).runs[::-1]


class RunRecord(SmallTables):
    """One run, read from its files: all ranks as one, or the one rank that is asked for.

    `rank` is None where all are one. What is not about tensors (steps, losses, logs, events, values of small tensors) is then
    what the lowest rank recorded; of what all ranks hold whole, too. Statistics of sharded tensors are merged.
    """

    def __init__(self, path: Path, rank: int | None = None, attempt: int | None = None) -> None:
        super().__init__(path, rank, attempt)
        self._pictures = Pictures(self._all, self._owner)

    def __repr__(self) -> str:
        try:
            info = self.info
        except (WeighbridgeError, OSError):  # a name for it must always be had
            return f"<weighbridge.RunRecord {str(self.path)!r}: unreadable>"
        size = f"{counted(info.steps, 'step')}, {counted(info.tensors, 'tensor')}"
        return f"<weighbridge.RunRecord {str(self.path)!r}: {info.state}, {size}>"

    def _repr_html_(self) -> str:
        from weighbridge.store.html import of_record

        return of_record(self)

    def series(self, tensor: str, statistic: str, start: int | None = None, stop: int | None = None) -> Series:
        """One statistic of one tensor at every recorded step, start <= step < stop."""
        return self.several_series(tensor, [statistic], start, stop)[0]

    def several_series(
        self, tensor: str, statistics: Sequence[str], start: int | None = None, stop: int | None = None
    ) -> list[Series]:
        """Several statistics of one quantity, as `series`; read at once."""
        wanted, found, span = [parse(name) for name in statistics], self.tensor(tensor), self._range(start, stop)

        def read(old: Kept | None) -> Kept:
            if old is not None:
                return old
            quantity, listed = wanted[0][0], [which for _, which in wanted]
            answer = self._all.ask(lambda: self._query.series(found.id, quantity, listed, *span))
            return Kept(read_only(*(array for one in answer for array in one)))

        key = (self._owner, found.id, wanted[0][0], tuple(which.name for _, which in wanted), span)
        arrays = RECENT.get(key, self._all.version, read).arrays
        return [Series(f"{found.name} {name}", *arrays[2 * i : 2 * i + 2]) for i, name in enumerate(statistics)]

    def series_buckets(
        self, tensor: str, statistic: str, buckets: int = 1200, start: int | None = None, stop: int | None = None
    ) -> Buckets:
        """The same in at most `buckets` ranges of steps."""
        return self.several_buckets([tensor], [statistic], buckets, start, stop)[0]

    def several_buckets(
        self,
        tensors: Sequence[str],
        statistics: Sequence[str],
        buckets: int = 1200,
        start: int | None = None,
        stop: int | None = None,
    ) -> list[Buckets]:
        """Every statistic of every tensor, tensor by tensor, as `series_buckets`. What one file says of them is read once."""
        chosen, wanted = [self.tensor(name) for name in tensors], [parse(name) for name in statistics]
        low, high = self._range(start, stop)
        cells, edges = bucket_grid(low, high, buckets, WIDTHS[0] if self._is_thinned(low, high) else 0)
        first, last = edges[:-1].copy(), edges[1:] - 1
        read_only(first, last)
        found = self._pictures.grids(wanted, (low, high), cells, chosen, len(first))
        return [
            Buckets(f"{tensor.name} {name}", first, last, *read_only(*(grid[row] for grid in of)))
            for row, tensor in enumerate(chosen)
            for name, of in zip(statistics, found, strict=True)
        ]

    def at_step(self, step: int, statistics: Sequence[str]) -> dict[str, np.ndarray]:
        """Per statistic one value per tensor, in the order of `tensors` (activations: `outputs`); NaN = not recorded."""
        wanted: list[tuple[Quantity, Statistic]] = [parse(name) for name in statistics]
        answers = self._all.ask(lambda: self._query.at_step(step, wanted))
        return {
            name: _placed(self.tensors_of(quantity), answer["tensor"], answer["value"])
            for name, (quantity, _), answer in zip(statistics, wanted, answers, strict=True)
        }

    def at_or_before(self, step: int, statistic: str) -> tuple[np.ndarray, np.ndarray]:
        """Of each tensor the last value at or before a step, and that step; NaN and -1 where there is none."""
        quantity, which = parse(statistic)
        tensors = self.tensors_of(quantity)
        low, high = self._range(None, step + 1)
        found: dict[str, np.ndarray] = {}
        for back in (64, 4_096, high - low):
            found = self._all.ask(functools.partial(self._query.last, quantity, which, max(low, high - back), high))
            if len(found["tensor"]) >= len(tensors):
                break
        steps = _placed(tensors, found["tensor"], found["step"].astype(np.float64))
        return _placed(tensors, found["tensor"], found["value"]), np.where(np.isnan(steps), -1, steps).astype(np.int64)

    def grids(
        self, statistics: Sequence[str], start: int, stop: int, ids: Sequence[int], steps: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Per statistic float64 [steps, tensors] for start <= step < stop (or these of them, in order) and the tensors of these
        ids; NaN = not recorded.

        Single rows only: a step of which only buckets are left is not recorded. Raises UnknownStatistic for what has no formula
        over one row.
        """
        rows = stop - start if steps is None else len(steps)
        found = {name: np.full((rows, len(ids)), np.nan) for name in statistics}
        place = np.full(max(ids, default=0) + 2, -1)
        place[list(ids)] = np.arange(len(ids))
        wanted: dict[Quantity, list[Statistic]] = {}
        for quantity, statistic in map(parse, statistics):
            wanted.setdefault(quantity, []).append(statistic)
        for quantity, listed in wanted.items():
            answer = self._all.ask(functools.partial(self._query.grid, quantity, listed, start, stop, steps))
            column = place[np.minimum(answer["tensor"], len(place) - 1)]
            known = slice(None) if (column >= 0).all() else column >= 0
            row = answer["step"] - start if steps is None else np.searchsorted(steps, answer["step"])
            at = (row * len(ids) + column)[known]
            for one in listed if len(at) else ():
                found[f"{quantity.word}.{one.name}"].reshape(-1)[at] = answer[one.name][known]
        read_only(*found.values())
        return found

    def heat_map(
        self,
        statistic: str,
        buckets: int = 500,
        start: int | None = None,
        stop: int | None = None,
        tensors: Sequence[str | Tensor] | None = None,
    ) -> HeatMap:
        """One statistic of all tensors (or those given, by name or as they are) in at most `buckets` ranges of steps."""
        which = parse(statistic)
        given = self.tensors_of(which[0]) if tensors is None else tensors
        chosen = tuple(one if isinstance(one, Tensor) else self.tensor(one) for one in given)
        low, high = self._range(start, stop)
        thinned = self._is_thinned(low, high)
        many = (high - low) * len(chosen) > MANY_ROWS and high - low > COARSE_FROM * buckets
        cells, edges = bucket_grid(low, high, buckets, WIDTHS[0] if thinned or many else 0)
        (grids,) = self._pictures.grids([which], (low, high), cells, chosen, len(edges) - 1)
        first, last = edges[:-1].copy(), edges[1:] - 1
        read_only(first, last, *grids)
        return HeatMap(statistic, chosen, first, last, *grids)

    def _is_thinned(self, low: int, high: int) -> bool:
        return any(first < high and last >= low for first, last in self.thinned)

    def summary(self, statistics: Sequence[str], points: int = 32) -> dict[str, list[TensorSummary]]:
        """Per statistic, in the order of `tensors`: the last value and at most `points` means on the way to it."""
        answer = {}
        for name in statistics:
            heat = self.heat_map(name, points)
            recorded = int((~np.isnan(heat.mean)).any(axis=1).sum())
            found = self._last(name, recorded)
            last = _placed(heat.tensors, found["tensor"], found["value"])
            when = _placed(heat.tensors, found["tensor"], found["step"].astype(np.float64))
            answer[name] = [
                TensorSummary(float(last[i]), -1 if np.isnan(when[i]) else int(when[i]), heat.mean[i])
                for i in range(len(heat.tensors))
            ]
        return answer

    def _last(self, statistic: str, recorded: int) -> dict[str, np.ndarray]:
        """The last rows of `recorded` tensors, looking further and further back."""
        low, high = self._range(None, None)
        for back in (100, 10_000, high - low):
            found = self._all.ask(functools.partial(self._query.last, *parse(statistic), max(low, high - back), high))
            if len(found["tensor"]) >= recorded:
                break
        return found

    def histogram(self, tensor: str, quantity: str, step: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Edges (from -inf to +inf), counts (one fewer) and how many elements were looked at. Raises NothingRecorded.

        132 bins, or 260 or 516 where the plan asked for 2 or 4 bins in each power of two.
        """
        found = self.tensor(tensor)
        row = self._all.ask(lambda: self._query.histogram(found.id, QUANTITIES[quantity], step))
        if row is None:
            raise NothingRecorded(f"No {quantity} of {found.name} was recorded at step {step} of {self.path}.")
        if not row["hist_count"] and self.tensor(tensor).count:
            raise NothingRecorded(
                f"The {quantity} of {found.name} was weighed without a histogram at step {step} of {self.path}: the plan, or "
                "its budget, left it out (weighbridge show says when)."
            )
        bits = row["hist_bits"]
        return edges_of(bits), full_histogram(row["hist_first"], row["hist"], bits), int(row["hist_count"])

    def histograms(
        self, tensor: str, quantity: str, steps: Sequence[int], *, finest: bool = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Those of `steps` that have a histogram, the edges (133, from -inf to +inf) and int64 counts [steps, 132].

        `finest`: in the finest bins that all of them have (260 or 516 where the plan asked for more).
        """
        found = self.tensor(tensor)
        rows = self._all.ask(lambda: self._query.histograms(found.id, QUANTITIES[quantity], steps))
        rows = [row for row in rows if row["hist_count"]]
        bits = min((row["hist_bits"] for row in rows), default=0) if finest else 0
        kept = {row["step"]: full_histogram(row["hist_first"], row["hist"], row["hist_bits"], bits) for row in rows}
        when = np.array(sorted(kept), dtype=np.int64)
        counts = np.array([kept[int(step)] for step in when], dtype=np.int64).reshape(len(when), histogram_bins(bits))
        read_only(when, counts)
        return when, edges_of(bits), counts


def _placed(tensors: Sequence[Tensor], ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values by id, put in the order of the tensors."""
    by_id = dict(zip(ids.tolist(), values.tolist(), strict=True))
    return np.array([by_id.get(tensor.id, np.nan) for tensor in tensors], dtype=np.float64)
