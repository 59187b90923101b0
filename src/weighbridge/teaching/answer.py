"""The result of a lab as text: what was trained, a table, and the answer in words."""

from __future__ import annotations

import json
import math
import re
import textwrap
from dataclasses import asdict, fields
from typing import TYPE_CHECKING

from weighbridge.teaching import compare, networks
from weighbridge.teaching.data import Dataset
from weighbridge.teaching.options import Variant

if TYPE_CHECKING:
    from weighbridge.teaching.lab import LabResult


def text(result: LabResult) -> str:
    """Lines of at most about 100 columns."""
    data = result.data
    lines = [
        f"data      {data.describe()} ({data.task}: {data.why})",
        f"score     {_scored_on(data)}",
        *_common(result),
        "",
        *_table(result),
    ]
    differences = result.differences
    for one in differences:
        lines += ["", *textwrap.wrap(f"“{one.other}” instead of “{one.base}”: {one.verdict}", 100)]
    if caution := compare.caution(len(differences)):
        lines += ["", caution]
    lines += [*_divergence(result), *_where(result)]
    return "\n".join(lines)


def _scored_on(data: Dataset) -> str:
    if data.held_out:
        return f"{data.score_name} on {data.held_out} rows kept from training, chosen anew by each seed"
    return f"{data.score_name} on the same {data.rows} rows that are trained on: too few to keep any back"


def _common(result: LabResult) -> list[str]:
    """What all variants share, in three lines."""
    data, first = result.data, result.variants[0].options
    differ = {f.name for f in fields(first) if len({getattr(v.options, f.name) for v in result.variants}) > 1}

    def shown(option: str, value: str) -> list[str]:
        return [] if option in differ else [value]

    sizes = "-".join(str(size) for size in first.sizes(data))
    hidden = any(len(v.options.sizes(data)) > 2 for v in result.variants)
    network = [
        *shown("layers", sizes),
        *(shown("activation", "no activation" if first.activation == "none" else first.activation) if hidden else []),
        *shown("bias", {"all": "bias in every layer", "none": "no bias"}.get(first.bias, f"bias in layer {first.bias}")),
        *(shown("norm", f"{first.norm} norm") if first.norm != "none" else []),
        *(shown("init", f"weights {first.init}") if first.init != "default" else []),
        *(shown("init_bias", f"biases {first.init_bias}") if first.init_bias != "default" else []),
    ]
    rows = data.rows - data.held_out
    size = first.batch_for(rows)
    training = [
        *shown("loss", first.loss_for(data)),
        *shown("optimizer", first.optimizer),
        *shown("lr", f"lr {networks.learning_rate(first):g}"),
        *shown("epochs", f"{first.epochs} epochs"),
        *shown("batch", "all rows in each step" if size == rows else f"{size} rows a step"),
    ]
    treated = [
        f"{part} {' and '.join(done)}"
        for part in ("inputs", "targets")
        if (done := [f"{w}d" for w in ("centre", "scale") if w not in differ and first.treats(w, part, data)])
    ]
    prepared = f"{'; '.join(treated)} by the rows trained on" if treated else "as it is"
    lines = [f"network   {', '.join(network)}", f"training  {', '.join(training)}"]
    if not {"centre", "scale"} <= differ:
        lines.append(f"numbers   {prepared}")
    return lines


def _table(result: LabResult) -> list[str]:
    name, many = result.data.score_name, len(result.seeds) > 1
    rows = [("variant", "parameters", "last loss", name)]
    for variant in result.variants:
        trainings = result.of(variant)
        losses = compare.summarise([t.losses[-1] for t in trainings])
        rows.append(
            (
                variant.name,
                f"{trainings[0].parameters:,}",
                _spread(losses, lambda v: f"{v:.4g}"),
                _spread(result.summary(variant), _percent if name == "accuracy" else lambda v: f"{v:.4f}"),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
             for row in rows]  # fmt: skip
    lines.insert(1, "  ".join("-" * w for w in widths))
    if many:
        lines.append(f"mean ± standard deviation over {len(result.seeds)} seeds")
    return lines


def _percent(value: float) -> str:
    return f"{value * 100:.2f} %"


def _spread(summary: compare.Summary, form: object) -> str:
    assert callable(form)
    if summary.count == 0:
        return "not finite"
    if math.isnan(summary.std):
        return str(form(summary.mean))
    return f"{form(summary.mean)} ± {form(summary.std)}"


def _divergence(result: LabResult) -> list[str]:
    lines = []
    for variant in result.variants:
        lost = [t for t in result.of(variant) if t.diverged_at is not None]
        if lost:
            first = min(t.diverged_at for t in lost if t.diverged_at is not None)
            lines.append(
                f"“{variant.name}”: {len(lost)} of {len(result.seeds)} trainings diverged (a loss that is not finite, first at "
                f"step {first}). Lower --lr."
            )
    return ["", *lines] if lines else []


def _where(result: LabResult) -> list[str]:
    if not result.paths:
        return []
    folder, first = result.paths[0].parent, result.paths[0]
    count = len(result.paths)
    return ["", f"{count} run{'s' if count > 1 else ''} in {folder}; look at one with: weighbridge show {first}"]


def run_name(data: Dataset, variant: Variant, seed: int, *, alone: bool) -> str:
    """A folder name that says what the run is: "iris-4-16-3-bias-none-seed-0"."""
    sizes = "-".join(str(size) for size in variant.options.sizes(data))
    words = [data.name, sizes, *([] if alone else [variant.name]), f"seed {seed}"]
    return re.sub(r"[^\w.+=]+", "-", "-".join(words)).strip("-.")[:120]


def machine(result: LabResult) -> str:
    """The same as JSON; numbers that are not finite are null."""
    data = result.data

    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    found = {
        "data": {"name": data.name, "rows": data.rows, "inputs": data.inputs, "task": data.task, "held_out": data.held_out},
        "score": data.score_name,
        "seeds": list(result.seeds),
        "trainings": [
            {
                "variant": t.variant.name,
                "seed": t.seed,
                "options": asdict(t.variant.options),
                "parameters": t.parameters,
                "loss": finite(t.losses[-1]),
                "score": finite(t.scores[-1]),
                "diverged_at": t.diverged_at,
                "run": None if t.path is None else str(t.path),
            }
            for t in result.trainings
        ],
        "differences": [
            {
                "base": d.base,
                "other": d.other,
                "mean": finite(d.mean),
                "low": finite(d.low),
                "high": finite(d.high),
                "pairs": len(d.differences),
                "decided": d.decided,
                "verdict": d.verdict,
            }
            for d in result.differences
        ],
    }
    return json.dumps(found, indent=2, ensure_ascii=False)
