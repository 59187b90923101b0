"""The stored histogram and its edges (records.py describes the bins)."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from weighbridge.records import EXPONENT_HIGH, EXPONENT_LOW, histogram_bins


@functools.cache
def edges_of(bits: int = 0) -> np.ndarray:
    """The edges of the bins in order of values, from -inf to +inf: one more than there are bins (133, 261 or 517)."""
    divided = 1 + np.arange(1 << bits) / (1 << bits)
    inside = np.concatenate([divided * 2.0**exponent for exponent in range(EXPONENT_LOW, EXPONENT_HIGH + 1)])
    powers = np.append(inside, 2.0 ** (EXPONENT_HIGH + 1))
    edges = np.concatenate([[-np.inf], -powers[::-1], [0.0], powers, [np.inf]])
    edges.setflags(write=False)
    return edges


def full_histogram(first: int, counts: Sequence[int], bits: int = 0, wanted: int | None = None) -> np.ndarray:
    """All counts from the stored part: 132, 260 or 516. `wanted`: in bins of fewer mantissa bits."""
    full = np.zeros(histogram_bins(bits if wanted is None else wanted), dtype=np.int64)
    bins = np.arange(first, first + len(counts))
    np.add.at(full, bins if wanted is None else coarser_bins(bins, bits - wanted, bits), counts)
    full.setflags(write=False)
    return full


def merged_histograms(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The histogram columns of several rows as those of one: in the coarsest bins of them."""
    bits = min(part["hist_bits"] for part in parts)
    counts = sum(full_histogram(part["hist_first"], part["hist"], part["hist_bits"], bits) for part in parts)
    return {"hist_count": sum(part["hist_count"] for part in parts), "hist_bits": bits, "hist_first": 0, "hist": counts}


def coarser_bins(bins: np.ndarray, fewer: np.ndarray | int, bits: np.ndarray | int) -> np.ndarray:
    """Where these bins of a histogram with `bits` mantissa bits lie in one with `fewer` bits less."""
    side, coarse_side = _side(bits), _side(np.asarray(bits) - fewer)
    place = np.where(bins >= side, bins - side, side - 1 - bins)  # 0 below the range, then 1, 2, ... away from zero
    place = np.where(place > 0, ((place - 1) >> fewer) + 1, 0)
    return np.where(bins >= side, coarse_side + place, coarse_side - 1 - place)


def shifted(first: int, counts: np.ndarray, bits: int, exponents: int) -> tuple[int, np.ndarray] | None:
    """The stored part of a histogram of numbers that are divided by 2^exponents: its first bin, and as many counts.

    None where numbers lie outside the range: by how much is not known.
    """
    side, bins = int(_side(bits)), np.arange(first, first + len(counts))
    place = np.where(bins >= side, bins - side, side - 1 - bins)
    if counts[place == side - 1].any():
        return None
    place = np.maximum(place - (exponents << bits), 0)
    full = np.zeros(2 * side, dtype=counts.dtype)
    np.add.at(full, np.where(bins >= side, side + place, side - 1 - place), counts)
    start = min(int(np.argmax(full > 0)), 2 * side - len(counts))
    return start, full[start : start + len(counts)]


def _side(bits: np.ndarray | int) -> np.ndarray:
    return np.asarray(2 + ((EXPONENT_HIGH + 1 - EXPONENT_LOW) << np.asarray(bits)))
