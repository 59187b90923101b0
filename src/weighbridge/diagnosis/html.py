"""A diagnosis and its findings in a notebook: what, where, since when, what shows it and what to try."""

from __future__ import annotations

from typing import Final

import numpy as np

from weighbridge import drawing, html
from weighbridge.diagnosis.evidence import Cell, Evidence, HistogramEvidence, SeriesEvidence, SettingEvidence, TableEvidence
from weighbridge.diagnosis.rule import Diagnosis, Finding
from weighbridge.drawing.chart import Line
from weighbridge.drawing.colours import INK
from weighbridge.format import count, counted, number

WIDTH, HEIGHT = 640, 160
ROWS: Final = 12
MARKS: Final = {"error": "■", "warning": "▲", "note": "●"}


def of_diagnosis(diagnosis: Diagnosis) -> str:
    """The causes open, all others folded."""
    causes = list(diagnosis.causes)
    rest = [finding for finding in diagnosis.findings if finding not in causes]
    told = "nothing found" if not diagnosis.findings else counted(len(diagnosis.findings), "finding")
    parts = [html.paragraph(html.bold(diagnosis.subject), html.text(f": {told} in {counted(diagnosis.steps, 'step')}"))]
    if diagnosis.undetermined:
        parts.append(html.paragraph(html.bold("cause not determined: "), html.text(diagnosis.undetermined)))
    parts += [card(finding, is_open=True) for finding in causes]
    parts += [card(finding) for finding in rest]
    return html.block(*parts)


def of_finding(finding: Finding) -> str:
    """One finding with everything."""
    return html.block(card(finding, is_open=True))


def card(finding: Finding, *, is_open: bool = False) -> str:
    """A finding that opens at a click."""
    colour = INK.get(str(finding.severity), INK["note"])
    mark = f'<span style="color:{colour}">{MARKS.get(str(finding.severity), "●")}</span> '
    place = f" at {finding.place}" if finding.place else ""
    summary = mark + html.text(f"{finding.severity}: ") + html.bold(finding.rule) + html.text(f"{place}, {since(finding)}")
    parts = [html.paragraph(html.text(finding.message))]
    parts += [_evidence(evidence) for evidence in finding.evidence]
    parts.append(html.paragraph(html.bold("try "), html.text(finding.fix)))
    if finding.experiment:
        parts.append(html.paragraph(html.bold("test it "), html.text(finding.experiment)))
    if finding.explains:
        parts.append(html.paragraph(html.text(f"explains {', '.join(finding.explains)}")))
    return html.folded(summary, *parts, is_open=is_open)


def since(finding: Finding) -> str:
    """From which step on."""
    return "before training" if finding.first_step < 0 else f"from step {count(finding.first_step)}"


def _evidence(evidence: Evidence) -> str:
    match evidence:
        case SeriesEvidence(values=values, steps=steps, limit=limit):
            line = Line(np.array(steps, np.int64), np.array(values, np.float64), colour=INK["note"])
            svg = drawing.lines([line], evidence.name, limit=limit, width=WIDTH, height=HEIGHT)
            return html.picture(svg, evidence.name)
        case HistogramEvidence(edges=edges, counts=counts):
            return html.picture(drawing.histogram(edges, counts, evidence.name, width=WIDTH, height=HEIGHT), evidence.name)
        case TableEvidence(columns=columns, rows=rows):
            shown = [[_cell(cell) for cell in row] for row in rows[:ROWS]]
            right = [any(isinstance(row[i], int | float) for row in rows) for i in range(len(columns))]
            more = html.paragraph(html.text(f"and {count(len(rows) - ROWS)} more")) if len(rows) > ROWS else ""
            return html.paragraph(html.text(evidence.name)) + html.table(columns, shown, right) + more
        case SettingEvidence(value=value):
            return html.paragraph(html.text(f"{evidence.name} = {value}"))
        case _:
            unit = f" {evidence.unit}" if evidence.unit else ""
            limit_told = "" if evidence.limit is None else f" (limit {_cell(evidence.limit)})"
            return html.paragraph(
                html.text(f"{evidence.name}: "), html.bold(_cell(evidence.value) + unit), html.text(limit_told)
            )


def _cell(value: Cell) -> str:
    if isinstance(value, str):
        return value
    whole = value is not None and float(value).is_integer() and abs(value) < 1e9
    return count(int(value)) if whole and value is not None else number(value)
