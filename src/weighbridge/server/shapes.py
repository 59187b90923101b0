"""Records as JSON. Numbers that JSON cannot hold travel as words (`jsonable`)."""

from __future__ import annotations

import dataclasses
import re
import sys
from typing import Any

from weighbridge.catalog import all_names, parse
from weighbridge.diagnosis import Rule, registry
from weighbridge.diagnosis.kept import jsonable
from weighbridge.records import OF_OUTPUTS
from weighbridge.server.arrays import pauses_of
from weighbridge.server.layers import Layer
from weighbridge.store.record import RunRecord, Tensor

QUANTITY_PLAIN = {
    "parameter": "the values themselves, as they were before the step",
    "gradient": "the gradient that the optimizer used",
    "update": "what the step really changed: values after minus values before",
    "activation": "what the module gave",
    "activation_gradient": "the loss's gradient by what the module gave (dL/dh)",
}


def facts_of(name: str, record: RunRecord) -> dict[str, Any]:
    """What every picture of a run begins with."""
    info = record.info
    return {
        "name": name,
        "state": info.state,
        "started": info.started.isoformat(),
        "last_flush": info.last_flush.isoformat() if info.last_flush else None,
        "steps": info.steps,
        "tensors": info.tensors,
        "size_bytes": info.size_bytes,
        "last_loss": jsonable(info.last_loss),
    }


def run_json(name: str, record: RunRecord) -> dict[str, Any]:
    """What the head of a run shows. findings: told while it was recorded, more of them are news for the page."""
    return {**facts_of(name, record), "findings": record.whole("findings").num_rows}


def tensor_json(tensor: Tensor) -> dict[str, Any]:
    """What the picker of tensors shows."""
    return {
        "name": tensor.name,
        "model": tensor.model,
        "role": tensor.role,
        "module": tensor.module,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype,
        "count": tensor.count,
        "aliases": list(tensor.aliases),
        "requires_grad": tensor.requires_grad,
        "note": tensor.note,
    }


def layer_json(layer: Layer) -> dict[str, Any]:
    """One layer with its parameters and outputs by name."""
    return {
        "model": layer.model,
        "path": layer.path,
        "kind": layer.kind,
        "parameters": [tensor_json(tensor) for tensor in layer.parameters],
        "outputs": [tensor_json(tensor) for tensor in layer.outputs],
    }


def rule_json(rule: type[Rule]) -> dict[str, Any]:
    """A rule as its own page shows it."""
    told = registry.explanation(rule)
    return {
        "id": rule.id,
        "title": rule.title,
        "severity": rule.severity,
        "certainty": rule.certainty,
        "since": rule.since,
        "reads": rule.needs.words,
        "causes": list(rule.causes),
        "summary": told.summary,
        "sections": told.sections,
        "limits": _limits(rule, " ".join(told.sections.values())),
    }


def _limits(rule: type[Rule], text: str) -> dict[str, float]:
    """The numbers behind the names that a rule's text has in capitals: LIMIT, PATIENCE."""
    known = vars(sys.modules[rule.__module__])
    named = dict.fromkeys(re.findall(r"\b[A-Z][A-Z_]{2,}\b", text))
    numbers = {name: known.get(name) for name in named}
    return {name: value for name, value in numbers.items() if isinstance(value, int | float) and not isinstance(value, bool)}


def statistics_json() -> list[dict[str, Any]]:
    """Every statistic of every quantity, with what its tooltip says; those of outputs last."""
    entries = []
    for name in (*all_names(), *all_names(OF_OUTPUTS)):
        quantity, statistic = parse(name)
        entries.append(
            {
                "name": name,
                "quantity": quantity.word,
                "quantity_plain": QUANTITY_PLAIN.get(quantity.word, ""),
                "statistic": statistic.name,
                "symbol": statistic.symbol,
                "unit": statistic.unit,
                "formula": statistic.formula,
                "merge": statistic.merge,
                "plain": statistic.plain,
                "scale": statistic.scale,
                "source": statistic.source,
            }
        )
    return entries


def attempts_json(record: RunRecord) -> list[dict[str, Any]]:
    """Each attempt with the pause before it, where there are several."""
    pauses = pauses_of(record) if len(record.attempts) > 1 else {}
    return [dataclasses.asdict(one) | {"pause_seconds": pauses.get(one.number)} for one in record.attempts]
