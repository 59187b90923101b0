"""Reading a run: all that CLI, page, report and tests know of it.

    record = open_run("weighbridge-runs/first")
    record.series("layers.0.weight", "gradient.rms").values
    record.refresh()                                    # while it is being written

A RunRecord is used by one thread at a time. Everything raises WeighbridgeError with what to do.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weighbridge.catalog import Statistic, parse
from weighbridge.errors import BadInput, NothingRecorded, UnknownTensor, WeighbridgeError, nearest
from weighbridge.records import OF_OUTPUTS, QUANTITIES, Quantity
from weighbridge.store import extras, layout
from weighbridge.store.coherence import Gradients, add_ranks, with_variance
from weighbridge.store.downsample import WIDTHS
from weighbridge.store.histogram import edges_of, full_histogram
from weighbridge.store.query import RowQuery
from weighbridge.store.shards import Merge, merge
from weighbridge.store.status import info_of, last_flush_of, require_run, state_of
from weighbridge.store.tables import FOREVER, Part, RankTables, parse_detail
from weighbridge.store.values import decode_values
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

Answer = TypeVar("Answer")

__all__ = ["Buckets", "Event", "HeatMap", "RunInfo", "RunRecord", "Series", "Tensor", "TensorSummary", "list_runs", "open_run"]


def open_run(path: str | PathLike[str], rank: int | None = None) -> RunRecord:
    """Open a run's folder for reading. Raises NotARun, NewerFormat or CorruptRun."""
    return RunRecord(Path(path), rank)


def list_runs(dir: str | PathLike[str]) -> list[RunInfo]:
    """One line about each run directly below a folder, oldest first. Unreadable runs are left out (see `verify`)."""
    found = []
    for path in layout.find_runs(Path(dir)):
        try:
            found.append(RunRecord(path).info)
        except (WeighbridgeError, FileNotFoundError):
            continue
    return sorted(found, key=lambda info: info.started)


class RunRecord:
    """One run, read from its files: all ranks as one, or the one rank that is asked for.

    `rank` is None where all are one. What is not about tensors (steps, losses, logs, events, values of small tensors) is then
    what the lowest rank recorded; of what all ranks hold whole, too. Statistics of sharded tensors are merged.
    """

    def __init__(self, path: Path, rank: int | None = None) -> None:
        self.path = path
        self._run = require_run(path)
        self.ranks: tuple[int, ...] = tuple(layout.ranks(path))
        self.rank = rank
        lead = rank if rank is not None else (self.ranks[0] if self.ranks else 0)
        if rank is not None and rank not in self.ranks:
            there = ", ".join(map(str, self.ranks)) or "none"
            raise BadInput(f"{path} holds no rank {rank}. Ranks that recorded something: {there}.")
        self._lead = lead
        self._tables = RankTables(layout.rank_folder(path, lead))
        self._all = {lead: self._tables}
        self._query = RowQuery(self._tables)
        self._lock = threading.RLock()
        self._described: tuple[object, tuple[Tensor, ...]] = (None, ())
        self._merged: tuple[dict[int, pa.Table], Merge | None] = ({}, None)
        self._compared: tuple[tuple[int, ...], Gradients] | None = None
        self._look_for_ranks()

    # ---- the run ----

    @property
    def info(self) -> RunInfo:
        self.refresh()
        return self._ask(lambda: info_of(self.path, self._run, self._tables))

    def refresh(self) -> bool:
        """See newly acknowledged flushes; returns whether there are any."""
        with self._lock:
            news = [self._look_for_ranks(), *(tables.refresh() for tables in self._all.values())]
            return any(news)

    def _look_for_ranks(self) -> bool:
        """Ranks begin one after the other; those that came since the last look. A rank alone looks at no other."""
        if self.rank is None:
            self.ranks = tuple(layout.ranks(self.path))
        new = [rank for rank in self.ranks if rank not in self._all] if self.rank is None else []
        self._all |= {rank: RankTables(layout.rank_folder(self.path, rank)) for rank in new}
        return bool(new)

    def rank_states(self) -> list[tuple[int, str, int]]:
        """Of each rank: its number, its state (as RunInfo.state) and the last step that it recorded."""
        states = []
        for rank in self.ranks:
            tables = self._all.get(rank) or RankTables(layout.rank_folder(self.path, rank))
            state = state_of(self._run, tables.folder, last_flush_of(tables.folder))
            states.append((rank, state, max((min(p.last_step, p.limit - 1) for p in tables.parts["steps"]), default=-1)))
        return states

    def _merge(self) -> Merge | None:
        """How the ranks go together; None where one rank's rows say everything. Makes the query read them so."""
        if len(self._all) == 1:
            return None
        tables = {rank: one.whole("tensors") for rank, one in self._all.items()}
        if not _is_same(self._merged[0], tables):
            found = merge({rank: table.to_pylist() for rank, table in tables.items()})
            self._merged = (tables, None if found.is_of_one(self._lead) else found)
            self._query.read_as_one(self._all, self._merged[1])
        return self._merged[1]

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
        rows = self._whole("events").to_pylist()
        return [
            Event(r["step"], r["kind"], r["tensor"], r["message"] or "", parse_detail(r["detail"]), r["time_ns"]) for r in rows
        ]

    def _whole(self, table: str) -> pa.Table:
        return self._ask(lambda: self._tables.whole(table))

    # ---- tensors ----

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All watched parameters in order of definition; a later description of the same tensor wins."""
        return tuple(tensor for tensor in self._everything if not tensor.is_output)

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """All watched outputs of modules ("encoder.0/out"), in order of execution."""
        return tuple(tensor for tensor in self._everything if tensor.is_output)

    @property
    def _everything(self) -> tuple[Tensor, ...]:
        with self._lock:
            merged = self._ask(self._merge)
        table: object = merged or self._whole("tensors")
        if self._described[0] is not table:
            rows = merged.tensors if merged else self._whole("tensors").to_pylist()
            by_id = {row["tensor"]: row for row in rows}
            found = sorted((_tensor(row) for row in by_id.values()), key=lambda tensor: (tensor.order, tensor.id))
            self._described = (table, tuple(found))
        return self._described[1]

    def tensors_of(self, quantity: Quantity) -> tuple[Tensor, ...]:
        """Those that this quantity is weighed of: outputs for activations and their gradients, else parameters."""
        return self.outputs if quantity in OF_OUTPUTS else self.tensors

    def tensor(self, name: str) -> Tensor:
        """By name, by one of its aliases or by "model:name" where several models share names. Raises UnknownTensor."""
        everything = self._everything
        found = [t for t in everything if name in (t.name, f"{t.model}:{t.name}", *t.aliases)]
        if not found:
            known = [t.name for t in everything]
            raise UnknownTensor(
                f"The run {self.path} has no tensor {name!r}.{nearest(name, known)} All of them: weighbridge show {self.path}"
            )
        return found[0]

    # ---- rows ----

    @property
    def thinned(self) -> list[tuple[int, int]]:
        """First and last steps of the ranges of which only buckets are left (the disk limit), in order."""
        ranges: list[tuple[int, int]] = []
        for first, last in sorted(part.thinned for part in self._parts if part.thinned):
            if ranges and first <= ranges[-1][1] + 1:
                ranges[-1] = (ranges[-1][0], max(last, ranges[-1][1]))
            else:
                ranges.append((first, last))
        return ranges

    @property
    def _parts(self) -> list[Part]:
        return [part for tables in self._all.values() for part in tables.parts["rows"]]

    @property
    def first_step(self) -> int:
        return min((part.first_step for part in self._parts), default=-1)

    @property
    def last_step(self) -> int:
        return max((min(part.last_step, part.limit - 1) for part in self._parts), default=-1)

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        """Ask the query engine; once more if somebody compacted a segment away meanwhile."""
        with self._lock:
            try:
                self._merge()
                return question()
            except FileNotFoundError:
                self.refresh()
                self._merge()
                return question()

    def _range(self, start: int | None, stop: int | None) -> tuple[int, int]:
        first = max(self.first_step, 0)
        low = first if start is None else max(start, first)
        high = self.last_step + 1 if stop is None else min(stop, self.last_step + 1)
        return low, max(high, low)

    def series(self, tensor: str, statistic: str, start: int | None = None, stop: int | None = None) -> Series:
        """One statistic of one tensor at every recorded step, start <= step < stop."""
        quantity, which = parse(statistic)
        found = self.tensor(tensor)
        answer = self._ask(lambda: self._query.series(found.id, quantity, which, *self._range(start, stop)))
        return Series(f"{found.name} {statistic}", *read_only(answer["step"], answer["value"]))

    def series_buckets(
        self, tensor: str, statistic: str, buckets: int = 1200, start: int | None = None, stop: int | None = None
    ) -> Buckets:
        """The same in at most `buckets` ranges of steps."""
        found = self.tensor(tensor)
        heat = self.heat_map(statistic, buckets, start, stop, [found.name])
        return Buckets(f"{found.name} {statistic}", heat.step_first, heat.step_last, heat.mean[0], heat.min[0], heat.max[0])

    def at_step(self, step: int, statistics: Sequence[str]) -> dict[str, np.ndarray]:
        """Per statistic one value per tensor, in the order of `tensors` (activations: `outputs`); NaN = not recorded."""
        wanted: list[tuple[Quantity, Statistic]] = [parse(name) for name in statistics]
        answers = self._ask(lambda: self._query.at_step(step, wanted))
        return {
            name: _placed(self.tensors_of(quantity), answer["tensor"], answer["value"])
            for name, (quantity, _), answer in zip(statistics, wanted, answers, strict=True)
        }

    def heat_map(
        self,
        statistic: str,
        buckets: int = 500,
        start: int | None = None,
        stop: int | None = None,
        tensors: Sequence[str] | None = None,
    ) -> HeatMap:
        """One statistic of all tensors (or those named) in at most `buckets` ranges of steps."""
        quantity, which = parse(statistic)
        chosen = self.tensors_of(quantity) if tensors is None else tuple(self.tensor(name) for name in tensors)
        low, high = self._range(start, stop)
        thinned = any(first < high and last >= low for first, last in self.thinned)
        many = (high - low) * len(chosen) > MANY_ROWS and high - low > COARSE_FROM * buckets
        cells, edges = bucket_grid(low, high, buckets, WIDTHS[0] if thinned or many else 0)
        ids = np.array([tensor.id for tensor in chosen], dtype=np.int64)
        span, size = (low, high), len(edges) - 1
        grids = self._ask(lambda: self._query.buckets(quantity, which, span, cells, ids, size))
        first, last = edges[:-1].copy(), edges[1:] - 1
        read_only(first, last, *grids)
        return HeatMap(statistic, chosen, first, last, *grids)

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
            found = self._ask(functools.partial(self._query.last, *parse(statistic), max(low, high - back), high))
            if len(found["tensor"]) >= recorded:
                break
        return found

    def histogram(self, tensor: str, quantity: str, step: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Edges (from -inf to +inf), counts (one fewer) and how many elements were looked at. Raises NothingRecorded.

        132 bins, or 260 or 516 where the plan asked for 2 or 4 bins in each power of two.
        """
        found = self.tensor(tensor)
        row = self._ask(lambda: self._query.histogram(found.id, QUANTITIES[quantity], step))
        if row is None:
            raise NothingRecorded(f"No {quantity} of {found.name} was recorded at step {step} of {self.path}.")
        if not row["hist_count"] and self.tensor(tensor).count:
            raise NothingRecorded(
                f"The {quantity} of {found.name} was weighed without a histogram at step {step} of {self.path}: the plan, or "
                "its budget, left it out (weighbridge show says when)."
            )
        bits = row["hist_bits"]
        return edges_of(bits), full_histogram(row["hist_first"], row["hist"], bits), int(row["hist_count"])

    # ---- values of small tensors ----

    def value_steps(self, tensor: str, quantity: str) -> np.ndarray:
        """The steps at which the values themselves were kept."""
        return np.unique(self._values_of(tensor, quantity).column("step").to_numpy())

    def values(self, tensor: str, quantity: str, step: int | None = None) -> tuple[int, np.ndarray]:
        """The tensor's own numbers at the last recorded step <= `step` (None = the last). Raises NothingRecorded."""
        kept = self._values_of(tensor, quantity)
        steps = kept.column("step").to_numpy()
        possible = np.flatnonzero(steps <= (FOREVER if step is None else step))
        if not len(possible):
            raise NothingRecorded(
                f"The values of {quantity} of {tensor} were not recorded at or before step {step} of {self.path}. "
                "Values are kept of small tensors only; the statistics are there for all: weighbridge show --tensor"
            )
        row = int(possible[np.argmax(steps[possible])])
        data, dtype = kept.column("data")[row].as_py(), kept.column("dtype")[row].as_py()
        return int(steps[row]), decode_values(data, dtype, self.tensor(tensor).shape)

    def _values_of(self, tensor: str, quantity: str) -> pa.Table:
        table = self._whole("values")
        mine = pc.and_(
            pc.equal(table.column("tensor"), self.tensor(tensor).id),
            pc.equal(table.column("quantity"), int(QUANTITIES[quantity])),
        )
        return table.filter(mine)

    # ---- what modules give ----

    def units(self, output: str) -> list[Units]:
        """Each unit of an output, one record per row of the plan's schedule, in order of steps."""
        return extras.units_of(self._whole("units"), self.tensor(output).id)

    def last_units(self) -> dict[int, Units]:
        """The last of these of every output, by its id."""
        return extras.last_units(self._whole("units"))

    def first_nonfinite(self) -> NonFinite | None:
        """Where NaN or infinity was first in what modules give; None = nowhere."""
        return extras.first_nonfinite(self._whole("calls"), {t.id: t.name for t in self.outputs})

    def bias_share(self, tensor: str) -> BiasShare:
        """What a bias adds beside W.x, at the steps at which it was weighed."""
        return extras.bias_share(self._whole("biases"), self.tensor(tensor).id)

    def optimizer_groups(self) -> list[Group]:
        """Every optimizer's parameter groups; a group whose settings or tensors changed stands there again."""
        return extras.optimizer_groups(self.events(), {t.id: t.name for t in self._everything})

    # ---- successive gradients ----

    def coherence(self, tensor: str | None = None, start: int = 0, stop: int = FOREVER) -> Coherence:
        """How alike successive gradients were at the steps of the plan: of one tensor, or of all of them together."""
        return self.gradients.coherence(None if tensor is None else self.tensor(tensor).id, start, stop)

    def noise_scales(self, tensor: str | None = None, start: int = 0, stop: int = FOREVER) -> list[NoiseScale]:
        """The gradient noise scale over these steps, of one tensor or of all together: from successive steps, and from
        backward passes that add up (right where those are micro-batches of one loss)."""
        return self.gradients.noise_scales(None if tensor is None else self.tensor(tensor).id, start, stop)

    @property
    def gradients(self) -> Gradients:
        """The same by the tensors' ids."""
        versions = tuple(tables.version for tables in self._all.values())
        if self._compared is None or self._compared[0] != versions:
            self._compared = (versions, Gradients(self._of_ranks("coherence"), self._of_ranks("accumulation")))
        return self._compared[1]

    def _of_ranks(self, table: str) -> pa.Table:
        """A table whose rows of shards add up, of all ranks as one."""
        with self._lock:
            merged = self._ask(self._merge)
        ranks = self._all if merged is not None else {self._lead: self._tables}
        tables = {rank: self._ask(functools.partial(one.whole, table)) for rank, one in ranks.items()}
        tables = {rank: with_variance(one) for rank, one in tables.items()} if table == "coherence" else tables
        return add_ranks(tables, merged.shares, merged.whole) if merged is not None else tables[self._lead]

    # ---- per step ----

    def steps_table(self, start: int | None = None, stop: int | None = None) -> pa.Table:
        """The table of steps, start <= step < stop, in order of steps."""
        table = self._whole("steps")
        step = table.column("step")
        inside = pc.and_(pc.greater_equal(step, start or 0), pc.less(step, FOREVER if stop is None else stop))
        return table.filter(inside).sort_by([("step", "ascending"), ("optimizer", "ascending")])

    def losses(self, buckets: int | None = None) -> Series:
        """The loss of each step; with `buckets`, the lowest and highest of each range of steps only."""
        table = self.steps_table()
        steps, values = table.column("step").to_numpy(), table.column("loss").to_numpy()
        seen = table.column("loss").is_valid().to_numpy()  # null = none seen; NaN is a loss
        steps, first = np.unique(steps[seen], return_index=True)
        values = values[seen][first]
        if buckets is not None and len(steps) > 2 * buckets:
            kept = extremes(values, buckets)
            steps, values = steps[kept], values[kept]
        return Series("loss", *read_only(steps, values))

    def epochs(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps and the epoch at each of them, where one is known."""
        table = self.steps_table()
        steps, epochs = table.column("step").to_numpy(), table.column("epoch").to_numpy()
        known = ~np.isnan(epochs)
        steps, first = np.unique(steps[known], return_index=True)
        return steps, epochs[known][first]

    def log_keys(self) -> list[str]:
        """Everything the user logged, by name."""
        return sorted(set(self._whole("logs").column("key").to_pylist()))

    def logged(self, key: str) -> Series:
        """What was logged under one name. Raises NothingRecorded."""
        table = self._whole("logs")
        table = table.filter(pc.equal(table.column("key"), key)).sort_by("step")
        if not table.num_rows:
            raise NothingRecorded(f"Nothing was logged as {key!r} in {self.path}.{nearest(key, self.log_keys())}")
        return Series(key, *read_only(table.column("step").to_numpy(), table.column("value").to_numpy()))

    @property
    def detail(self) -> Detail | None:
        """What `Plan(budget=...)` has left out since its last change; None where everything of the plan is recorded."""
        return extras.last_detail(self.events())

    def own_cost(self) -> tuple[float, float]:
        """Seconds of ours on the training thread, and seconds on the wall, from the first step to the last."""
        table = self._whole("steps")
        if not table.num_rows:
            return 0.0, 0.0
        times = table.column("time_ns").to_numpy()
        return float(pc.sum(table.column("own_ns")).as_py()) / 1e9, float(times.max() - times.min()) / 1e9


def bucket_grid(start: int, stop: int, buckets: int, level: int = 0) -> tuple[tuple[int, int, int], np.ndarray]:
    """At most `buckets` ranges of equal width over start <= step < stop, and the edges cut to it.

    Returns (where bucket 0 begins, steps in a bucket, level of bucket files to use) and the edges. Wide buckets begin
    and end where those on disk do, so that nothing has to be split; `level` is the least level to use.
    """
    most = max(1, buckets)
    wanted = _whole(stop - start, most)
    for size in WIDTHS:
        if wanted > (size * 3 // 4 if size > WIDTHS[0] else size // 2):
            level = size
    unit = level or 1
    base = start - start % unit
    width = unit * max(1, _whole(_whole(stop - base, most), unit))
    edges = np.append(np.arange(base, stop, width, dtype=np.int64), stop).astype(np.int64)
    edges[0] = start
    return (base, width, level), edges


def _whole(amount: int, parts: int) -> int:
    """amount / parts, rounded up."""
    return -(-amount // parts)


def extremes(values: np.ndarray, buckets: int) -> np.ndarray:
    """Indices of the lowest and highest of `values` in each of `buckets` equal stretches, in order."""
    cuts = np.linspace(0, len(values), buckets + 1).astype(np.int64)
    kept: list[int] = []
    for low, high in itertools.pairwise(cuts):
        if high > low:
            kept += [int(low + np.argmin(values[low:high])), int(low + np.argmax(values[low:high]))]
    return np.unique(kept)


def _placed(tensors: Sequence[Tensor], ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values by id, put in the order of the tensors."""
    by_id = dict(zip(ids.tolist(), values.tolist(), strict=True))
    return np.array([by_id.get(tensor.id, np.nan) for tensor in tensors], dtype=np.float64)


def _is_same(one: dict[int, pa.Table], other: dict[int, pa.Table]) -> bool:
    """The very same tables (each is kept until something is added to it)?"""
    return one.keys() == other.keys() and all(one[rank] is other[rank] for rank in one)


def _tensor(row: dict[str, Any]) -> Tensor:
    return Tensor(
        id=row["tensor"],
        model=row["model"],
        name=row["name"],
        role=row["role"],
        module=row["module"],
        shape=tuple(row["shape"] or ()),
        dtype=row["dtype"],
        count=row["count"],
        order=row["order"],
        aliases=tuple(row["aliases"] or ()),
        requires_grad=row["requires_grad"],
        note=row["note"] or "",
    )
