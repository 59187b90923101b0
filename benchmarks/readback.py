"""Reads a run back with pyarrow alone, knowing nothing but docs/format.md, and says what is missing or too much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PARAMETER, GRADIENT, UPDATE = 0, 1, 2
_KEY = ["step", "tensor", "quantity"]


def read_rows(run: Path) -> np.ndarray:
    """(step, tensor, quantity) of every row of rank 0, as int64 [rows, 3]."""
    folder = run / "rank-0"
    compacted = sorted(path for path in folder.glob("rows-*") if path.is_dir())
    tables = [pq.read_table(path / "rows.parquet", columns=_KEY) for path in compacted]
    done = {path.name for path in compacted}
    for path in sorted(folder.glob("rows-*.arrows")):
        if path.stem not in done:
            with pa.OSFile(str(path)) as file:
                tables.append(pa.ipc.open_stream(file).read_all().select(_KEY))
    columns = [np.concatenate([table[name].to_numpy() for table in tables]) for name in _KEY]
    return np.stack([column.astype(np.int64) for column in columns], axis=1)


def expected_rows(steps: int, tensors: int) -> np.ndarray:
    """Every parameter at every step three times, and the closing `parameter` row."""
    keys = np.stack(np.meshgrid(np.arange(steps), np.arange(tensors), np.arange(3), indexing="ij"), axis=-1).reshape(-1, 3)
    closing = np.stack([np.full(tensors, steps), np.arange(tensors), np.full(tensors, PARAMETER)], axis=1)
    return np.concatenate([keys, closing])


def of_parameters(rows: np.ndarray) -> np.ndarray:
    return rows[rows[:, 2] <= UPDATE]


def is_complete(rows: np.ndarray, steps: int, tensors: int) -> bool:
    """Of the parameters exactly the rows that are due: none missing, none twice, none else."""
    rows = of_parameters(rows).copy()
    numbers = np.unique(rows[:, 1])
    rows[:, 1] = np.searchsorted(numbers, rows[:, 1])
    expected = expected_rows(steps, tensors)
    if rows.shape != expected.shape:
        return False
    return bool(np.array_equal(rows[np.lexsort(rows.T)], expected[np.lexsort(expected.T)]))


def sampled_gaps(rows: np.ndarray, due: Mapping[int, Sequence[int]]) -> list[str]:
    """What is wrong with the rows of moments, activations and dL/dh, in words.

    `due`: the steps of the plan, by quantity. Each tensor that has any rows of a quantity has to have one at each of them.
    """
    found = []
    for quantity, steps in due.items():
        mine = rows[rows[:, 2] == quantity]
        expected = np.array(sorted(steps), np.int64)
        for tensor in np.unique(mine[:, 1]):
            have = np.sort(mine[mine[:, 1] == tensor][:, 0])
            if not np.array_equal(have, expected):
                found.append(f"tensor {tensor}, quantity {quantity}: {len(have)} rows, {len(expected)} are due")
    return found


def disk_bytes(run: Path) -> int:
    return sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
