"""An inspection as people read it: the table of layers, then what was found, why, and the change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.text import Text

from weighbridge import html
from weighbridge.diagnosis.html import card as card_html
from weighbridge.format import count, counted, metric, number, visible
from weighbridge.preflight.records import Layer
from weighbridge.report import grid
from weighbridge.report.findings import card
from weighbridge.report.html import table_of
from weighbridge.report.text import wrapped

if TYPE_CHECKING:
    from weighbridge.preflight.inspect import Inspection

MOST_ALIKE: Final = 5  # findings of one rule that are printed in full


def screen_width() -> int:
    return Console().width


def lines(found: Inspection, width: int) -> list[Text]:
    """Everything, in lines of at most `width` cells as far as names allow."""
    out = [Text(visible(_head(found)), style="bold"), Text("")]
    for block in grid.in_blocks(*_columns(found.layers), width):
        out += [*grid.lines(block), Text("")]
    for remark in found.remarks:
        out += [*wrapped(Text(visible(remark)), width), Text("")]
    return out + _findings(found, width)


def as_html(found: Inspection) -> str:
    """The same in a notebook."""
    fixed, others = _columns(found.layers)
    remarks = [html.paragraph(html.text(remark)) for remark in found.remarks]
    causes = list(found.causes)
    cards = [card_html(one, is_open=one in causes) for one in [*causes, *(f for f in found.findings if f not in causes)]]
    said = cards or [html.paragraph(html.text("Nothing found."))]
    return html.block(html.paragraph(html.bold(_head(found))), table_of([*fixed, *others]), *remarks, *said)


def _head(found: Inspection) -> str:
    trainable = f"{counted(found.parameters, 'parameter')}, {count(found.trainable)} trainable"
    return f"{found.subject}: {trainable}, loss {metric(found.loss)} before the first step"


def _columns(layers: Sequence[Layer]) -> tuple[list[grid.Column], list[grid.Column]]:
    fixed = [
        grid.column("layer", [visible(one.module or "(model)") for one in layers], right=False),
        grid.column("type", [one.kind + (f" x{one.calls}" if one.calls > 1 else "") for one in layers], right=False),
    ]
    others = [
        grid.column("output", [" x ".join(map(str, one.output_shape)) for one in layers], right=False),
        grid.column("parameters", [count(one.parameters) if one.parameters else "" for one in layers]),
        grid.column("bias", [{True: "yes", False: "no", None: ""}[one.has_bias] for one in layers], right=False),
    ]
    for heading, name in NUMBERS.items():
        cells = [getattr(one, name) for one in layers]
        if any(cell is not None and (cell or name not in ONLY_WHERE_SOME) for cell in cells):
            others.append(grid.column(heading, ["" if cell is None else number(cell) for cell in cells]))
    return fixed, others


ONLY_WHERE_SOME: Final = ("symmetric_share",)  # 0 in nearly all networks
NUMBERS: Final = {
    "weight mean": "weight_mean",
    "weight std": "weight_std",
    "bias mean": "bias_mean",
    "bias std": "bias_std",
    "output rms": "output_rms",
    "forward gain": "forward_gain",
    "dL/dh rms": "gradient_rms",
    "backward gain": "backward_gain",
    "dead": "dead_share",
    "saturated": "saturated_share",
    "symmetric": "symmetric_share",
    "update / weight": "update_ratio",
}


def _findings(found: Inspection, width: int) -> list[Text]:
    """The causes first. Of many findings of one rule the first are shown, the rest counted."""
    if not found.findings:
        return [Text("Nothing found.")]
    causes = list(found.causes)
    shown: Counter[str] = Counter()
    out: list[Text] = []
    for finding in [*causes, *(one for one in found.findings if one not in causes)]:
        shown[finding.rule] += 1
        if shown[finding.rule] <= MOST_ALIKE:
            out += [*card(finding, found, width), Text("")]
    more = {rule: times - MOST_ALIKE for rule, times in shown.items() if times > MOST_ALIKE}
    return [*out, *(Text(f"and {times} more: {rule}; .findings and --json have them all") for rule, times in more.items())]
