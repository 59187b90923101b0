"""Reading a run: all that CLI, page, report and tests know of it.

    record = open_run("weighbridge-runs/first")
    record.series("layers.0.weight", "gradient.rms").values
    record.refresh()                                    # while it is being written

A RunRecord is used by one thread at a time. Everything raises WeighbridgeError with what to do.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from weighbridge.catalog import RATIO, Statistic, parse
from weighbridge.errors import NothingRecorded, UnknownTensor, WeighbridgeError, nearest
from weighbridge.records import OF_OUTPUTS, QUANTITIES, Quantity, histogram_bins
from weighbridge.store import extras, persteps
from weighbridge.store.allranks import AllRanks
from weighbridge.store.coherence import Gradients
from weighbridge.store.downsample import WIDTHS
from weighbridge.store.grid import bucket_grid, joined
from weighbridge.store.histogram import edges_of, full_histogram
from weighbridge.store.recent import RECENT, Grids, Kept, Single
from weighbridge.store.status import info_of, require_run, steps_of
from weighbridge.store.values import decode_values, kept_at, kept_of
from weighbridge.store.views import (
    BiasShare,
    Buckets,
    Coherence,
    Detail,
    Event,
    Group,
    HeatMap,
    NoiseScale,
    NonFinite,
    RunInfo,
    Series,
    Tensor,
    TensorSummary,
    Units,
    read_only,
)

# Where more single rows than this would have to be read (about 0.1 us each), the bucket files answer instead, though
# their ranges are wider than asked for by up to 64 / COARSE_FROM.
MANY_ROWS = 500_000
COARSE_FROM = 8
SINGLES_AT_MOST = 6_000_000  # values of all tensors that are kept for the next question (recent.py); the engine cuts more
SHARED_FROM = 8  # a picture of fewer than one in so many tensors is read for itself

Which = tuple[Quantity, Statistic]

__all__ = ["Buckets", "Event", "HeatMap", "RunInfo", "RunRecord", "Series", "Tensor", "TensorSummary", "list_runs", "open_run"]


def open_run(path: str | PathLike[str], rank: int | None = None) -> RunRecord:
    """Open a run's folder for reading. Raises NotARun, NewerFormat or CorruptRun."""
    return RunRecord(Path(path), rank)


def list_runs(dir: str | PathLike[str]) -> list[RunInfo]:
    """One line about each run directly below a folder, oldest first. Unreadable runs are left out (see `verify`)."""
    from weighbridge.store.listed import listed

    return listed(Path(dir)).runs[::-1]


class RunRecord:
    """One run, read from its files: all ranks as one, or the one rank that is asked for.

    `rank` is None where all are one. What is not about tensors (steps, losses, logs, events, values of small tensors) is then
    what the lowest rank recorded; of what all ranks hold whole, too. Statistics of sharded tensors are merged.
    """

    def __init__(self, path: Path, rank: int | None = None) -> None:
        self.path, self.rank = path, rank
        self._run = require_run(path)
        self._all = AllRanks(path, rank)
        self._query = self._all.query
        self._owner = RECENT.owner(self)

    def __repr__(self) -> str:
        try:
            info = self.info
        except (WeighbridgeError, OSError):  # a name for it must always be had
            return f"<weighbridge.RunRecord {str(self.path)!r}: unreadable>"
        return f"<weighbridge.RunRecord {str(self.path)!r}: {info.state}, {info.steps:,} steps, {info.tensors:,} tensors>"

    def _repr_html_(self) -> str:
        from weighbridge.store.html import of_record

        return of_record(self)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The numbers of all ranks that recorded something."""
        return self._all.numbers

    # ---- the run ----

    @property
    def info(self) -> RunInfo:
        self.refresh()
        return self._all.ask(lambda: info_of(self.path, self._run, self._all.lead))

    @property
    def steps(self) -> int:
        """Steps taken, as of the last look: what `info` says of them, without a look at the files."""
        return self._all.ask(lambda: steps_of(self._all.lead))

    def refresh(self) -> bool:
        """See newly acknowledged flushes; returns whether there are any."""
        return self._all.refresh()

    @property
    def world_size(self) -> int:
        """How many ranks the training had when the run began."""
        return int(self.about.get("world_size") or 1)

    @property
    def has_shards(self) -> bool:
        """Are there tensors of which each rank holds a part? Shown are the steps at which all parts are there."""
        return self._all.has_shards

    def rank_states(self) -> list[tuple[int, str, int]]:
        """Of each rank: its number, its state (as RunInfo.state) and the last step that it recorded."""
        return self._all.states(self._run)

    @property
    def config(self) -> dict[str, Any]:
        """The run's configuration: as given to init, then what was added later."""
        config = dict(self._run["info"].get("config") or {})
        for event in self.events():
            if event.kind == "config":
                config.update(event.detail)
        return config

    @property
    def about(self) -> dict[str, Any]:
        """What was written down when the run began: versions, command line, machine."""
        return {name: value for name, value in self._run["info"].items() if name != "config"}

    def events(self) -> list[Event]:
        """Everything that happened to the run, in the order it was written."""
        return persteps.events(self._all.whole("events"))

    def kept(self, question: str, make: Callable[[], bytes]) -> memoryview:
        """What follows from the run as it is: made once, until it has grown."""
        version = (*self._all.version, self.steps)
        return RECENT.get((self._owner, question), version, lambda old: memoryview(make()) if old is None else old)

    # ---- tensors ----

    @property
    def everything(self) -> tuple[Tensor, ...]:
        """Parameters and outputs; the very same tuple until something is added."""
        return self._all.tensors()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All watched parameters in order of definition; a later description of the same tensor wins."""
        return tuple(tensor for tensor in self._all.tensors() if not tensor.is_output)

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """All watched outputs of modules ("encoder.0/out"), in order of execution."""
        return tuple(tensor for tensor in self._all.tensors() if tensor.is_output)

    def tensors_of(self, quantity: Quantity) -> tuple[Tensor, ...]:
        """Those that this quantity is weighed of: outputs for activations and their gradients, else parameters."""
        return self.outputs if quantity in OF_OUTPUTS else self.tensors

    def tensor(self, name: str) -> Tensor:
        """By name, by one of its aliases or by "model:name" where several models share names. Raises UnknownTensor."""
        everything = self._all.tensors()
        found = [t for t in everything if name in (t.name, f"{t.model}:{t.name}", *t.aliases)]
        if not found:
            known = [t.name for t in everything]
            raise UnknownTensor(
                f"The run {self.path} has no tensor {name!r}.{nearest(name, known)} All of them: weighbridge show {self.path}"
            )
        return found[0]

    def descriptions(self) -> list[tuple[int, Tensor]]:
        """What was said of the tensors and from which step on, in the order it was said; a later word on a tensor wins."""
        now = {tensor.id: tensor for tensor in self._all.tensors()}
        told = self._all.whole("tensors").to_pylist() if len(self.ranks) < 2 else []
        listed = [(max(row["step"], 0), Tensor.from_row(row)) for row in told]
        return listed or [(0, tensor) for tensor in now.values()]

    def whole(self, table: str) -> pa.Table:
        """All of one of the small tables (`records.TABLES`, all but `rows`), as the lowest rank wrote it."""
        return self._all.whole(table)

    # ---- rows ----

    @property
    def thinned(self) -> list[tuple[int, int]]:
        """First and last steps of the ranges of which only buckets are left (the disk limit), in order."""
        return joined(part.thinned for part in self._all.parts if part.thinned)

    @property
    def first_step(self) -> int:
        """The first step with rows; -1 where there is none."""
        return min((part.first_step for part in self._all.parts), default=-1)

    @property
    def last_step(self) -> int:
        """The last one, as `first_step`."""
        return max((min(part.last_step, part.limit - 1) for part in self._all.parts), default=-1)

    def _range(self, start: int | None, stop: int | None) -> tuple[int, int]:
        first = max(self.first_step, 0)
        low = first if start is None else max(start, first)
        high = self.last_step + 1 if stop is None else min(stop, self.last_step + 1)
        return low, max(high, low)

    def series(self, tensor: str, statistic: str, start: int | None = None, stop: int | None = None) -> Series:
        """One statistic of one tensor at every recorded step, start <= step < stop."""
        quantity, which = parse(statistic)
        found, span = self.tensor(tensor), self._range(start, stop)

        def read(old: Kept | None) -> Kept:
            if old is not None:
                return old
            answer = self._all.ask(lambda: self._query.series(found.id, quantity, which, *span))
            return Kept(read_only(answer["step"], answer["value"]))

        kept = RECENT.get((self._owner, found.id, quantity, which.name, span), self._all.version, read)
        return Series(f"{found.name} {statistic}", *kept.arrays)

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
        found: dict[Which, list[tuple[np.ndarray, ...]]] = {}
        for together in _together(wanted):
            grids = self._several_grids(together, (low, high), cells, chosen, len(first))
            for which, of in zip(together, grids, strict=True):
                found[which] = [read_only(*(grid[row] for grid in of)) for row in range(len(chosen))]
        return [
            Buckets(f"{tensor.name} {name}", first, last, *found[which][row])
            for row, tensor in enumerate(chosen)
            for name, which in zip(statistics, wanted, strict=True)
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

    def grids(self, statistics: Sequence[str], start: int, stop: int, ids: Sequence[int]) -> dict[str, np.ndarray]:
        """Per statistic float64 [steps, tensors] for start <= step < stop and the tensors of these ids; NaN = not recorded.

        Single rows only: a step of which only buckets are left is not recorded. Raises UnknownStatistic for what has no formula
        over one row.
        """
        found = {name: np.full((stop - start, len(ids)), np.nan) for name in statistics}
        place = np.full(max(ids, default=0) + 2, -1)
        place[list(ids)] = np.arange(len(ids))
        wanted: dict[Quantity, list[Statistic]] = {}
        for quantity, statistic in map(parse, statistics):
            wanted.setdefault(quantity, []).append(statistic)
        for quantity, listed in wanted.items():
            answer = self._all.ask(functools.partial(self._query.grid, quantity, listed, start, stop))
            column = place[np.minimum(answer["tensor"], len(place) - 1)]
            known = slice(None) if (column >= 0).all() else column >= 0
            at = ((answer["step"] - start) * len(ids) + column)[known]
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
        (grids,) = self._several_grids([which], (low, high), cells, chosen, len(edges) - 1)
        first, last = edges[:-1].copy(), edges[1:] - 1
        read_only(first, last, *grids)
        return HeatMap(statistic, chosen, first, last, *grids)

    def _is_thinned(self, low: int, high: int) -> bool:
        return any(first < high and last >= low for first, last in self.thinned)

    def _several_grids(
        self, which: Sequence[Which], span: tuple[int, int], cells: tuple[int, int, int], chosen: Sequence[Tensor], size: int
    ) -> list[Grids]:
        """As RowQuery.buckets, of statistics of one quantity. For a picture of many tensors that of all is read: it serves the
        next question, too."""
        quantity, statistics = which[0][0], [statistic for _, statistic in which]
        everyone = self.tensors_of(quantity)
        is_known = {tensor.id for tensor in chosen} <= {tensor.id for tensor in everyone}
        if len(chosen) * SHARED_FROM < len(everyone) or not is_known:
            return self._all.ask(lambda: self._query.buckets(quantity, statistics, span, cells, _ids(chosen), size))
        return [self._grids(one, span, cells, chosen, size) for one in which]

    def _grids(
        self, which: Which, span: tuple[int, int], cells: tuple[int, int, int], chosen: Sequence[Tensor], size: int
    ) -> Grids:
        everyone = self.tensors_of(which[0])
        place = np.full(max((tensor.id for tensor in everyone), default=0) + 1, -1)
        place[_ids(everyone)] = np.arange(len(everyone))
        rows = place[_ids(chosen)]
        if not cells[2] and len(everyone) * (span[1] - span[0]) <= SINGLES_AT_MOST:
            return self._singles(which, *span, place).cells(rows, *span, cells[1])

        def read(old: Kept | None) -> Kept:
            if old is not None:
                return old
            return Kept(self._all.ask(lambda: self._query.buckets(which[0], [which[1]], span, cells, _ids(everyone), size))[0])

        picture = RECENT.get((self._owner, which[0], which[1].name, span, cells), self._all.version, read)
        return tuple(grid[rows] for grid in picture.arrays)

    def _singles(self, which: Which, low: int, high: int, place: np.ndarray) -> Single:
        def read(old: Single | None) -> Single:
            if old is not None and old.has(low, high):
                return old
            rows = int(place.max(initial=-1)) + 1
            return self._all.ask(lambda: Single.of(low, high, place, rows, self._query.singles(*which, low, high)))

        return RECENT.get((self._owner, which[0], which[1].name), self._all.version, read)

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

    # ---- values of small tensors ----

    def value_steps(self, tensor: str, quantity: str) -> np.ndarray:
        """The steps at which the values themselves were kept."""
        return np.unique(self._values_of(tensor, quantity).column("step").to_numpy())

    def values(self, tensor: str, quantity: str, step: int | None = None) -> tuple[int, np.ndarray]:
        """The tensor's own numbers at the last recorded step <= `step` (None = the last). Raises NothingRecorded."""
        found = kept_at(self._values_of(tensor, quantity), step, self.tensor(tensor).shape)
        if found is None:
            raise NothingRecorded(
                f"The values of {quantity} of {tensor} were not recorded at or before step {step} of {self.path}. "
                "Values are kept of small tensors only; the statistics are there for all: weighbridge show --tensor"
            )
        return found

    def values_over(self, tensor: str, quantity: str, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Steps and the tensor's own numbers [steps, elements], float64; at most so many steps, evenly among those kept."""
        kept, shape = self._values_of(tensor, quantity), self.tensor(tensor).shape
        steps, rows = np.unique(kept.column("step").to_numpy(), return_index=True)
        chosen = np.unique(np.linspace(0, len(steps) - 1, min(most, len(steps))).round().astype(np.int64))
        data, dtype = kept.column("data"), kept.column("dtype")
        numbers = [decode_values(data[int(i)].as_py(), dtype[int(i)].as_py(), shape).ravel() for i in rows[chosen]]
        answer = steps[chosen], np.array(numbers, dtype=np.float64).reshape(len(chosen), int(np.prod(shape, dtype=np.int64)))
        read_only(*answer)
        return answer

    def _values_of(self, tensor: str, quantity: str) -> pa.Table:
        return kept_of(self._all.whole("values"), self.tensor(tensor).id, QUANTITIES[quantity])

    # ---- what modules give ----

    def units(self, output: str) -> list[Units]:
        """Each unit of an output, one record per row of the plan's schedule, in order of steps."""
        return extras.units_of(self._all.whole("units"), self.tensor(output).id)

    def last_units(self) -> dict[int, Units]:
        """The last of these of every output, by its id."""
        return extras.last_units(self._all.whole("units"))

    def first_nonfinite(self) -> NonFinite | None:
        """Where NaN or infinity was first in what modules give; None = nowhere."""
        return extras.first_nonfinite(self._all.whole("calls"), {t.id: t.name for t in self.outputs})

    def bias_share(self, tensor: str) -> BiasShare:
        """What a bias adds beside W.x, at the steps at which it was weighed."""
        return extras.bias_share(self._all.whole("biases"), self.tensor(tensor).id)

    def optimizer_groups(self) -> list[Group]:
        """Every optimizer's parameter groups; a group whose settings or tensors changed stands there again."""
        return extras.optimizer_groups(self.events(), {t.id: t.name for t in self._all.tensors()})

    # ---- successive gradients ----

    def coherence(self, tensor: str | None = None, start: int | None = None, stop: int | None = None) -> Coherence:
        """How alike successive gradients were at the steps of the plan: of one tensor, or of all of them together."""
        return self.gradients.coherence(None if tensor is None else self.tensor(tensor).id, start, stop)

    def noise_scales(self, tensor: str | None = None, start: int | None = None, stop: int | None = None) -> list[NoiseScale]:
        """The gradient noise scale over these steps, of one tensor or of all together: from successive steps, and from
        backward passes that add up (right where those are micro-batches of one loss)."""
        return self.gradients.noise_scales(None if tensor is None else self.tensor(tensor).id, start, stop)

    @property
    def gradients(self) -> Gradients:
        """The same by the tensors' ids."""
        return self._all.gradients()

    # ---- per step ----

    def steps_table(self, start: int | None = None, stop: int | None = None) -> pa.Table:
        """The table of steps, start <= step < stop, in order of steps."""
        return persteps.between(self._all.whole("steps"), start, stop)

    def losses(self, buckets: int | None = None) -> Series:
        """The loss of each step; with `buckets`, the lowest and highest of each range of steps only."""
        return persteps.losses(self.steps_table(), buckets)

    def epochs(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps and the epoch at each of them, where one is known."""
        return persteps.epochs(self.steps_table())

    def log_keys(self) -> list[str]:
        """Everything the user logged, by name."""
        return sorted(set(self._all.whole("logs").column("key").to_pylist()))

    def logged(self, key: str) -> Series:
        """What was logged under one name. Raises NothingRecorded."""
        found = persteps.logged(self._all.whole("logs"), key)
        if found is None:
            raise NothingRecorded(f"Nothing was logged as {key!r} in {self.path}.{nearest(key, self.log_keys())}")
        return found

    @property
    def detail(self) -> Detail | None:
        """What `Plan(budget=...)` has left out since its last change; None where everything of the plan is recorded."""
        return extras.last_detail(self.events())

    def own_cost(self) -> tuple[float, float]:
        """Seconds of ours on the training thread, and seconds on the wall, from the end of the first step to the last."""
        return persteps.own_cost(self._all.whole("steps"))


def _together(wanted: Sequence[Which]) -> list[list[Which]]:
    """Those that can be read at once: of one quantity; the ratio alone."""
    found: dict[tuple[Quantity, bool], list[Which]] = {}
    for which in dict.fromkeys(wanted):
        found.setdefault((which[0], which[1] is RATIO), []).append(which)
    return list(found.values())


def _ids(tensors: Sequence[Tensor]) -> np.ndarray:
    return np.array([tensor.id for tensor in tensors], dtype=np.int64)


def _placed(tensors: Sequence[Tensor], ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values by id, put in the order of the tensors."""
    by_id = dict(zip(ids.tolist(), values.tolist(), strict=True))
    return np.array([by_id.get(tensor.id, np.nan) for tensor in tensors], dtype=np.float64)
