"""Runs made of plain NumPy arrays through the real writer: the tests know every number in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from weighbridge.records import EVENTS, LOGS, ROWS, STEPS, TENSORS, VALUES, Quantity
from weighbridge.store.layout import create_run
from weighbridge.store.writer import RankWriter

Array = np.ndarray
START_NS = 1_700_000_000_000_000_000
MIB = 1_000_000


@dataclass
class Made:
    """A run on disk and the arrays behind it: arrays[step][tensor][quantity]."""

    path: Path
    arrays: list[dict[str, dict[str, Array]]]
    losses: list[float]
    writer: RankWriter | None = field(default=None, repr=False)


def network(sizes: Sequence[int], prefix: str = "") -> dict[str, tuple[tuple[int, ...], str]]:
    """Names, shapes and roles of a chain of Linear layers, as Sequential names them."""
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        found[f"{prefix}{2 * i}.weight"] = ((n_out, n_in), "weight")
        found[f"{prefix}{2 * i}.bias"] = ((n_out,), "bias")
    return found


def make_run(
    folder: Path,
    tensors: dict[str, tuple[tuple[int, ...], str]],
    steps: int = 6,
    name: str = "first",
    finish: bool = True,
    per_epoch: int = 0,
    change: Callable[[int, str, dict[str, Array]], None] | None = None,
    notes: dict[str, str] | None = None,
    models: Sequence[str] = ("model",),
) -> Made:
    """Write `steps` updates of numbers from a seeded generator. `change(step, tensor, arrays)` may spoil them first."""
    rng = np.random.default_rng(0)
    path = create_run(folder, name, {"config": {"lr": 0.1}})
    writer = RankWriter(path)
    known = {n: rng.standard_normal(shape).astype(np.float32) for n, (shape, _) in tensors.items()}
    everything: list[dict[str, dict[str, Array]]] = []
    losses = [1.0 / (1 + step) for step in range(steps)]
    for step in range(steps):
        of_step: dict[str, dict[str, Array]] = {}
        for tensor, before in known.items():
            gradient = (before * np.float32(0.5 ** (step % 7))).astype(np.float32)
            arrays = {"parameter": before.copy(), "gradient": gradient, "update": (np.float32(-0.1) * gradient)}
            if change is not None:
                change(step, tensor, arrays)
            known[tensor] = before + arrays["update"]
            of_step[tensor] = arrays
        everything.append(of_step)
    if finish:
        everything.append({n: {"parameter": a} for n, a in known.items()})
    for step, of_step in enumerate(everything):
        batches = {"rows": _rows(step, of_step), "values": _values(step, of_step)}
        if step < steps:
            batches["steps"] = _step(step, losses[step], step // per_epoch if per_epoch else float("nan"))
            batches["logs"] = _log(step, "accuracy", 0.5 + 0.01 * step)
        if step == 0:
            batches["tensors"] = _tensors(tensors, notes or {}, models)
            batches["events"] = pa.RecordBatch.from_pylist([], schema=EVENTS)
        writer.write(batches, step, step)
    if finish:
        writer.finish(steps)
    return Made(path, everything, losses, writer)


def expected(array: Array, name: str) -> float:
    """The oracle: a statistic of one array in float64 NumPy, written out a second time."""
    x = array.astype(np.float64).ravel()
    finite = x[np.isfinite(x)]
    known: dict[str, Any] = {
        "rms": lambda: np.sqrt(np.mean(finite**2)),
        "mean": lambda: np.mean(finite),
        "min": lambda: finite.min(),
        "max": lambda: finite.max(),
        "abs_max": lambda: np.abs(finite).max(),
        "std": lambda: np.std(finite),
        "l2_norm": lambda: np.sqrt(np.sum(finite**2)),
        "count": lambda: x.size,
        "nan_count": lambda: np.isnan(x).sum(),
    }
    return float(known[name]()) if len(finite) or name.endswith("count") else float("nan")


def _rows(step: int, of_step: dict[str, dict[str, Array]]) -> pa.RecordBatch:
    rows = []
    for place, arrays in enumerate(of_step.values()):
        for quantity, array in arrays.items():
            rows.append(_row(step, place, Quantity[quantity.upper()], array))
    return pa.RecordBatch.from_pylist(rows, schema=ROWS)


def _row(step: int, tensor: int, quantity: Quantity, array: Array) -> dict[str, Any]:
    x = array.astype(np.float64).ravel()
    finite = x[np.isfinite(x)]
    tiny = np.finfo(np.float32).tiny
    return {
        "step": step,
        "attempt": 0,
        "tensor": tensor,
        "quantity": int(quantity),
        "part": 0,
        "count": x.size,
        "nan": int(np.isnan(x).sum()),
        "pos_inf": int(np.isposinf(x).sum()),
        "neg_inf": int(np.isneginf(x).sum()),
        "zero": int((x == 0).sum()),
        "subnormal": int(((finite != 0) & (np.abs(finite) < tiny)).sum()),
        "min": finite.min() if len(finite) else np.nan,
        "max": finite.max() if len(finite) else np.nan,
        "sum": finite.sum(),
        "sum_abs": np.abs(finite).sum(),
        "sum_sq": (finite**2).sum(),
        "hist_count": 0,
        "hist_bits": 0,
        "hist_first": 0,
        "hist": [],
        "dot_gradient_parameter": 0.5 if quantity is Quantity.UPDATE else np.nan,
        "dot_gradient_update": -0.25 if quantity is Quantity.UPDATE else np.nan,
        "dot_update_parameter": -0.125 if quantity is Quantity.UPDATE else np.nan,
        "lost": 0,
    }


def _values(step: int, of_step: dict[str, dict[str, Array]]) -> pa.RecordBatch:
    rows = [
        {
            "step": step,
            "attempt": 0,
            "tensor": place,
            "quantity": int(Quantity[quantity.upper()]),
            "dtype": "float32",
            "data": array.astype("<f4").tobytes(),
        }
        for place, arrays in enumerate(of_step.values())
        for quantity, array in arrays.items()
        if array.size <= 64
    ]
    return pa.RecordBatch.from_pylist(rows, schema=VALUES)


def _step(step: int, loss: float, epoch: float) -> pa.RecordBatch:
    row = {
        "step": step,
        "attempt": 0,
        "optimizer": 0,
        "optimizer_step": step,
        "loss": loss,
        "loss_given": loss,
        "backward_passes": 1,
        "skipped": False,
        "found_inf": 0.0,
        "clip_factor": 1.0,
        "loss_scale": 1.0,
        "lr": [0.1],
        "momentum": [0.0],
        "weight_decay": [0.0],
        "epoch": epoch,
        "time_ns": START_NS + step * MIB,
        "own_ns": MIB // 100,
        "samples": 16,
    }
    return pa.RecordBatch.from_pylist([row], schema=STEPS)


def _log(step: int, key: str, value: float) -> pa.RecordBatch:
    row = {"step": step, "attempt": 0, "key": key, "value": value, "text": "", "time_ns": START_NS}
    return pa.RecordBatch.from_pylist([row], schema=LOGS)


def _tensors(tensors: dict[str, tuple[tuple[int, ...], str]], notes: dict[str, str], models: Sequence[str]) -> pa.RecordBatch:
    rows = [
        {
            "step": 0,
            "attempt": 0,
            "tensor": place,
            "model": models[place % len(models)],
            "name": name,
            "role": role,
            "module": "Linear",
            "shape": list(shape),
            "dtype": "float32",
            "count": int(np.prod(shape)),
            "order": place,
            "aliases": [],
            "requires_grad": True,
            "note": notes.get(name, ""),
        }
        for place, (name, (shape, role)) in enumerate(tensors.items())
    ]
    return pa.RecordBatch.from_pylist(rows, schema=TENSORS)
