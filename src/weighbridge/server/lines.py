"""One run as a line of the list: facts, last numbers, settings, a small curve of the loss, and what the rules said."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from weighbridge.diagnosis import Diagnosis, Outcome, registry
from weighbridge.diagnosis.kept import jsonable, told_of
from weighbridge.diagnosis.muted import Loud, set_aside
from weighbridge.server.arrays import loss_of
from weighbridge.server.shapes import facts_of
from weighbridge.store.labels import Labels
from weighbridge.store.record import RunRecord

POINTS: Final = 64  # of the curve
METRICS: Final = 40  # names of logged metrics that are kept
SETTINGS: Final = 200
FEW_STEPS: Final = 20  # before which hardly a rule of dynamics can say anything
TEXT: Final = 120  # characters of a setting's value

Scalar = str | int | float | bool | None


def line_of(name: str, record: RunRecord) -> dict[str, Any]:
    """All but labels and health, ready for JSON."""
    info = record.info
    own, wall = record.own_cost()
    end = info.last_flush or info.started
    line: dict[str, Any] = {
        **facts_of(name, record),
        "seconds": max((end - info.started).total_seconds(), 0.0),
        "own_cost": own / wall if wall > 0 else None,
        "settings": settings_of(record),
        "metrics": last_metrics(record),
        "project": record.about.get("project"),
        "group": record.about.get("group"),
        "guess": guess_of(record),
        "loss": curve_of(record),
    }
    told: dict[str, Any] = jsonable(line)
    return told


def settings_of(record: RunRecord) -> dict[str, Scalar]:
    """What was configured, names of inner dictionaries joined by dots; the optimizer and its first learning rate where nobody
    wrote them down."""
    found: dict[str, Scalar] = {}
    for group in record.optimizer_groups()[:1]:
        found["optimizer"] = group.kind
    rates = record.whole("steps").column("lr")[:1].to_pylist()
    if rates and rates[0] and not math.isnan(rates[0][0]):
        found["lr"] = rates[0][0]
    flat = dict(list(_flat(record.config, ""))[:SETTINGS])
    return found | flat


def _flat(config: Mapping[str, Any], before: str) -> Any:
    for key, value in config.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{name}.")
        else:
            yield name, value if isinstance(value, bool | int | float) or value is None else str(value)[:TEXT]


def last_metrics(record: RunRecord) -> dict[str, float]:
    """The last number of everything that was logged."""
    table = record.whole("logs")
    last: dict[str, float] = {}
    for key, value, text in zip(*(table.column(name).to_pylist() for name in ("key", "value", "text")), strict=True):
        if text is None and (key in last or len(last) < METRICS):
            last[key] = value
    return last


def guess_of(record: RunRecord) -> float | None:
    """The loss of a predictor that knows nothing, where the training has one loss and it is known."""
    for text in record.whole("graph").column("detail").slice(0, 1).to_pylist():
        starts = json.loads(text)["starts"]
        if len(starts) == 1 and math.isfinite(starts[0]["trivial"]):
            return float(starts[0]["trivial"])
    return None


def curve_of(record: RunRecord) -> list[list[Any]]:
    """Steps, and the mean loss around them, four digits."""
    part = loss_of(record, None, None, POINTS)
    middle = (part.step_first + part.step_last) // 2
    means = np.array([float(f"{value:.4g}") for value in part.mean.tolist()])
    return [middle.tolist(), means.tolist()]


def top_of(curve: list[list[Any]]) -> float | None:
    """The largest finite loss of a curve."""
    finite = [value for value in map(float, curve[1]) if math.isfinite(value)]
    return max(finite, default=None)


def health_of(diagnosis: Diagnosis | None, is_whole: bool = False) -> dict[str, Any]:
    """How many findings of each severity, of which rules, and what most likely caused them.

    known: something is; whole: all rules have looked at all of it; thin: more of them had too few steps than found it clear;
    muted: how many findings somebody has put aside, which are not among the others.
    """
    if diagnosis is None:
        return {"known": False, "whole": False, "thin": False, "counts": {}, "rules": [], "muted": 0, "cause": None}
    counts: dict[str, int] = {}
    outcomes = [answer.outcome for answer in diagnosis.answers]
    for finding in diagnosis.findings:
        counts[finding.severity] = counts.get(finding.severity, 0) + 1
    return {
        "known": True,
        "whole": is_whole,
        "thin": diagnosis.steps < FEW_STEPS or outcomes.count(Outcome.NOT_ENOUGH_DATA) > outcomes.count(Outcome.CLEAR),
        "counts": counts,
        "rules": sorted({finding.rule for finding in diagnosis.findings}),
        "muted": len(diagnosis.muted) if isinstance(diagnosis, Loud) else 0,
        "cause": _cause(diagnosis),
    }


def told_health(record: RunRecord, labels: Labels) -> dict[str, Any]:
    """The same from what rules beside the training have told; not known where they have told nothing."""
    told = told_of(record)
    return health_of(set_aside(told, labels.muted)[0] if told.findings else None)


def _cause(diagnosis: Diagnosis) -> dict[str, str] | None:
    causes, unsure = diagnosis.causes, diagnosis.undetermined
    if not causes:
        return {"title": "cause not determined", "key": "", "message": unsure} if unsure else None
    titles = {rule.id: rule.title for rule in registry.rules()}
    first = causes[0]
    return {"title": titles.get(first.rule, first.rule), "key": first.key, "message": first.message}
