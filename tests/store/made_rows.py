"""Made-up tables for the store's tests: every row's numbers follow from its key, so any reading can be checked."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from weighbridge.records import EVENTS, LOGS, ROWS, STEPS, TENSORS, VALUES


def rows(first: int, stop: int, tensors: int = 3, quantities: tuple[int, ...] = (0, 1, 2), attempt: int = 0) -> pa.RecordBatch:
    """All rows of steps first <= step < stop, step by step, with changing bins and some NaN extremes."""
    step, tensor, quantity = (
        grid.ravel() for grid in np.meshgrid(np.arange(first, stop), np.arange(tensors), quantities, indexing="ij")
    )
    n = len(step)
    random = np.random.default_rng([first, stop, tensors, attempt])
    scale = 1.0 + tensor + 0.5 * np.sin(step * 0.7 + quantity) + random.random(n)
    count = np.full(n, 1000, np.int64)
    nan = np.where(step % 97 == 13, 5, 0)
    nan = np.where((step % 101 == 50) & (quantity == 1), 1000, nan)  # nothing finite
    finite = count - nan
    bins = random.integers(1, 6, n)
    offsets = np.concatenate([[0], np.cumsum(bins)]).astype(np.int32)
    counts = random.integers(0, 300, offsets[-1]).astype(np.uint32)
    empty = finite == 0
    mean = 0.1 * np.cos(step * 0.3 + tensor)
    made = {
        "step": step,
        "attempt": np.full(n, attempt),
        "tensor": tensor,
        "quantity": quantity,
        "part": np.zeros(n),
        "count": count,
        "nan": nan,
        "pos_inf": np.zeros(n),
        "neg_inf": np.zeros(n),
        "zero": step % 7,
        "subnormal": np.zeros(n),
        "min": np.where(empty, np.nan, mean - 3 * scale),
        "max": np.where(empty, np.nan, mean + 3 * scale),
        "sum": mean * finite,
        "sum_abs": 0.8 * scale * finite,
        "sum_sq": (scale**2 + mean**2) * finite,
        "hist_count": count,
        "hist_bits": np.zeros(n),
        "hist_first": random.integers(60, 64, n),
        "dot_gradient_parameter": np.where(quantity == 2, scale, np.nan),
        "dot_gradient_update": np.where(quantity == 2, -scale, np.nan),
        "dot_update_parameter": np.where(quantity == 2, scale / 2, np.nan),
        "lost": np.where(quantity == 2, step % 3, 0),
    }
    arrays = []
    for field in ROWS:
        if field.name == "hist":
            arrays.append(pa.ListArray.from_arrays(pa.array(offsets), pa.array(counts), type=field.type))
        else:
            arrays.append(pa.array(made[field.name].astype(field.type.to_pandas_dtype()), field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=ROWS)


def steps(first: int, stop: int, attempt: int = 0) -> pa.RecordBatch:
    """One row a step; the loss is 1 / (step + 1) + attempt."""
    made = [
        {
            "step": step,
            "attempt": attempt,
            "optimizer": 0,
            "optimizer_step": step,
            "loss": 1.0 / (step + 1) + attempt,
            "loss_given": 1.0 / (step + 1),
            "backward_passes": 1,
            "skipped": False,
            "found_inf": 0.0,
            "clip_factor": 1.0,
            "loss_scale": 1.0,
            "lr": [0.1],
            "momentum": [0.9],
            "weight_decay": [float("nan")],
            "epoch": float(step // 10),
            "time_ns": 1_700_000_000_000_000_000 + step * 1_000_000,
            "own_ns": 20_000,
        }
        for step in range(first, stop)
    ]
    return pa.RecordBatch.from_pylist(made, STEPS)


def tensors(number: int = 3, attempt: int = 0) -> pa.RecordBatch:
    """layers.0.weight, layers.0.bias, layers.1.weight, ... of shape [2, 2] and [2]."""
    made = []
    for tensor in range(number):
        is_weight = tensor % 2 == 0
        made.append(
            {
                "step": 0,
                "attempt": attempt,
                "tensor": tensor,
                "model": "model",
                "name": f"layers.{tensor // 2}.{'weight' if is_weight else 'bias'}",
                "role": "weight" if is_weight else "bias",
                "module": "Linear",
                "shape": [2, 2] if is_weight else [2],
                "dtype": "float32",
                "count": 4 if is_weight else 2,
                "order": tensor,
                "aliases": ["tied.weight"] if tensor == 0 else [],
                "requires_grad": True,
                "note": "",
            }
        )
    return pa.RecordBatch.from_pylist(made, TENSORS)


def values(first: int, stop: int, attempt: int = 0) -> pa.RecordBatch:
    """The values of tensor 0: step, step + 1, step + 2, step + 3."""
    made = [
        {
            "step": step,
            "attempt": attempt,
            "tensor": 0,
            "quantity": 0,
            "dtype": "float32",
            "data": (step + np.arange(4, dtype="<f4")).tobytes(),
        }
        for step in range(first, stop)
    ]
    return pa.RecordBatch.from_pylist(made, VALUES)


def logs(first: int, stop: int, attempt: int = 0) -> pa.RecordBatch:
    made = [
        {"step": step, "attempt": attempt, "key": "accuracy", "value": step / 100, "text": None, "time_ns": step}
        for step in range(first, stop)
    ]
    return pa.RecordBatch.from_pylist(made, LOGS)


def event(step: int, kind: str, detail: str = "{}", attempt: int = 0) -> pa.RecordBatch:
    made = {"step": step, "attempt": attempt, "kind": kind, "tensor": -1, "message": "told", "detail": detail, "time_ns": step}
    return pa.RecordBatch.from_pylist([made], EVENTS)
