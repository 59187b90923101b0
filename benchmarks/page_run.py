"""The run that the page is measured on: differing rows for every tensor, a loss, logged losses of a second kind.

Gradients at every step; parameters and updates at every 20th. Written through the real RankWriter and compacted.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from store import ELEMENTS, FLUSH_STEPS, Walk
from weighbridge.records import STEPS, TENSORS, Quantity
from weighbridge.store.compact import compact_run
from weighbridge.store.layout import create_run
from weighbridge.store.writer import RankWriter

SELDOM = 20
PARTS = ("attention.query", "attention.out", "mlp.up", "mlp.down")


def names_of(tensors: int) -> list[str]:
    """blocks.0.attention.query.weight, blocks.0.attention.query.bias, ..."""
    pairs = [f"blocks.{i // 4}.{PARTS[i % 4]}" for i in range((tensors + 1) // 2)]
    return [f"{pair}.{kind}" for pair in pairs for kind in ("weight", "bias")][:tensors]


def tensors_table(tensors: int) -> pa.RecordBatch:
    common = {"step": 0, "attempt": 0, "model": "model", "module": "Linear", "shape": [256, 256], "dtype": "float32"}
    common |= {"count": ELEMENTS, "aliases": [], "requires_grad": True, "note": ""}
    rows = [
        {**common, "tensor": t, "order": t, "name": name, "role": name.rpartition(".")[2]}
        for t, name in enumerate(names_of(tensors))
    ]
    return pa.RecordBatch.from_pylist(rows, TENSORS)


class Losses:
    """A loss that falls, with noise that differs from step to step."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(7)

    def batch(self, first: int, stop: int) -> pa.RecordBatch:
        step = np.arange(first, stop)
        n = len(step)
        loss = 6 / np.log(step + 3) + self.random.normal(0, 0.05, n)
        known = {
            "step": step,
            "optimizer_step": step,
            "loss": loss,
            "loss_given": loss,
            "backward_passes": np.ones(n),
            "loss_scale": np.ones(n),
            "time_ns": 1_700_000_000_000_000_000 + step * 50_000_000,
            "own_ns": self.random.integers(300_000, 900_000, n),
        }
        lists = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 0.0}
        columns = []
        for field in STEPS:
            if field.name in lists:
                columns.append(pa.array([[lists[field.name]]] * n, field.type))
            elif field.name == "skipped":
                columns.append(pa.array(np.zeros(n, bool)))
            else:
                columns.append(pa.array(known.get(field.name, np.zeros(n)), type=field.type, safe=False))
        return pa.RecordBatch.from_arrays(columns, schema=STEPS)


class Source:
    """Blocks of rows, one after the other, endlessly."""

    def __init__(self, tensors: int) -> None:
        self.walks = {quantity: Walk(tensors) for quantity in (Quantity.GRADIENT, Quantity.PARAMETER, Quantity.UPDATE)}
        self.losses = Losses()

    def block(self, first: int, stop: int) -> dict[str, pa.RecordBatch]:
        """The tables of steps first <= step < stop."""
        parts = [self.walks[Quantity.GRADIENT].batch(first, stop)]
        seldom = -(-first // SELDOM) * SELDOM
        for quantity in (Quantity.PARAMETER, Quantity.UPDATE):
            for step in range(seldom, stop, SELDOM):
                rows = self.walks[quantity].batch(step, step + 1)
                at = rows.schema.get_field_index("quantity")
                kind = pa.array(np.full(rows.num_rows, int(quantity)), rows.schema.field(at).type)
                parts.append(rows.set_column(at, rows.schema.field(at), kind))
        rows = pa.Table.from_batches(parts).sort_by("step").combine_chunks().to_batches()[0]
        return {"rows": rows, "steps": self.losses.batch(first, stop)}


def make(folder: Path, name: str, tensors: int, steps: int, *, flush: int = FLUSH_STEPS) -> Path:
    """The whole run, compacted and finished."""
    path = create_run(folder, name, {"config": {"tensors": tensors, "lr": 1e-3}})
    writer, source = RankWriter(path), Source(tensors)
    writer.write({"tensors": tensors_table(tensors)}, 0, 0)
    for first in range(0, steps, flush):
        stop = min(first + flush, steps)
        writer.write(source.block(first, stop), first, stop - 1)
    writer.finish(steps, compact_seconds=0)
    compact_run(path)
    return path
