"""The stored histogram and its edges (records.py describes the bins)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from weighbridge.records import EXPONENT_HIGH, EXPONENT_LOW, HISTOGRAM_BINS


@functools.cache
def edges_of() -> np.ndarray:
    """The 133 edges of the 132 bins in order of values, from -inf to +inf."""
    powers = 2.0 ** np.arange(EXPONENT_LOW, EXPONENT_HIGH + 2)
    edges = np.concatenate([[-np.inf], -powers[::-1], [0.0], powers, [np.inf]])
    edges.setflags(write=False)
    return edges


def full_histogram(first: int, counts: Sequence[int]) -> np.ndarray:
    """All 132 counts from the stored part."""
    full = np.zeros(HISTOGRAM_BINS, dtype=np.int64)
    full[first : first + len(counts)] = counts
    full.setflags(write=False)
    return full
