"""Readers of the tables `coherence` and `accumulation`: how alike successive gradients are, and how noisy.

The gradient of a batch is the true gradient G and noise, whose variance falls as one over the batch. Two batch sizes tell
them apart (McCandlish, Kaplan, Amodei et al. 2018, "An Empirical Model of Large-Batch Training", appendix A.1). With |G|^2
the signal and tr(Sigma) / b the noise of a batch of b samples, tr(Sigma) the trace of the samples' covariance:

    two steps, weights hardly moved    E <g, g'> = |G|^2                     E (|g|^2 + |g'|^2) / 2 = |G|^2 + noise
    n passes h, scaled by c each       E |h_1|^2 = c^2 (|G|^2 + noise)       E |h_1 + ... + h_n|^2 = c^2 (n^2 |G|^2 + n noise)

The noise scale is noise / signal, a number of batches (of the passes', in the second case; c cancels): a batch that is so
many times larger has a gradient in which both are equal. Signal and noise of one step scatter widely; they are averaged over
steps before they are divided.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weighbridge.catalog import ACCUMULATED, SUCCESSIVE, evaluate
from weighbridge.store.tables import FOREVER
from weighbridge.store.views import Coherence, NoiseScale, read_only

CLEAR: Final = 2.0  # standard errors by which the signal must stand above 0 before anything is divided by it
Columns = dict[str, np.ndarray]


class Sums:
    """One of the two tables, found by tensor."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table.sort_by([("tensor", "ascending"), ("step", "ascending")])
        self._tensors = self.table.column("tensor").to_numpy()
        self._all: pa.Table | None = None

    def columns(self, tensor: int | None, start: int | None, stop: int | None) -> Columns:
        """One entry a step, start <= step < stop; `tensor` None: of all together."""
        table = self.together if tensor is None else self._of(tensor)
        columns = {name: table.column(name).to_numpy() for name in table.column_names}
        low, high = np.searchsorted(columns["step"], [start or 0, FOREVER if stop is None else stop])
        return {name: column[low:high] for name, column in columns.items()}

    def _of(self, tensor: int) -> pa.Table:
        low, high = np.searchsorted(self._tensors, [tensor, tensor + 1]).tolist()
        return self.table.slice(low, high - low)

    @property
    def together(self) -> pa.Table:
        """All tensors as one, at the steps with as many elements as any has: a part is never shown as the whole."""
        if self._all is None:
            table = added(self.table, ["step", "step_before", "passes"])
            if table.num_rows:
                table = table.filter(pc.equal(table.column("count"), pc.max(table.column("count")).as_py()))
            self._all = table.sort_by("step")
        return self._all


class Gradients:
    """What a run says about successive gradients, and about those that several backward passes have added up."""

    def __init__(self, successive: pa.Table, accumulated: pa.Table) -> None:
        self._ways = (("step", SUCCESSIVE, Sums(successive)), ("backward pass", ACCUMULATED, Sums(accumulated)))

    def coherence(self, tensor: int | None = None, start: int | None = None, stop: int | None = None) -> Coherence:
        """Of one tensor, by its id, or of all of them together, at start <= step < stop."""
        columns = self._ways[0][2].columns(tensor, start, stop)
        cosine = evaluate(SUCCESSIVE["cosine"], columns)
        with np.errstate(all="ignore"):
            errors = np.sqrt(columns["variance"] / (columns["sum_sq_before"] * columns["sum_sq"]))
        others = (columns[name] for name in ("count", "numbers"))
        return Coherence(*read_only(columns["step"], columns["step_before"], cosine, errors, *others))

    def noise_scales(self, tensor: int | None = None, start: int | None = None, stop: int | None = None) -> list[NoiseScale]:
        """The noise scale in each way for which there are rows."""
        found = []
        for batch, statistics, sums in self._ways:
            columns = sums.columns(tensor, start, stop)
            if len(columns["step"]):
                signal, noise = (evaluate(statistics[name], columns) for name in ("signal", "noise"))
                found.append(_noise_scale(batch, columns["step"], signal, noise))
        return found


def _noise_scale(batch: str, steps: np.ndarray, signal: np.ndarray, noise: np.ndarray) -> NoiseScale:
    n = len(steps)
    error = float(np.std(signal, ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    mean = float(np.mean(signal))
    value = float(np.mean(noise)) / mean if mean > CLEAR * error else math.nan
    return NoiseScale(value, batch, mean, error, float(np.mean(noise)), n, int(steps[0]), int(steps[-1]))


def with_variance(table: pa.Table) -> pa.Table:
    """The table `coherence` and the variance of each sum of products: 0 where it is exact. It adds up like the sums.

    The cosine of two sketches of m numbers scatters by (1 - cosine^2) / sqrt(m) around that of the tensors.
    """
    columns = {name: table.column(name).to_numpy() for name in ("count", "numbers", "dot", "sum_sq_before", "sum_sq")}
    product = columns["sum_sq_before"] * columns["sum_sq"]
    with np.errstate(all="ignore"):
        variance = (product - columns["dot"] ** 2) ** 2 / product / columns["numbers"]
    is_exact = (columns["numbers"] == columns["count"]) | (product == 0)
    return table.append_column("variance", pa.array(np.where(is_exact, 0.0, variance), pa.float64()))


def added(table: pa.Table, keys: list[str]) -> pa.Table:
    """Rows that are equal in those of the keys that there are become one: all else is summed."""
    keys = [name for name in keys if name in table.column_names]
    others = [name for name in table.column_names if name not in (*keys, "tensor", "attempt")]
    grouped = table.group_by(keys, use_threads=False).aggregate([(name, "sum") for name in others])
    return grouped.rename_columns({f"{name}_sum": name for name in others})


def add_ranks(tables: dict[int, pa.Table], shares: dict[int, dict[int, int]], whole: dict[int, int]) -> pa.Table:
    """One of the two tables of several ranks as one: shards added, replicas taken from the rank that stands for them.

    `shares`, `whole`: as in store/shards.py. What lacks a shard (a rank died, or its part was not finite) is left out.
    """
    pieces = []
    for rank, table in tables.items():
        numbers = [shares.get(rank, {}).get(tensor, -1) for tensor in table.column("tensor").to_pylist()]
        place = table.schema.get_field_index("tensor")
        table = table.set_column(place, table.schema.field("tensor"), pa.array(numbers, pa.int32()))
        pieces.append(table.filter(pc.greater_equal(table.column("tensor"), 0)))
    one = added(pa.concat_tables(pieces), ["step", "tensor", "step_before", "passes"])
    found = zip(one.column("tensor").to_pylist(), one.column("count").to_pylist(), strict=True)
    return one.filter(pa.array([whole.get(tensor, count) == count for tensor, count in found], pa.bool_()))
