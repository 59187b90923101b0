"""What modules give, in order of execution: size, gradient, units that are never above 0, and where NaN arose first."""

from __future__ import annotations

from typing import Final

from rich.text import Text

from weighbridge import format as plain
from weighbridge.report import grid, named, views
from weighbridge.report.machine import Cell, Table
from weighbridge.report.text import LEAST_SPARK, MOST_SPARK, TROUBLE, number_text
from weighbridge.store.record import RunRecord

STATISTICS: Final = ("activation.min", "activation.max", "activation.rms", "activation_gradient.rms")
SPARK: Final = "activation.rms"


def table(record: RunRecord) -> Table:
    """One row per output: the last recorded statistics, its units, and how many of them were never above 0 then."""
    values = record.summary(STATISTICS, points=1)
    units = record.last_units()
    rows: list[tuple[Cell, ...]] = []
    for place, output in enumerate(record.outputs):
        seen = units.get(output.id)
        counts = (len(seen.active), int((seen.active == 0).sum())) if seen is not None else (None, None)
        last = [found[place].last if found[place].last_step >= 0 else None for found in values.values()]
        rows.append((*views.tensor_cells(record, output), *last, *counts))
    return Table("outputs", (*views.TENSOR_COLUMNS, *STATISTICS, "units", "units_never_above_0"), rows)


def lines(record: RunRecord, width: int) -> list[Text]:
    """The same for a person, with a sparkline of the size."""
    if not record.outputs:
        return [Text("no outputs were recorded: the plan leaves them out, or the model runs in compiled code (see the events)")]
    rows = [row[len(views.TENSOR_COLUMNS) :] for row in table(record).rows]
    columns = [
        grid.column("output", [plain.visible(named.label(record, t)) for t in record.outputs], right=False),
        grid.column("module", [plain.visible(t.module) for t in record.outputs], right=False),
        grid.column("shape", [plain.shape(t.shape) for t in record.outputs]),
        grid.column("value range", [_range(row[0], row[1]) for row in rows]),
        grid.column("rms", [number_text(row[2]) for row in rows]),
        grid.column("dL/dh rms", [number_text(row[3]) for row in rows]),
        grid.column("never > 0", [_share(row[5], row[4]) for row in rows]),
    ]
    room = width - grid.total_width(columns) - grid.GAP
    if room >= LEAST_SPARK:
        found = views.sparks(record, SPARK, min(room, MOST_SPARK))
        columns.append(grid.column(SPARK, [plain.sparkline(one, "log") for one in found], right=False))
    legend = "never > 0: units whose output was never above 0 at the last look   · not recorded"
    return [*grid.lines(columns), Text(legend, style="dim")]


def origin_lines(record: RunRecord) -> list[Text]:
    """Where NaN or infinity was met first in what modules give, if anywhere."""
    first = record.first_nonfinite()
    if first is None:
        return []
    where = "the gradient by " if first.quantity == "activation_gradient" else ""
    call = f", call {first.call}" if first.call else ""
    words = f"! NaN or Inf first in {where}{plain.visible(first.name)} at step {plain.count(first.step)}{call}"
    return [Text(words, style=TROUBLE)]


def _range(low: Cell, high: Cell) -> Text:
    if low is None or high is None:
        return Text(plain.NOT_RECORDED)
    return Text.assemble(number_text(low), " … ", number_text(high))


def _share(dead: Cell, units: Cell) -> str:
    return plain.NOT_RECORDED if dead is None else f"{dead} of {units}"
