"""A run on one screen of the terminal: its head, what the rules say, and the tensors that stand out most.

What stands out: NaN or infinity first, then a gradient far from what is usual among the tensors, on a log scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from rich.text import Text

from weighbridge import format as plain
from weighbridge.diagnosis import Diagnosis, Finding
from weighbridge.diagnosis.muted import follows_from_muted, set_aside
from weighbridge.report import grid
from weighbridge.report.findings import STYLES
from weighbridge.report.text import MARKS, ROLE_STYLES, TROUBLE, head, number_text, wrapped
from weighbridge.store.labels import shown_labels
from weighbridge.store.record import RunRecord, Tensor

SHOWN: Final = ("gradient.rms", "update.ratio", "parameter.rms")
SPARK: Final = 24  # characters of the way of a gradient
FINDINGS: Final = 4
LEAST_ROWS: Final = 3
CAPTION: Final = 3  # lines around the tensors: a blank one, how many they are, titles
LEAST_COLUMNS: Final = 3


def lines(record: RunRecord, diagnosis: Diagnosis | None, width: int, height: int) -> list[Text]:
    """At most `height` lines of at most `width` columns. `diagnosis`: the last one there is; None = not yet asked."""
    first = head(record, width)
    told = finding_lines(diagnosis, width, shown_labels(record.path).muted)
    told = told[: max(1, height - len(first) - CAPTION - LEAST_ROWS)]  # a low screen shows the worst tensors, too
    room = max(LEAST_ROWS, height - len(first) - len(told) - CAPTION)
    return [*first, *told, Text(), *tensor_lines(record, width, room)][: max(height, LEAST_ROWS)]


def finding_lines(diagnosis: Diagnosis | None, width: int, muted: Iterable[tuple[str, str]] = ()) -> list[Text]:
    """One line a finding, causes first. muted: keys of findings, each with its reason; they are counted."""
    if diagnosis is None:
        return [Text("the rules are reading this run ...", style="dim")]
    diagnosis, quiet = set_aside(diagnosis, muted)
    if not diagnosis.findings and not quiet and diagnosis.steps == 0:
        return [Text("no step yet: the rules have nothing to look at", style="dim")]
    if not diagnosis.findings and not quiet:
        return [
            Text(f"nothing found by {plain.counted(len(diagnosis.answers), 'rule')} up to step {plain.count(diagnosis.steps)}")
        ]
    causes = list(diagnosis.causes)
    others = [finding for finding in diagnosis.findings if finding not in causes]
    shown = [*causes, *others][:FINDINGS]
    listed = [line for finding in shown for line in _finding(finding, diagnosis, finding in causes, width)]
    left = len(diagnosis.findings) - len(shown)
    more = [f"{left} more"] * bool(left) + [f"{len(quiet)} muted"] * bool(quiet)
    return [*listed, *([Text(f"and {', '.join(more)}: weighbridge diagnose", style="dim")] if more else [])]


def _finding(finding: Finding, diagnosis: Diagnosis, is_cause: bool, width: int) -> list[Text]:
    cause = plain.visible(follows_from_muted(finding, diagnosis))
    where = f" at {plain.visible(finding.place)}" if finding.place else ""
    text = Text.assemble(
        (f"{finding.severity:<8}", STYLES.get(finding.severity, "")),
        (f"{finding.rule}{where}", "bold" if is_cause else ""),
        (f"  from step {plain.count(finding.first_step)}" if finding.first_step >= 0 else "  before training", "dim"),
    )
    if not is_cause:
        return [*wrapped(text, width)[:1], *(Text("        ").append_text(line) for line in _first(cause, width - 8) if cause)]
    told = [*_first(finding.message, width - 8), *_first(f"Try: {finding.fix}", width - 8)]
    return [*wrapped(text, width)[:1], *(Text("        ").append_text(line) for line in told)]


def _first(text: str, width: int) -> list[Text]:
    """The first two lines of a text; three dots stand for the rest."""
    found = wrapped(Text(plain.visible(text)), width)
    if len(found) > 2:
        found = [found[0], Text(f"{found[1].plain.rstrip()[: max(width - 2, 0)]} …")]
    return found


def standing_out(record: RunRecord, most: int) -> list[tuple[Tensor, float]]:
    """The tensors that stand out most, worst first, each with by how many e-foldings (infinite: not finite)."""
    values, _ = record.at_or_before(max(record.last_step, 0), "gradient.rms")
    bad, _ = record.at_or_before(max(record.last_step, 0), "gradient.nonfinite_count")
    with np.errstate(divide="ignore", invalid="ignore"):
        log = np.log(values)
        known = log[np.isfinite(log)]
        distance = np.abs(log - (np.median(known) if len(known) else 0.0))
    distance = np.where(np.isnan(distance), -1.0, distance)
    distance = np.where(bad > 0, math.inf, distance)
    order = sorted(range(len(values)), key=lambda i: -distance[i])
    return [(record.tensors[i], float(distance[i])) for i in order[:most]]


def tensor_lines(record: RunRecord, width: int, most: int) -> list[Text]:
    """A line each of the tensors that stand out most."""
    chosen = [tensor for tensor, _ in standing_out(record, most)]
    if not chosen:
        return [Text("no tensor yet", style="dim")]
    columns = [
        grid.column("tensor", [plain.cut_middle(plain.visible(t.name), max(16, width - 62)) for t in chosen], right=False),
        grid.column("", [Text(MARKS.get(t.role, "p"), style=ROLE_STYLES.get(t.role, "")) for t in chosen]),
    ]
    place = {tensor.id: i for i, tensor in enumerate(record.tensors)}
    last = max(record.last_step, 0)
    bad, _ = record.at_or_before(last, "gradient.nonfinite_count")
    for name, title in zip(SHOWN, ("grad rms", "u/w", "rms"), strict=True):
        values, _ = record.at_or_before(last, name)
        cells = [_cell(values[place[t.id]], bad[place[t.id]] if name == "gradient.rms" else 0.0) for t in chosen]
        columns.append(grid.column(title, cells))
    columns.append(grid.column("NaN+Inf", [_count(bad[place[t.id]]) for t in chosen]))
    while grid.total_width(columns) > width and len(columns) > LEAST_COLUMNS:
        columns.pop()  # a narrow terminal shows the first of them
    room = min(SPARK, width - grid.total_width(columns) - grid.GAP)
    if room >= 8:
        columns.append(grid.column("gradient", _ways(record, chosen, room), right=False))
    which = "all" if len(chosen) == len(record.tensors) else f"{len(chosen)} of {plain.count(len(record.tensors))}"
    return [
        Text(_that_fits([f"{which} tensors", ", the oddest gradients first", "; u/w: update / weight"], width), style="dim"),
        *grid.lines(columns),
    ]


def _that_fits(pieces: Sequence[str], width: int) -> str:
    """As many of them as one line holds."""
    return next((text for n in range(len(pieces), 1, -1) if len(text := "".join(pieces[:n])) <= width), pieces[0])


def _cell(value: float, bad: float) -> Text:
    return Text("NaN", style=TROUBLE) if bad > 0 and math.isnan(value) else number_text(None if math.isnan(value) else value)


def _count(value: float) -> Text:
    return Text("" if math.isnan(value) or value == 0 else plain.count(int(value)), style=TROUBLE)


def _ways(record: RunRecord, tensors: Sequence[Tensor], room: int) -> list[str]:
    heat = record.heat_map("gradient.rms", room, None, max(record.info.steps, 1), tensors)
    return [plain.sparkline(_with_gaps(mean, bad), "log") for mean, bad in zip(heat.mean, heat.bad, strict=True)]


def _with_gaps(mean: np.ndarray, bad: np.ndarray) -> list[float | None]:
    """None = not recorded; NaN = not finite in one of the steps."""
    return [
        None if math.isnan(b) else math.nan if b > 0 else float(m) for m, b in zip(mean.tolist(), bad.tolist(), strict=True)
    ]
