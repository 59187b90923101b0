"""What each rank of a training recorded, for rules that compare ranks: the same columns, one record per rank.

Only where a run's files are read afterwards: beside a training a process knows of no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from weighbridge.diagnosis.tensors import Tensors

if TYPE_CHECKING:
    from weighbridge.store.record import RunRecord


@dataclass(frozen=True, slots=True)
class Ranked:
    """Consecutive steps of one rank."""

    rank: int
    arrays: Mapping[str, np.ndarray]  # as in Block: float64 [steps, tensors]; NaN = this rank recorded none
    placements: tuple[str, ...]  # of each column: what this rank's rows stand for; "" = it knows no such tensor
    losses: np.ndarray  # float64 [steps]: of the first optimizer
    pairs: tuple[Mapping[str, Any], ...]  # rows of `pairing`

    def cut(self, low: int, high: int, start: int) -> Ranked:
        """Steps low <= step < high of those that begin at `start`."""
        inside = slice(low - start, high - start)
        arrays = {name: array[inside] for name, array in self.arrays.items()}
        pairs = tuple(row for row in self.pairs if low <= row["step"] < high)
        return Ranked(self.rank, arrays, self.placements, self.losses[inside], pairs)


class RankReader:
    """Reads the ranks of a run one by one; none where there is one rank, or a single one is asked for."""

    def __init__(self, record: RunRecord, statistics: Sequence[str]) -> None:
        from weighbridge.store.record import open_run

        self.statistics = statistics
        numbers = record.ranks if statistics and record.rank is None and len(record.ranks) > 1 else ()
        self.records = [(number, open_run(record.path, number)) for number in numbers]
        self.told = [one.whole("tensors").to_pylist() for _, one in self.records]
        self.pairs = [one.whole("pairing").to_pylist() for _, one in self.records]

    def between(self, start: int, stop: int, tensors: Tensors) -> tuple[Ranked, ...]:
        """Steps start <= step < stop of each rank, by its number."""
        return tuple(self._of(i, start, stop, tensors) for i in range(len(self.records)))

    def _of(self, i: int, start: int, stop: int, tensors: Tensors) -> Ranked:
        number, record = self.records[i]
        mine = {(row["model"], row["name"]): row for row in self.told[i] if row["step"] < stop}
        rows = [mine.get((one.model, one.name)) for one in tensors]
        known = [c for c, row in enumerate(rows) if row is not None]
        found = record.grids(self.statistics, start, stop, [row["tensor"] for row in rows if row is not None])
        arrays = {name: np.full((stop - start, len(tensors)), np.nan) for name in self.statistics}
        for name, array in arrays.items():
            array[:, known] = found[name]
        steps = record.steps_table(start, stop)
        losses = np.full(stop - start, np.nan)
        for step, optimizer, loss in zip(*(steps.column(n).to_pylist() for n in ("step", "optimizer", "loss")), strict=True):
            if optimizer == 0 and loss is not None:
                losses[step - start] = loss
        placements = tuple("" if row is None else row["placement"] or "" for row in rows)
        pairs = tuple(row for row in self.pairs[i] if start <= row["step"] < stop)
        return Ranked(number, arrays, placements, losses, pairs)
