"""An inspection as people read it: the table of layers, then what was found, why, and the change."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.text import Text

from weighbridge.diagnosis import Finding
from weighbridge.format import count, counted, metric, number, visible
from weighbridge.preflight.records import Layer
from weighbridge.report import grid
from weighbridge.report.machine import plain

if TYPE_CHECKING:
    from weighbridge.preflight.inspect import Inspection

STYLES: Final = {"error": "bold red", "warning": "yellow", "note": "cyan"}
MOST_ALIKE: Final = 5  # findings of one rule that are printed in full


def screen_width() -> int:
    return Console().width


def plain_values(value: Any) -> Any:
    """The same with each number as JSON can hold it, inside lists and dictionaries too."""
    if isinstance(value, dict):
        return {key: plain_values(one) for key, one in value.items()}
    return [plain_values(one) for one in value] if isinstance(value, (list, tuple)) else plain(value)


def lines(found: Inspection, width: int) -> list[Text]:
    """Everything, in lines of at most `width` cells as far as names allow."""
    head = f"{found.subject}: {counted(found.parameters, 'parameter')}, {count(found.trainable)} trainable, "
    head += f"loss {metric(found.loss)} before the first step"
    out = [Text(visible(head), style="bold"), Text("")]
    for block in grid.in_blocks(*_columns(found.layers), width):
        out += [*grid.lines(block), Text("")]
    for remark in found.remarks:
        out += [*_wrapped(remark, width, "", ""), Text("")]
    return out + _findings(found.findings, width)


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
        if any(cell is not None for cell in cells):
            others.append(grid.column(heading, ["" if cell is None else number(cell) for cell in cells]))
    return fixed, others


NUMBERS: Final = {
    "weight mean": "weight_mean",
    "std": "weight_std",
    "bias mean": "bias_mean",
    "bias std": "bias_std",
    "output rms": "output_rms",
    "forward gain": "forward_gain",
    "dL/dh rms": "gradient_rms",
    "backward gain": "backward_gain",
    "dead": "dead_share",
    "saturated": "saturated_share",
}


def _findings(findings: Sequence[Finding], width: int) -> list[Text]:
    if not findings:
        return [Text("Nothing found.")]
    shown: dict[str, int] = {}
    out: list[Text] = []
    for finding in findings:
        shown[finding.rule] = shown.get(finding.rule, 0) + 1
        if shown[finding.rule] <= MOST_ALIKE:
            out += _finding(finding, width)
    for rule, times in shown.items():
        if times > MOST_ALIKE:
            out.append(Text(f"... and {times - MOST_ALIKE} more {rule}; --json and .findings have them all"))
    return out


def _finding(finding: Finding, width: int) -> list[Text]:
    head = Text(f"{finding.severity} ", style=STYLES.get(finding.severity, ""))
    head.append(f"{finding.rule} ({finding.certainty})", style="bold")
    head.append(visible(f"  {finding.place}") if finding.place else "")
    return [head, *_wrapped(finding.message, width, "  ", "  "), *_wrapped(finding.fix, width, "  -> ", "     "), Text("")]


def _wrapped(text: str, width: int, first: str, rest: str) -> list[Text]:
    room = max(width, 20)
    wrapped = textwrap.wrap(visible(text), room, initial_indent=first, subsequent_indent=rest, break_long_words=False)
    return [Text(line) for line in wrapped]
