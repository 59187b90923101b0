"""How alike successive gradients are, tensor by tensor, and how noisy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from rich.text import Text

from weighbridge import format as plain
from weighbridge.report import grid, named, views
from weighbridge.report.machine import Cell, Table
from weighbridge.report.text import LEAST_SPARK, MOST_SPARK, number_text, thinned, wrapped
from weighbridge.store.coherence import Gradients
from weighbridge.store.record import RunRecord, Tensor

ALL: Final = "(all together)"
COLUMNS: Final = ("compared", "last_step", "cosine", "cosine_error", "noise_scale_steps", "noise_scale_passes")
_NONE: Final = (None,) * len(views.TENSOR_COLUMNS[1:])


def table(record: RunRecord, tensors: Sequence[Tensor]) -> Table:
    """One row for all parameters together and one per tensor: the last cosine and about its standard deviation, how many were
    recorded, and the noise scale over the last half of the run, in batches of a step and of a backward pass."""
    half = max(record.last_step, 0) // 2
    rows: list[tuple[Cell, ...]] = [(ALL, *_NONE, *_facts(record.gradients, None, half))]
    rows += [(*views.tensor_cells(record, t), *_facts(record.gradients, t.id, half)) for t in tensors]
    return Table("coherence", (*views.TENSOR_COLUMNS, *COLUMNS), rows)


def _facts(gradients: Gradients, tensor: int | None, half: int) -> tuple[Cell, ...]:
    found = gradients.coherence(tensor)
    scales = {one.batch: one.value for one in gradients.noise_scales(tensor, half)}
    noise = (scales.get("step"), scales.get("backward pass"))
    if not len(found.steps):
        return (0, None, None, None, *noise)
    return (len(found.steps), int(found.steps[-1]), float(found.cosine[-1]), float(found.errors[-1]), *noise)


def series(record: RunRecord, tensors: Sequence[Tensor]) -> Table:
    """One row per tensor and step at which its gradient was compared with the one before."""
    rows: list[tuple[Cell, ...]] = []
    for tensor in tensors:
        name = named.label(record, tensor)
        found = record.gradients.coherence(tensor.id)
        columns = (found.steps, found.steps_before, found.cosine, found.errors, found.count, found.numbers)
        rows += [(name, *row) for row in zip(*(column.tolist() for column in columns), strict=True)]
    return Table("coherence", ("tensor", "step", "step_before", "cosine", "cosine_error", "count", "numbers"), rows)


def lines(record: RunRecord, tensors: Sequence[Tensor], width: int) -> list[Text]:
    """The same as `table` for a person, with a sparkline of the cosine."""
    rows = [row[len(views.TENSOR_COLUMNS) :] for row in table(record, tensors).rows]
    if not any(row[0] for row in rows):
        return wrapped(Text("no successive gradients were compared: the plan leaves it out, or no two steps were taken"), width)
    names = [ALL, *(named.label(record, t) for t in tensors)]
    columns = [
        grid.column("tensor", [plain.visible(name) for name in names], right=False),
        grid.column("cosine", [_cosine(row[2], row[3]) for row in rows]),
        grid.column("at step", [plain.NOT_RECORDED if row[1] is None else plain.count(int(row[1])) for row in rows]),
        grid.column("noise scale", [_scale(row[4], "steps") for row in rows]),
    ]
    if any(row[5] is not None for row in rows):
        columns.append(grid.column("from passes", [_scale(row[5], "passes") for row in rows]))
    room = min(width - grid.total_width(columns) - grid.GAP, MOST_SPARK)
    if room >= LEAST_SPARK:
        wanted = [None, *(t.id for t in tensors)]
        values = [record.gradients.coherence(tensor).cosine.tolist() for tensor in wanted]
        columns.append(grid.column("cosine over steps", [plain.sparkline(thinned(one, room)) for one in values], right=False))
    legend = (
        "cosine: of a gradient and the one of the step before (± of an estimate)   noise scale: the gradient of a batch of so "
        "many steps' samples is half noise; over the last half of the run   ? too noisy to say"
    )
    return [*grid.lines(columns), *wrapped(Text(legend, style="dim"), width)]


def _cosine(value: Cell, error: Cell) -> Text:
    if value is None:
        return Text(plain.NOT_RECORDED)
    return Text.assemble(number_text(value), f" ±{plain.number(float(error), 1)}" if error else "")


def _scale(value: Cell, unit: str) -> Text:
    if value is None:
        return Text(plain.NOT_RECORDED)
    return Text("?" if math.isnan(float(value)) else f"{plain.number(float(value))} {unit}")
