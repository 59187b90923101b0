"""What every number of a row means, in float64 NumPy: slow, obvious, and the definition. Every kernel must agree with it.

Counts, extremes, sums and histograms of parts add up to those of the whole (`merge`); that is why exactly these are
stored. Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from weighbridge.records import (
    EXPONENT_LOW,
    HISTOGRAM_LINE_BYTES,
    HISTOGRAM_STRIDE,
    HISTOGRAM_WHOLE_BELOW,
    SKETCH_NUMBERS,
    histogram_bins,
)

Array = np.ndarray[Any, Any]

SMALLEST_NORMAL = {2: 2.0**-14, 4: 2.0**-126, 8: 2.0**-1022}  # by item size; bfloat16 comes as float32 and has its range


@dataclass(frozen=True, slots=True)
class Summary:
    """The fields of one row (records.ROWS), the histogram with all 132 counts."""

    count: int
    nan: int
    pos_inf: int
    neg_inf: int
    zero: int
    subnormal: int
    min: float
    max: float
    sum: float
    sum_abs: float
    sum_sq: float
    hist_count: int
    hist: Array


@dataclass(frozen=True, slots=True)
class CrossTerms:
    """What an update row has besides; NaN where there is no gradient."""

    dot_gradient_parameter: float
    dot_gradient_update: float
    dot_update_parameter: float
    lost: int


def summarize(x: Array, itemsize: int | None = None, bits: int = 0) -> Summary:
    """The summary of one tensor.

    x : any float dtype, any shape. bfloat16, which NumPy does not have, is given as float32 with itemsize=2.
    bits : the histogram has 2^bits bins in each power of two.
    """
    itemsize = x.dtype.itemsize if itemsize is None else itemsize
    normal = SMALLEST_NORMAL[x.dtype.itemsize]
    values = _wide(x)
    finite = values[np.isfinite(values)]
    looked_at = values[is_looked_at(values.size, itemsize)]
    with np.errstate(all="ignore"):  # sums of very large doubles may overflow, and are infinite then
        total, total_abs, total_sq = finite.sum(), np.abs(finite).sum(), (finite * finite).sum()
    return Summary(
        count=values.size,
        nan=int(np.isnan(values).sum()),
        pos_inf=int((values == np.inf).sum()),
        neg_inf=int((values == -np.inf).sum()),
        zero=int((values == 0).sum()),
        subnormal=int(((values != 0) & (np.abs(values) < normal)).sum()),
        min=float(finite.min()) if finite.size else np.nan,
        max=float(finite.max()) if finite.size else np.nan,
        sum=float(total),
        sum_abs=float(total_abs),
        sum_sq=float(total_sq),
        hist_count=looked_at.size,
        hist=np.bincount(bins_of(looked_at, bits), minlength=histogram_bins(bits)),
    )


def _wide(x: Array) -> Array:
    with np.errstate(invalid="ignore"):  # a signalling NaN
        return np.asarray(x.ravel().astype(np.float64))  # exact from every smaller dtype


def is_looked_at(count: int, itemsize: int) -> Array:
    """Which elements the histogram looks at: all below 65,536 elements, else those of every eighth 64-byte line."""
    line = np.arange(count) * itemsize // HISTOGRAM_LINE_BYTES
    return np.asarray((line % HISTOGRAM_STRIDE == 0) | (count < HISTOGRAM_WHOLE_BELOW))


def bins_of(values: Array, bits: int = 0) -> Array:
    """The bin of each element that has one: sign times exponent (and part of it), in the order of the values."""
    with_bin = values[np.isfinite(values) & (values != 0)]
    mantissa, exponent = np.frexp(with_bin)  # |x| = m * 2^exponent with 0.5 <= m < 1, so floor(log2 |x|) is one less
    part = np.floor((np.abs(mantissa) * 2 - 1) * 2**bits).astype(np.int64)
    half = histogram_bins(bits) // 2
    inside = (exponent - 1 - EXPONENT_LOW) * 2**bits + part + 1
    place = np.clip(inside, 0, half - 1)  # 0 below the range, half - 1 above it
    return np.asarray(np.where(with_bin > 0, half + place, half - 1 - place), dtype=np.int64)


def update_of(before: Array, after: Array) -> Array:
    """after - before, in float32 (float64 for float64), as it is weighed."""
    wide = np.float64 if before.dtype == np.float64 else np.float32
    with np.errstate(all="ignore"):
        return np.asarray(after.astype(wide) - before.astype(wide))


def update_terms(before: Array, after: Array, gradient: Array | None) -> CrossTerms:
    """The cross terms of one step: products over the elements whose two factors are both finite."""
    update, parameter = _wide(update_of(before, after)), _wide(before)
    if gradient is None:
        return CrossTerms(np.nan, np.nan, _dot(update, parameter), 0)
    used = _wide(gradient)
    lost = int(((used != 0) & (update == 0)).sum())  # a NaN is not 0
    return CrossTerms(_dot(used, parameter), _dot(used, update), _dot(update, parameter), lost)


def _dot(a: Array, b: Array) -> float:
    both = np.isfinite(a) & np.isfinite(b)
    with np.errstate(all="ignore"):
        return float((a[both] * b[both]).sum())


def merge(a: Summary, b: Summary) -> Summary:
    """The summary of two parts put together (its histogram looked at what theirs looked at)."""
    return Summary(
        **{name: getattr(a, name) + getattr(b, name) for name in ("count", "nan", "pos_inf", "neg_inf", "zero", "subnormal")},
        min=float(np.fmin(a.min, b.min)),
        max=float(np.fmax(a.max, b.max)),
        **{name: getattr(a, name) + getattr(b, name) for name in ("sum", "sum_abs", "sum_sq", "hist_count", "hist")},
    )


def sketch(x: Array) -> Array:
    """A linear sketch of a tensor: 1,024 float64 numbers, whose dot product with another tensor's estimates that of the two.

    The estimate is unbiased and off by about |a||b| / 32, one standard deviation. Every element is added, with a hashed
    sign, to the number that its place decides: rows of 1,024 elements in C order, each rotated by a hashed offset.
    Source: Charikar, Chen and Farach-Colton, "Finding Frequent Items in Data Streams" (2002), with one row of counters.
    """
    values = _wide(x)
    place = np.arange(values.size, dtype=np.uint64)
    row = _mixed((place // SKETCH_NUMBERS + _GOLDEN) & _LOW)
    column = place % SKETCH_NUMBERS
    is_negative = _mixed((row + column * _GOLDEN) & _LOW) >> np.uint64(31) == 1
    kept = np.zeros(SKETCH_NUMBERS)
    with np.errstate(all="ignore"):
        np.add.at(kept, (column + (row >> np.uint64(22))) % SKETCH_NUMBERS, np.where(is_negative, -values, values))
    return kept


_LOW, _GOLDEN = np.uint64(0xFFFFFFFF), np.uint64(0x9E3779B9)


def _mixed(h: Array) -> Array:
    """MurmurHash3's finalizer of 32 bits, without its last shift."""
    h = h ^ h >> np.uint64(16)
    h = h * np.uint64(0x85EBCA6B) & _LOW
    h = h ^ h >> np.uint64(13)
    return h * np.uint64(0xC2B2AE35) & _LOW
