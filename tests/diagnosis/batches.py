"""Batches of the table of steps."""

from __future__ import annotations

import pyarrow as pa


def weighbridge_table(name: str) -> pa.Schema:
    from weighbridge.records import TABLES

    return TABLES[name]


def step_batch(first: int, number: int = 1) -> dict[str, pa.RecordBatch]:
    rows = [{"step": s, "attempt": 0, "optimizer": 0, "skipped": False} for s in range(first, first + number)]
    return {"steps": pa.RecordBatch.from_pylist(rows, weighbridge_table("steps"))}
