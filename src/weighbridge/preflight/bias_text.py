"""A report on biases as people read it: a table, then what to change, and how it was measured."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from rich.text import Text

from weighbridge import html
from weighbridge.format import count, counted, metric, number, share, visible
from weighbridge.preflight.bias_worth import CANNOT_TELL, FEW_UNITS, NEGLIGIBLE, Worth, more_data, several
from weighbridge.report import grid
from weighbridge.report.html import table_of
from weighbridge.report.text import wrapped
from weighbridge.teaching.compare import caution

if TYPE_CHECKING:
    from weighbridge.preflight.bias_ablation import BiasAblation
    from weighbridge.preflight.bias_report import BiasReport, LayerBias

LAG: Final = "The proof is of the training steps; in evaluation a norm's running mean lags behind a bias that moves."
MOST_ALIKE: Final = 5  # biases with one verdict that are spoken of
STYLES: Final = {"needed": "green", "redundant": "yellow", "missing": "bold yellow", "better without": "bold yellow"}


def lines(report: BiasReport, width: int) -> list[Text]:
    """Everything, in lines of at most `width` cells as far as names allow."""
    out = [Text(visible(_head(report)), style="bold"), Text("")]
    if not report.layers:
        return [*out, Text("No layer has a bias, and none could have one.")]
    for block in grid.in_blocks(*_columns(report.layers), width):
        out += [*grid.lines(block), Text("")]
    for said in _all_said(report.layers):
        out += [*wrapped(Text(visible(said)), width), Text("")]
    return out + [line for note in _notes(report) for line in wrapped(Text(note, style="dim"), width)]


def as_html(report: BiasReport) -> str:
    """The same in a notebook."""
    head = html.paragraph(html.bold(_head(report)))
    if not report.layers:
        return html.block(head, html.paragraph(html.text("No layer has a bias, and none could have one.")))
    fixed, others = _columns(report.layers)
    said = [html.paragraph(html.text(words)) for words in (*_all_said(report.layers), *_notes(report))]
    return html.block(head, table_of([*fixed, *others]), *said)


def _head(report: BiasReport) -> str:
    have = [one for one in report.layers if one.has_bias]
    numbers = counted(sum(one.parameters for one in have), "parameter")
    measured = f"loss {metric(report.loss)} on {several(report.units, report.unit)}"
    return f"{report.model}: {counted(len(have), 'bias', 'biases')}, {numbers}; {measured}"


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


def _all_said(layers: Sequence[LayerBias]) -> Iterator[str]:
    """One sentence or two per bias with something to say; of many alike the first, the rest counted."""
    said = [(one, _said(one)) for one in layers]
    times = Counter(one.verdict for one, words in said if words)
    shown: Counter[str] = Counter()
    for one, words in said:
        shown[one.verdict] += bool(words)
        if words and shown[one.verdict] <= MOST_ALIKE:
            yield words
            if shown[one.verdict] == MOST_ALIKE < times[one.verdict]:
                yield f"and {times[one.verdict] - MOST_ALIKE} more: {one.verdict}; --json has them all"


def _said(one: LayerBias) -> str:
    """What to do about it, or how to find out; empty where all is well."""
    if one.verdict == "redundant":
        return f"{one.name} is redundant ({one.reason}). {_saved(one)} {_line(one)}"
    if one.verdict == "no effect" and one.reason:
        return f"{one.name} has no effect: {one.reason}."
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
            notes.append(_few(report.units, report.unit))
    if caution(len(measured)):
        notes.append(caution(len(measured)))
    return notes


def _few(units: int, unit: str) -> str:
    is_one = "is too few for an interval" if units == 1 else "are few: the interval takes their differences to be normal"
    return f"{several(units, unit)} {is_one}."


def ablation_lines(found: BiasAblation, width: int) -> list[Text]:
    """The scores of each seed, the difference, and the verdict."""
    many = counted(len(found.biases), "bias", "biases")
    before, after = found.parameters
    head = f"{found.model}, trained with and without {many}: {count(before)} and {count(after)} parameters"
    table = [
        grid.column("seed", [str(seed) for seed in found.seeds]),
        grid.column(f"{found.score_name} with", [metric(score) for score in found.with_biases]),
        grid.column("without", [metric(score) for score in found.without]),
    ]
    said = [f"Left out: {', '.join(found.biases)}.", *_proved(found), _difference(found), *_doubts(found)]
    body = [line for one in said for line in wrapped(Text(visible(one)), width)]
    return [Text(visible(head), style="bold"), Text(""), *grid.lines(table), Text(""), *body]


def _proved(found: BiasAblation) -> list[str]:
    if not found.redundant:
        return []
    which = "all of them" if len(found.redundant) == len(found.biases) else ", ".join(found.redundant)
    return [f"Redundant by proof: {which}; what is added is taken out again (docs/rules/redundant-bias.md)."]


def _difference(found: BiasAblation) -> str:
    of = found.worth
    if of is None:
        return "Cannot tell: in every pair one training did not end finite."
    better, worse = ("lower", "higher") if found.is_loss else ("higher", "lower")
    size = f"{number(abs(of.mean))} {worse if of.mean > 0 else better}" if of.mean else "the same"
    verdict = f"{found.verdict[0].upper()}{found.verdict[1:]}"
    if not math.isfinite(of.low):
        return f"{verdict}: without, the {found.score_name} is {size}, and one seed says nothing about the spread."
    ends = (of.low, of.high) if found.is_loss else (-of.high, -of.low)
    interval = (
        f"95 % interval of the difference {number(ends[0])} to {number(ends[1])}, paired over {several(of.units, 'seed')}"
    )
    return f"{verdict}: without, the {found.score_name} is {size} ({interval})."


def _doubts(found: BiasAblation) -> list[str]:
    doubts = [LAG] if found.redundant and found.worth is not None and not found.worth.is_negligible else []
    lost = sum(not (math.isfinite(a) and math.isfinite(b)) for a, b in zip(found.with_biases, found.without, strict=True))
    if lost and found.worth is not None:
        doubts.append(f"{several(lost, 'seed')} left out: a training did not end finite.")
    if not found.depends_on_seed:
        doubts.append("Every seed gave the same: make_model or the training seeds itself, or nothing in it is drawn.")
    elif found.worth is not None and found.worth.units < FEW_UNITS:
        doubts.append(_few(found.worth.units, "seed"))
    more = more_data(found.worth) if found.verdict == CANNOT_TELL and found.depends_on_seed else ""
    return [*doubts, f"{more[0].upper()}{more[1:]}."] if more else doubts
