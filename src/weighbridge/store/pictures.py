"""Statistics of many tensors in ranges of steps, and what of them is kept for the next question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from weighbridge.catalog import Statistic
from weighbridge.records import OF_OUTPUTS, Quantity
from weighbridge.store.allranks import AllRanks
from weighbridge.store.recent import RECENT, Grids, Kept, Single
from weighbridge.store.views import Tensor

SINGLES_AT_MOST: Final = 6_000_000  # values of all tensors that are kept for the next question; the engine cuts more
SHARED_FROM: Final = 8  # a picture of fewer than one in so many tensors is read for itself

Which = tuple[Quantity, Statistic]


class Pictures:
    """Of one run. owner: whose what is kept is (recent.py)."""

    def __init__(self, ranks: AllRanks, owner: int) -> None:
        self._all, self._owner = ranks, owner
        self._query = ranks.query

    def grids(
        self, wanted: Sequence[Which], span: tuple[int, int], cells: tuple[int, int, int], chosen: Sequence[Tensor], size: int
    ) -> list[Grids]:
        """As RowQuery.buckets. For a picture of many tensors that of all is read: it serves the next question, too."""
        alone = [which for which in wanted if not self._is_of_all(which[0], chosen)]
        found = self._all.ask(lambda: self._query.buckets(alone, span, cells, _ids(chosen), size)) if alone else []
        grids = dict(zip(alone, found, strict=True))
        return [grids[which] if which in grids else self._of_all(which, span, cells, chosen, size) for which in wanted]

    def _is_of_all(self, quantity: Quantity, chosen: Sequence[Tensor]) -> bool:
        everyone = self._tensors_of(quantity)
        is_known = {tensor.id for tensor in chosen} <= {tensor.id for tensor in everyone}
        return is_known and len(chosen) * SHARED_FROM >= len(everyone)

    def _of_all(
        self, which: Which, span: tuple[int, int], cells: tuple[int, int, int], chosen: Sequence[Tensor], size: int
    ) -> Grids:
        everyone = self._tensors_of(which[0])
        place = np.full(max((tensor.id for tensor in everyone), default=0) + 1, -1)
        place[_ids(everyone)] = np.arange(len(everyone))
        rows = place[_ids(chosen)]
        if not cells[2] and len(everyone) * (span[1] - span[0]) <= SINGLES_AT_MOST:
            return self._singles(which, *span, place).cells(rows, *span, cells[1])

        def read(old: Kept | None) -> Kept:
            if old is not None:
                return old
            return Kept(self._all.ask(lambda: self._query.buckets([which], span, cells, _ids(everyone), size))[0])

        picture = RECENT.get((self._owner, which[0], which[1].name, span, cells), self._all.version, read)
        return tuple(grid[rows] for grid in picture.arrays)

    def _singles(self, which: Which, low: int, high: int, place: np.ndarray) -> Single:
        """Of a run that grows only what is new is read: it is drawn twice a second, and a training runs beside it."""
        version, everything = self._all.version, self._all.tensors()
        rows = int(place.max(initial=-1)) + 1

        def read(old: Single | None) -> Single:
            since = (
                min(old.high, self._all.unchanged_below(old.version)) if old is not None and old.tensors is everything else 0
            )
            if old is not None and old.low <= low and since >= high:
                return old
            if old is not None and old.low <= low < since and rows * (high - old.low) <= SINGLES_AT_MOST:
                made = self._all.ask(lambda: old.grown(since, high, place, self._query.singles(*which, since, high)))
            else:
                made = self._all.ask(lambda: Single.of(low, high, place, rows, self._query.singles(*which, low, high)))
            return replace(made, tensors=everything, version=version)

        return RECENT.get((self._owner, which[0], which[1].name), None, read)

    def _tensors_of(self, quantity: Quantity) -> list[Tensor]:
        return [tensor for tensor in self._all.tensors() if tensor.is_output == (quantity in OF_OUTPUTS)]


def _ids(tensors: Sequence[Tensor]) -> np.ndarray:
    return np.array([tensor.id for tensor in tensors], dtype=np.int64)
