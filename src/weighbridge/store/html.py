"""A run and a series as they stand below a notebook's cell that ends in one; `weighbridge.show(run)` shows all of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from weighbridge import drawing, html
from weighbridge.drawing.chart import Line
from weighbridge.format import count, metric, size, when

if TYPE_CHECKING:
    from weighbridge.store.record import RunRecord, Series

WIDTH, HEIGHT, POINTS = 640, 160, 400


def of_record(record: RunRecord) -> str:
    """Its facts and its loss."""
    info = record.info
    head = ["state", "started", "steps", "tensors", "last loss", "size"]
    facts = [
        info.state,
        when(info.started),
        count(info.steps),
        count(info.tensors),
        metric(info.last_loss),
        size(info.size_bytes),
    ]
    hint = html.paragraph(html.text("All of it here: weighbridge.show(run); in a browser: weighbridge ui"))
    losses = record.losses(POINTS)
    drawn = html.picture(_drawn(losses, "Loss"), "loss") if len(losses.steps) else ""
    return html.block(html.paragraph(html.bold(info.name)), html.table(head, [facts], [False, False, *4 * [True]]), drawn, hint)


def of_series(series: Series) -> str:
    """A chart."""
    return html.block(html.picture(_drawn(series, series.name), series.name))


def _drawn(series: Series, title: str) -> str:
    at = np.unique(np.linspace(0, len(series.steps) - 1, min(len(series.steps), 4 * POINTS)).astype(np.int64))
    line = Line(series.steps[at], series.values[at])
    return drawing.lines([line], title, width=WIDTH, height=HEIGHT)
