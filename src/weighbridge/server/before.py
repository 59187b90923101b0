"""Is this network able to learn? What a run knows of the time before its first update, layer by layer.

From the run itself: the graph of its first loss (table `graph`), and what was weighed at its first step: weights as they were
before the update, outputs and dL/dh of the first batch, units that never fired in it. From reports that were attached
(`run.attach(weighbridge.inspect(...))`, `run.attach(weighbridge.biases(...))`): what the run does not know. What nobody knows
is null, and `ask` says which line finds it out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from weighbridge.diagnosis.kept import jsonable
from weighbridge.firstpass import FirstPass
from weighbridge.server.biasworth import BIASES, Verdicts, first_pass, from_graph, from_report, kept_at_first, objects_in
from weighbridge.server.layers import Layer, is_bias, layers_of
from weighbridge.server.network import DL_DH, Node, gains_at, spine
from weighbridge.store.record import RunRecord

DEAD_BEHIND: Final = frozenset({"ReLU", "ReLU6", "Threshold"})  # modules whose 0 lets no gradient through
INSPECT: Final = "run.attach(weighbridge.inspect(model, (inputs, targets), loss_fn, optimizer))  # before the training"
STATISTICS: Final = ("parameter.mean", "parameter.std", "update.ratio")


def before_of(record: RunRecord) -> dict[str, Any]:
    """Ready for JSON."""
    first, attached = first_pass(record), attached_to(record)
    layers = layers_of(record)
    rows = _rows(record, layers)
    _add_verdicts(rows, from_graph(first, kept_at_first(record)), attached.get("biases"))
    _add_inspection(rows, attached.get("inspection"))
    told: dict[str, Any] = jsonable(
        {
            "loss": _loss(record, first, attached.get("inspection")),
            "layers": list(rows.values()),
            "has_graph": first is not None,
            "inspected": "inspection" in attached,
            "biases": "biases" in attached,
            "findings": objects_in(attached.get("inspection"), "findings"),
            "ask": {"inspect": INSPECT, "biases": BIASES},
        }
    )
    return told


def attached_to(record: RunRecord) -> dict[str, dict[str, Any]]:
    """The last report of each kind: "inspection", "biases"."""
    return {event.kind: dict(event.detail) for event in record.events() if event.kind in ("inspection", "biases")}


def _loss(record: RunRecord, first: FirstPass | None, inspection: Mapping[str, Any] | None) -> dict[str, Any]:
    starts = first.starts if first is not None else ()
    losses = record.losses()
    told: dict[str, Any] = {"first": None, "guess": None, "kind": "", "samples": None, "error": None}
    if len(losses.values) and losses.steps[0] == 0:
        told["first"] = float(losses.values[0])
    elif inspection is not None:
        told["first"] = inspection.get("loss")
    if len(starts) == 1:
        start = starts[0]
        told |= {"kind": start.kind, "samples": start.samples, "error": start.error, "first": start.loss}
        told["guess"] = start.trivial if math.isfinite(start.trivial) else None
    return told


def _rows(record: RunRecord, layers: list[Layer]) -> dict[str, dict[str, Any]]:
    """One row for each layer that has parameters, by its path (with its model, where there are several)."""
    weighed = record.at_step(0, STATISTICS) if record.first_step == 0 else {}
    of = {t.id: {name: float(values[i]) for name, values in weighed.items()} for i, t in enumerate(record.tensors)}
    signal = {t.id: float(v) for t, v in zip(record.outputs, _first(record, "activation.rms"), strict=True)}
    back = {t.id: float(v) for t, v in zip(record.outputs, _first(record, DL_DH), strict=True)}
    nodes = spine(record, "none", ())
    gains, dead = gains_at(record, nodes, 0), _dead(record, nodes)
    place = {(node.model, node.path): i for i, node in enumerate(nodes)}
    several = len({layer.model for layer in layers}) > 1
    rows = {}
    for layer in (one for one in layers if one.parameters):
        weight = next((t for t in layer.parameters if not is_bias(t)), None)
        bias = next((t for t in layer.parameters if is_bias(t)), None)
        node, output = place.get((layer.model, layer.path)), layer.outputs[0] if layer.outputs else None
        forward, backward = gains.get(node, (None, None)) if node is not None else (None, None)
        start = of.get(weight.id, {}) if weight is not None else {}
        key = f"{layer.model}:{layer.path}" if several else layer.path
        rows[key] = {
            "path": key,
            "kind": layer.kind,
            "shape": list(weight.shape) if weight is not None else [],
            "gives": list(output.shape) if output is not None else [],
            "values": sum(t.count for t in layer.parameters),
            "weight_mean": _number(start.get("parameter.mean")),
            "weight_std": _number(start.get("parameter.std")),
            "update_ratio": _number(start.get("update.ratio")),
            "output_rms": _number(signal.get(output.id)) if output is not None else None,
            "back_rms": _number(back.get(output.id)) if output is not None else None,
            "forward": forward,
            "backward": backward,
            "dead": dead.get(node) if node is not None else None,
            "saturated": None,
            "bias": bias.name if bias is not None else None,
            "bias_std": _number(of.get(bias.id, {}).get("parameter.std")) if bias is not None else None,
            "verdict": None,
        }
    return rows


def _first(record: RunRecord, statistic: str) -> np.ndarray:
    if record.first_step != 0:
        return np.full(len(record.outputs), np.nan)
    return record.at_step(0, [statistic])[statistic]


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _dead(record: RunRecord, nodes: list[Node]) -> dict[int, float]:
    """By a layer's place: the share of its units that were 0 for the whole first batch behind the ReLU that follows it."""
    found: dict[int, float] = {}
    layer, seen = None, record.units_seen(0)
    for i, node in enumerate(nodes):
        layer = i if node.parameters else layer
        if node.output.module in DEAD_BEHIND and layer is not None:
            counted = seen.get(node.output.id)
            if counted is not None and counted.n > 1:
                found[layer] = float((counted.active == 0).mean())
            layer = None
    return found


def _add_verdicts(rows: dict[str, dict[str, Any]], proofs: Verdicts, report: Mapping[str, Any] | None) -> None:
    """Of each bias, what is proved or measured; a proof comes first."""
    for path, verdict in proofs.items():
        if path in rows and rows[path]["bias"] == verdict["name"]:
            rows[path]["verdict"] = verdict
    for path, verdict in from_report(report).items():
        if path in rows and rows[path]["verdict"] is None:
            rows[path]["verdict"] = verdict


def _add_inspection(rows: dict[str, dict[str, Any]], inspection: Mapping[str, Any] | None) -> None:
    """Fills what the run does not know itself."""
    names = {"weight_mean": "weight_mean", "weight_std": "weight_std", "output_rms": "output_rms", "dead": "dead_share"}
    names |= {"saturated": "saturated_share", "update_ratio": "update_ratio", "back_rms": "gradient_rms"}
    for layer in objects_in(inspection, "layers"):
        row = rows.get(str(layer.get("module")))
        if row is not None:
            row |= {mine: layer.get(its) for mine, its in names.items() if row[mine] is None}
