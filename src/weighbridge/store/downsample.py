"""Buckets: many steps of one tensor and quantity in one row, such that no spike is lost.

A bucket row holds what merges (counts, sums, extremes, histogram) merged, and for every statistic of the catalogue
the sum, the lowest and the highest of the single steps' values (`rms_sum`, `rms_low`, `rms_high`, ...). A line's mean
is sum / number of steps with a value; that number is the one column that `weight_of` names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import pyarrow as pa

from weighbridge.catalog import RATIO, STATISTICS, Statistic, evaluate
from weighbridge.records import HISTOGRAM_BINS, Quantity
from weighbridge.store.histogram import coarser_bins

WIDTHS: Final = (64, 256, 1024, 4096)  # steps in a bucket, per level; each is made from the one before
ADDED: Final = ("count", "nan", "pos_inf", "neg_inf", "zero", "subnormal", "lost", "hist_count")
SUMMED: Final = ("sum", "sum_abs", "sum_sq", "dot_gradient_parameter", "dot_gradient_update", "dot_update_parameter")


def bucket_schema() -> pa.Schema:
    """Columns of a bucket file."""
    keys = [("tensor", pa.int32()), ("quantity", pa.int8()), ("bucket", pa.int64())]
    spans = [("first_step", pa.int64()), ("last_step", pa.int64())]
    weights = [("rows", pa.int64()), ("rows_finite", pa.int64()), ("rows_ratio", pa.int64())]
    merged = [(name, pa.int64()) for name in ADDED] + [(name, pa.float64()) for name in (*SUMMED, "min", "max")]
    histogram = [("hist_first", pa.int16()), ("hist", pa.list_(pa.field("item", pa.int64(), nullable=False)))]
    derived = [(f"{name}_{end}", pa.float64()) for name in STATISTICS for end in ("sum", "low", "high")]
    return pa.schema(keys + spans + weights + merged + histogram + derived)


def weight_of(statistic: Statistic) -> str:
    """The column that counts the steps at which this statistic is a number."""
    if statistic.name == RATIO.name:
        return "rows_ratio"
    needs_finite = any(word in statistic.formula for word in ("finite", "min", "max"))
    return "rows_finite" if needs_finite else "rows"


def buckets_of(columns: Mapping[str, np.ndarray], hist_offsets: np.ndarray, hist: np.ndarray, width: int) -> pa.Table:
    """Bucket rows of rows that are sorted by (tensor, quantity, step) and describe whole tensors."""
    schema = bucket_schema()
    if not len(columns["step"]):
        return schema.empty_table()
    bucket = columns["step"] // width
    starts = _starts(columns["tensor"], columns["quantity"], bucket)
    made: dict[str, object] = {name: columns[name][starts] for name in ("tensor", "quantity")}
    made["bucket"] = bucket[starts]
    made["first_step"] = np.minimum.reduceat(columns["step"], starts)
    made["last_step"] = np.maximum.reduceat(columns["step"], starts)
    finite = columns["count"] - columns["nan"] - columns["pos_inf"] - columns["neg_inf"]
    made["rows"] = np.diff(np.append(starts, len(bucket)))
    made["rows_finite"] = np.add.reduceat((finite > 0).astype(np.int64), starts)
    made |= {name: np.add.reduceat(columns[name], starts) for name in ADDED}
    made |= {name: np.add.reduceat(columns[name], starts) for name in SUMMED}
    made["min"] = np.fmin.reduceat(columns["min"], starts)
    made["max"] = np.fmax.reduceat(columns["max"], starts)
    floats = {name: column.astype(np.float64) for name, column in columns.items()}
    floats |= {"finite": finite.astype(np.float64), "parameter_rms": _parameter_rms(columns)}
    for statistic in STATISTICS.values():
        values = evaluate(statistic, floats)
        if len(statistic.quantities) < len(Quantity):
            values = np.where(np.isin(columns["quantity"], statistic.quantities), values, np.nan)
        is_number = ~np.isnan(values)
        if statistic.name == RATIO.name:
            made["rows_ratio"] = np.add.reduceat(is_number.astype(np.int64), starts)
        with np.errstate(invalid="ignore"):
            made[f"{statistic.name}_sum"] = np.add.reduceat(np.where(is_number, values, 0.0), starts)
            made[f"{statistic.name}_low"] = np.fmin.reduceat(values, starts)
            made[f"{statistic.name}_high"] = np.fmax.reduceat(values, starts)
    histograms = columns["hist_first"], hist_offsets, hist
    made["hist_first"], made["hist"] = _merged_histograms(*histograms, starts, columns["hist_bits"].astype(np.int64))
    return pa.table([pa.array(made[field.name], field.type) for field in schema], schema=schema)


def coarser(fine: pa.Table, factor: int) -> pa.Table:
    """Bucket rows `factor` times as wide, from bucket rows."""
    if not fine.num_rows:
        return fine
    columns = {name: fine.column(name).to_numpy() for name in fine.column_names if name != "hist"}
    bucket = columns["bucket"] // factor
    starts = _starts(columns["tensor"], columns["quantity"], bucket)
    made: dict[str, object] = {"bucket": bucket[starts]}
    for name, column in columns.items():
        if name in ("tensor", "quantity"):
            made[name] = column[starts]
        elif name in ("min", "first_step") or name.endswith("_low"):
            made[name] = np.fmin.reduceat(column, starts)
        elif name in ("max", "last_step") or name.endswith("_high"):
            made[name] = np.fmax.reduceat(column, starts)
        elif name not in made:
            with np.errstate(invalid="ignore"):
                made[name] = np.add.reduceat(column, starts)
    hist = fine.column("hist").combine_chunks()
    hist = hist.chunk(0) if isinstance(hist, pa.ChunkedArray) else hist
    first = columns["hist_first"]
    made["hist_first"], made["hist"] = _merged_histograms(first, hist.offsets.to_numpy(), hist.flatten().to_numpy(), starts)
    return pa.table([pa.array(made[field.name], field.type) for field in fine.schema], schema=fine.schema)


def _starts(*keys: np.ndarray) -> np.ndarray:
    """Where a new group begins in sorted keys."""
    changed = np.zeros(len(keys[0]), dtype=bool)
    changed[0] = True
    for key in keys:
        changed[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(changed)


def _parameter_rms(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """For update rows: the rms of the parameter of the same tensor and step; NaN elsewhere."""
    answer = np.full(len(columns["step"]), np.nan)
    is_parameter = columns["quantity"] == Quantity.PARAMETER
    is_update = columns["quantity"] == Quantity.UPDATE
    if not (is_parameter.any() and is_update.any()):
        return answer
    span = int(columns["step"].max()) + 1
    key = columns["tensor"].astype(np.int64) * span + columns["step"]
    known, asked = key[is_parameter], key[is_update]
    at = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    rms = evaluate(STATISTICS["rms"], {name: column[is_parameter] for name, column in columns.items()})
    answer[is_update] = np.where(known[at] == asked, rms[at], np.nan)
    return answer


def _merged_histograms(
    first: np.ndarray, offsets: np.ndarray, counts: np.ndarray, starts: np.ndarray, bits: np.ndarray | None = None
) -> tuple[object, pa.Array]:
    """Sums of the stored histograms of each group in one bin per power of two, trimmed like the rows' own."""
    lengths = np.diff(offsets)
    group = np.zeros(len(first), dtype=np.int64)
    group[starts[1:]] = 1
    group = np.cumsum(group)
    of_group, begins = group * HISTOGRAM_BINS, first - (offsets[:-1] - offsets[0])  # where a row's own counts begin
    is_fine = bits is not None and bool(bits.any())
    cell = np.repeat(begins if is_fine else begins + of_group, lengths)  # of many millions of counts: few passes over them
    cell += np.arange(len(counts))
    if bits is not None and is_fine:
        of_each = np.repeat(bits, lengths)
        cell = coarser_bins(cell, of_each, of_each) + np.repeat(of_group, lengths)
    # float64 holds these integers exactly: fewer than 2^53 elements in a bucket
    summed = np.bincount(cell, weights=counts, minlength=len(starts) * HISTOGRAM_BINS).astype(np.int64)
    grid = summed.reshape(len(starts), HISTOGRAM_BINS)
    filled = grid != 0
    any_filled = filled.any(axis=1)
    low = np.where(any_filled, filled.argmax(axis=1), 0)
    high = np.where(any_filled, HISTOGRAM_BINS - filled[:, ::-1].argmax(axis=1), 0)
    number = np.arange(HISTOGRAM_BINS)
    kept = grid[(number >= low[:, None]) & (number < high[:, None])]
    ends = np.concatenate([[0], np.cumsum(high - low)]).astype(np.int32)
    return low, pa.ListArray.from_arrays(pa.array(ends), pa.array(kept), type=bucket_schema().field("hist").type)
