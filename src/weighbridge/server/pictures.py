"""Pictures of a run as SVG, made without a browser, of the numbers that the page gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from weighbridge import format as plain
from weighbridge.diagnosis import Diagnosis, Finding
from weighbridge.drawing import Label, Sheet, heat_map
from weighbridge.drawing import chart as charts
from weighbridge.drawing.colours import INK, RUNS
from weighbridge.drawing.heat import Flag
from weighbridge.drawing.sheet import cut
from weighbridge.server import heat, versus
from weighbridge.server.arrays import loss_of
from weighbridge.server.layers import owner_of
from weighbridge.store.record import RunInfo, RunRecord

WIDTH: Final = 920
COLUMNS: Final = 325  # of a picture: two px each
BUCKETS: Final = 400
LETTERS: Final = {"weight": "W", "bias": "b", "norm_scale": "γ", "norm_shift": "β", "embedding": "E", "output": ""}
TITLES: Final = {
    "gradient.rms": "Gradient of every tensor, every step (rms)",
    "update.ratio": "Update as a share of the weight, every tensor, every step",
    "parameter.rms": "Size of every tensor, every step (rms)",
    "activation.rms": "What every module gives, every step (rms)",
    "gradient.nonfinite_count": "NaN and Inf in gradients, every tensor, every step",
}


def glance(name: str, record: RunRecord, diagnosis: Diagnosis | None) -> str:
    """One picture of a run: its state, the likeliest cause, the loss, every tensor at every step."""
    info = record.info
    sheet = Sheet(WIDTH, f"weighbridge: {name}")
    sheet.text(12, 18, cut(name, 560, 16), size=16, colour=INK["ink"], weight=600)
    sheet.text(WIDTH - 12, 18, facts(info), colour=INK["ink-2"], align="right")
    y = _said(sheet, diagnosis, 40)
    inner = WIDTH - 24
    inside = Sheet(inner)
    charts.lines([loss_line(record)], "Loss", width=inner, height=170, on=inside, top=0)
    end = 178.0
    try:
        _, end = heat_of(record, "gradient.rms", diagnosis, width=inner, on=inside, top=178)
    except ValueError:
        inside.text(0, 190, "No tensor is weighed yet.")
        end = 210
    sheet.put(inside, 12, y)
    return sheet.svg(y + end + 6)


def facts(info: RunInfo) -> str:
    """State, steps, tensors and loss in one line."""
    loss = "" if info.last_loss is None else f", loss {plain.metric(info.last_loss)}"
    return f"{info.state}, {plain.counted(info.steps, 'step')}, {plain.counted(info.tensors, 'tensor')}{loss}"


def _said(sheet: Sheet, diagnosis: Diagnosis | None, y: float) -> float:
    """What the rules say, a line each; gives where the next may begin."""
    if diagnosis is None:
        return y
    shown = (diagnosis.causes or diagnosis.findings)[:3]
    for finding in shown:
        sheet.mark(str(finding.severity), 18, y, 9)
        sheet.text(30, y, cut(headline(finding), WIDTH - 44, 12), size=12, colour=INK["ink"], weight=600)
        sheet.text(30, y + 16, cut(finding.message, WIDTH - 44), colour=INK["ink-2"])
        y += 38
    if not shown:
        sheet.text(12, y, f"The rules found nothing in {plain.counted(diagnosis.steps, 'step')}.", colour=INK["ink-2"])
        y += 22
    rest = len(diagnosis.findings) - len(shown)
    if rest > 0:
        sheet.text(30, y - 4, f"and {plain.counted(rest, 'other finding')}")
        y += 16
    return y


def headline(finding: Finding) -> str:
    """Severity, rule, place and step."""
    place = f" at {finding.place}" if finding.place else ""
    when = "before training" if finding.first_step < 0 else f"from step {plain.count(finding.first_step)}"
    return f"{finding.severity}: {finding.rule}{place}, {when}"


def loss_line(record: RunRecord, colour: str = INK["weight"], name: str = "") -> charts.Line:
    """The loss, each value the mean of its steps, with the least and the greatest as a band."""
    part = loss_of(record, None, None, BUCKETS)
    values = np.where((part.bad > 0) & np.isnan(part.mean), np.inf, part.mean)  # drawn as a mark
    return charts.Line(part.step_first, values, part.min, part.max, colour, name)


def loss(record: RunRecord) -> str:
    """The loss as a chart."""
    return charts.lines([loss_line(record)], "Loss", width=WIDTH)


def losses(names: Sequence[str], records: Sequence[RunRecord]) -> str:
    """The losses of several runs on one axis."""
    drawn = [
        loss_line(record, RUNS[i % len(RUNS)], f"{chr(65 + i)} {plain.cut_middle(name, 24)}")
        for i, (name, record) in enumerate(zip(names, records, strict=True))
    ]
    return charts.lines(drawn, "Loss", width=WIDTH)


def heat_of(
    record: RunRecord,
    statistic: str,
    diagnosis: Diagnosis | None,
    *,
    width: int = WIDTH,
    on: Sheet | None = None,
    top: float = 0,
) -> tuple[str, float]:
    """The layer x step picture of one statistic. Raises ValueError where no tensor is weighed so."""
    rows = heat.rows_of(record, statistic, "wb", "auto", ())
    if not rows:
        raise ValueError(f"no tensor of {record.path} has {statistic}")
    cells = heat.cells_of(record, statistic, rows, None, None, COLUMNS)
    if not (cells.mask != heat.ABSENT).any():
        raise ValueError(f"no {statistic} was recorded in {record.path}")
    flags = [
        Flag(f.first_step, str(f.severity), f.rule) for f in (diagnosis.findings if diagnosis else ()) if f.first_step >= 0
    ]
    title = TITLES.get(statistic, statistic)
    domain = heat.domain_of(cells)
    return heat_map(
        title,
        cells.value,
        cells.mask,
        cells.first,
        cells.last,
        labels(rows),
        cells.scale,
        domain,
        flags=flags,
        width=width,
        on=on,
        top=top,
    )


def difference(names: Sequence[str], records: Sequence[RunRecord], a: int, b: int, statistic: str) -> str:
    """Run b against run a, every tensor at every step. Raises ValueError where they have nothing in common."""
    found = versus.cells_between(records[a], records[b], statistic, "wb", "auto", COLUMNS, None, None)
    if not found.rows or not len(found.first):
        raise ValueError("no tensor and step in common")
    one, other = (f"{chr(65 + i)} ({plain.cut_middle(names[i], 28)})" for i in (b, a))
    title = f"Where they differ: {statistic} of {one} against {other}"
    picture, _ = heat_map(
        title,
        found.value,
        found.mask,
        found.first,
        found.last,
        labels(found.rows),
        found.scale,
        found.domain,
        sides=(chr(65 + a), chr(65 + b)),
        width=WIDTH,
    )
    return picture


def labels(rows: Sequence[heat.Row]) -> list[Label]:
    """What stands beside rows."""
    return [_label(row) for row in rows]


def _label(row: heat.Row) -> Label:
    one = row.members[0]
    title = row.name if row.is_folded else owner_of(row.name) or row.name
    if row.is_folded:
        return Label(title, plain.counted(len(row.members), "tensor"), "b" if row.bias else "W", row.bias)
    if one.is_output:
        return Label(title, one.module, "", False)
    flow = f"{one.shape[1]}→{one.shape[0]}" if len(one.shape) == 2 else plain.shape(one.shape)
    return Label(title, flow, LETTERS.get(one.role, "p"), row.bias)
