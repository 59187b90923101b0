"""Runs in every state that people meet at the edge: `python -m tests.browser.states FOLDER` makes them all.

Their numbers are those of tests/store/made_rows.py, changed in the one thing that the state is about.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from tests.store import made_rows
from weighbridge.records import TENSORS
from weighbridge.store.checked import read_sealed, write_sealed
from weighbridge.store.layout import create_run
from weighbridge.store.writer import RankWriter

STEPS = 60
FAR = 1_000_000  # steps of `million`, of which every APART-th is recorded
APART = 40
SPIKE = 600_000
LONG = [
    "transformer.encoder.blocks.17.attention.output_projection_after_the_heads.weight",
    "transformer.encoder.blocks.17.mlp.bias",
]
Columns = dict[str, np.ndarray]


def changed(batch: pa.RecordBatch, **columns: np.ndarray) -> pa.RecordBatch:
    """The same rows with other numbers in these columns."""
    for name, values in columns.items():
        at = batch.schema.get_field_index(name)
        batch = batch.set_column(at, batch.schema.field(at), pa.array(values, batch.schema.field(at).type))
    return batch


def column(batch: pa.RecordBatch, name: str) -> np.ndarray:
    return batch.column(batch.schema.get_field_index(name)).to_numpy(zero_copy_only=False)


def made(
    folder: Path,
    name: str,
    rows: pa.RecordBatch,
    steps: pa.RecordBatch,
    last: int,
    *,
    finish: bool = True,
    **more: pa.RecordBatch,
) -> Path:
    run = create_run(folder, name, {})
    writer = RankWriter(run)
    writer.write({"tensors": made_rows.tensors(), **more, "rows": rows, "steps": steps}, 0, last)
    if finish:
        writer.finish(last + 1)
    return run


def none(folder: Path) -> None:
    create_run(folder, "none", {})


def one(folder: Path) -> None:
    made(folder, "one", made_rows.rows(0, 1), made_rows.steps(0, 1), 0)


def million(folder: Path) -> None:
    """One step of a million is not finite."""
    count = FAR // APART
    rows, steps = made_rows.rows(0, count, tensors=1, quantities=(1,)), made_rows.steps(0, count)
    at = column(rows, "step") * APART
    bad = np.where(at == SPIKE, 1000, 0)
    clean = {name: np.nan_to_num(column(rows, name), nan=1.0) for name in ("min", "max")}
    rows = changed(rows, step=at, nan=bad, sum_sq=np.where(bad > 0, 0.0, 1e3 + at % 7), **clean)
    made(folder, "million", rows, changed(steps, step=column(steps, "step") * APART), FAR - APART)


def nan(folder: Path) -> None:
    """Not one finite number."""
    rows, steps = made_rows.rows(0, STEPS), made_rows.steps(0, STEPS)
    nothing, zero = np.full(rows.num_rows, np.nan), np.zeros(rows.num_rows)
    rows = changed(rows, nan=column(rows, "count"), min=nothing, max=nothing, sum=zero, sum_abs=zero, sum_sq=zero)
    made(folder, "nan", rows, changed(steps, loss=np.full(STEPS, np.nan)), STEPS - 1)


def died(folder: Path) -> None:
    made(folder, "died", made_rows.rows(0, STEPS), made_rows.steps(0, STEPS), STEPS - 1, finish=False)


def skipped(folder: Path) -> None:
    """Steps 20 to 29 have no rows, and an event says why."""
    rows = made_rows.rows(0, STEPS)
    at = column(rows, "step")
    less = '{"level": 1, "words": "histograms", "cost": 0.021, "allowed": 0.02}'
    told = changed(made_rows.event(20, "detail", less), message=np.array(["own cost had reached 2.1 %"]))
    made(folder, "skipped", rows.filter(pa.array((at < 20) | (at > 29))), made_rows.steps(0, STEPS), STEPS - 1, events=told)


def zero(folder: Path) -> None:
    """The bias takes a gradient of exactly zero at all steps."""
    rows = made_rows.rows(0, STEPS)
    mine = (column(rows, "tensor") == 1) & (column(rows, "quantity") == 1)
    names = ("min", "max", "sum", "sum_abs", "sum_sq", "nan")
    rows = changed(rows, zero=np.where(mine, 1000, 0), **{name: np.where(mine, 0, column(rows, name)) for name in names})
    made(folder, "zero", rows, made_rows.steps(0, STEPS), STEPS - 1)


def restart(folder: Path) -> None:
    """The second attempt begins at step 40."""
    run = made(folder, "restart", made_rows.rows(0, STEPS), made_rows.steps(0, STEPS), STEPS - 1, finish=False)
    again = RankWriter(run, attempt=1)
    tables = {"rows": made_rows.rows(40, 80, attempt=1), "steps": made_rows.steps(40, 80, attempt=1)}
    again.write(tables, 40, 79)
    again.finish(80)


def names(folder: Path) -> None:
    """Names of tensors and of the run that are longer than their place."""
    told = made_rows.tensors(2).to_pylist()
    described = [
        {**row, "name": name, "role": name.rpartition(".")[2], "aliases": []} for row, name in zip(told, LONG, strict=True)
    ]
    name = "sweep-2026-11-lr-0.0003-batch-512-warmup-2000-cosine-seed-17-second-try-after-the-fix"
    rows = made_rows.rows(0, STEPS, tensors=2)
    made(folder, name, rows, made_rows.steps(0, STEPS), STEPS - 1, tensors=pa.RecordBatch.from_pylist(described, TENSORS))


def newer(folder: Path) -> None:
    """Written by a weighbridge that is not out yet."""
    run = made(folder, "newer", made_rows.rows(0, 5), made_rows.steps(0, 5), 4)
    write_sealed(run / "run.json", {**read_sealed(run / "run.json"), "format": 99}, replace=True)


def damaged(folder: Path) -> None:
    """The end of a file is lost."""
    run = made(folder, "damaged", made_rows.rows(0, STEPS), made_rows.steps(0, STEPS), STEPS - 1)
    file = max(
        (path for path in run.rglob("*") if path.is_file() and "rows" in path.name), key=lambda path: path.stat().st_size
    )
    file.write_bytes(file.read_bytes()[:-100])


ALL: tuple[Callable[[Path], None], ...] = (none, one, million, nan, died, skipped, zero, restart, names, newer, damaged)

if __name__ == "__main__":
    for make in ALL:
        make(Path(sys.argv[1]))
