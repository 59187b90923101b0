"""A report on biases as people read it: a table, then what to change, and how it was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rich.text import Text

from weighbridge.format import count, counted, metric, number, share, visible
from weighbridge.preflight.bias_worth import CANNOT_TELL, FEW_UNITS, NEGLIGIBLE, Worth, more_data
from weighbridge.report import grid
from weighbridge.report.text import wrapped
from weighbridge.teaching.compare import caution

if TYPE_CHECKING:
    from weighbridge.preflight.bias_report import BiasReport, LayerBias

STYLES: Final = {"needed": "green", "redundant": "yellow", "missing": "bold yellow", "better without": "bold yellow"}


def lines(report: BiasReport, width: int) -> list[Text]:
    """Everything, in lines of at most `width` cells as far as names allow."""
    out = [Text(visible(_head(report)), style="bold"), Text("")]
    if not report.layers:
        return [*out, Text("No layer has a bias, and none could have one.")]
    for block in grid.in_blocks(*_columns(report.layers), width):
        out += [*grid.lines(block), Text("")]
    for one in report.layers:
        said = _said(one)
        out += [*wrapped(Text(visible(said)), width), Text("")] if said else []
    return out + [line for note in _notes(report) for line in wrapped(Text(note, style="dim"), width)]


def _head(report: BiasReport) -> str:
    have = [one for one in report.layers if one.has_bias]
    numbers = counted(sum(one.parameters for one in have), "parameter")
    units = counted(report.units, report.unit, "batches" if report.unit == "batch" else "")
    return f"{report.model}: {counted(len(have), 'bias', 'biases')}, {numbers}; loss {metric(report.loss)} on {units}"


def _columns(layers: Sequence[LayerBias]) -> tuple[list[grid.Column], list[grid.Column]]:
    fixed = [
        grid.column("layer", [visible(one.layer or "(model)") for one in layers], right=False),
        grid.column("type", [one.kind for one in layers], right=False),
    ]
    others = [
        grid.column("verdict", [Text(_short(one), style=STYLES.get(one.verdict, "")) for one in layers], right=False),
        grid.column("bias", [count(one.parameters) if one.has_bias else "none" for one in layers]),
        grid.column("b / Wx", [_or_empty(one.ratio) for one in layers]),
        grid.column("largest", [_or_empty(max(one.ratios, default=None)) for one in layers]),
        grid.column("cancels", ["" if one.cancelled is None else _share(one.cancelled) for one in layers]),
        grid.column("input mean", [_or_empty(one.input_offset) for one in layers]),
        grid.column("loss without", [_effect(one.worth) if one.has_bias else "" for one in layers], right=False),
        grid.column("weights taking over", [_effect(one.taken_over) for one in layers], right=False),
        grid.column("loss with one", ["" if one.has_bias else _effect(one.worth) for one in layers], right=False),
    ]
    return fixed, [one for one in others if any(cell.plain for cell in one.cells)]


def _short(one: LayerBias) -> str:
    return "cannot tell" if one.verdict == CANNOT_TELL else one.verdict


def _or_empty(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else number(value)


def _share(value: float) -> str:
    return share(value) if value > 0 else "adds"


def _effect(found: Worth | None) -> str:
    """The mean and half the width of its interval."""
    if found is None:
        return ""
    half = (found.high - found.low) / 2
    sign = "+" if found.mean > 0 else ""
    return f"{sign}{number(found.mean)}" + (f" ± {number(half, 2)}" if math.isfinite(half) else "")


def _said(one: LayerBias) -> str:
    """What to do about it, or how to find out; empty where all is well."""
    if one.verdict == "redundant":
        return f"{one.name} is redundant ({one.reason}). {_saved(one)} {_line(one)}"
    if one.verdict == "no effect":
        return f"{one.name} has no effect here: less than {share(NEGLIGIBLE)} of the loss. {_saved(one)} {_line(one)}"
    if one.verdict == "better without":
        return f"{one.name}: the loss is lower without it. Networks that are not trained yet show this, and overfitted ones."
    if one.verdict == "needed" and one.taken_over is not None and one.taken_over.is_negligible:
        return f"{one.name} is used, but the layer's inputs are far from centred: its weights could do without it."
    if one.verdict == "missing":
        centre = "" if one.has_centred_inputs is not False else ", and its inputs are not centred"
        return f"{one.layer or 'The model'} misses a bias: {one.reason}{centre}; one would lower the loss. {_line(one)}"
    if one.verdict == CANNOT_TELL:
        more = more_data(one.worth)
        return f"{one.name}: {CANNOT_TELL}{f'; {more}' if more else ''}."
    return ""


def _saved(one: LayerBias) -> str:
    with_state = one.size_bytes + (one.state_bytes or 0)
    what = "gradient and optimizer state included" if one.state_bytes is not None else "gradient included"
    return f"Without it: {counted(one.parameters, 'parameter')} and {counted(with_state, 'byte')} less ({what})."


def _line(one: LayerBias) -> str:
    return f"Change: {one.change}" if one.change else ""


def _notes(report: BiasReport) -> list[str]:
    measured = [one.worth for one in report.layers if one.worth is not None]
    notes = ["b / Wx: rms of the bias over rms of all else in the layer's output; largest: of one unit; cancels: of W·E[x]."]
    if measured:
        notes.append(
            "Loss without: with the bias at zero, minus as it is; with one: put in where there is none, fitted to the other "
            f"half of the data. Mean and 95 % interval, by {report.unit}; below {share(NEGLIGIBLE)} of the loss: no effect."
        )
        if report.units < FEW_UNITS:
            few = counted(report.units, report.unit, "batches" if report.unit == "batch" else "")
            notes.append(f"{few} are few: the intervals take the differences to be normal.")
    if caution(len(measured)):
        notes.append(caution(len(measured)))
    return notes
