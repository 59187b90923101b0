"""Ranges of steps: how a span is cut into buckets, and what of a long series is kept for drawing it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np

from weighbridge.store.downsample import WIDTHS


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


def joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """First and last steps of ranges, in order; those that touch as one."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return found
