"""Records as JSON. Numbers that JSON cannot hold travel as the words NaN, Infinity and -Infinity."""

from __future__ import annotations

import math
from typing import Any

from weighbridge.catalog import all_names, parse
from weighbridge.store.record import RunRecord, Tensor

QUANTITY_PLAIN = {
    "parameter": "the values themselves, as they were before the step",
    "gradient": "the gradient that the optimizer used",
    "update": "what the step really changed: values after minus values before",
}


def number(value: float | None) -> float | str | None:
    """A float that survives JSON."""
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def run_json(name: str, record: RunRecord) -> dict[str, Any]:
    """What the list and the head of a run show."""
    info = record.info
    return {
        "name": name,
        "state": info.state,
        "started": info.started.isoformat(),
        "last_flush": info.last_flush.isoformat() if info.last_flush else None,
        "steps": info.steps,
        "tensors": info.tensors,
        "size_bytes": info.size_bytes,
        "last_loss": number(info.last_loss),
    }


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


def statistics_json() -> list[dict[str, Any]]:
    """Every statistic of every quantity recorded today, with what its tooltip says."""
    entries = []
    for name in all_names():
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
