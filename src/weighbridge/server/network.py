"""The modules as they are executed, and how the signal gets through: what each keeps of the differences between inputs on the
way forward, and of dL/dh on the way back.

A spine is a list of nodes in order of execution: modules with what they give. A container whose members are listed is left
out; one that is folded stands for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from weighbridge.catalog import parse
from weighbridge.diagnosis.kept import jsonable
from weighbridge.records import OF_OUTPUTS
from weighbridge.server.heat import domain_of_values, typical_of, worst_member
from weighbridge.server.layers import folded_name, is_bias, owner
from weighbridge.store.record import RunRecord, Tensor

FOLD_FROM: Final = 30  # nodes; more are folded where there are containers
DL_DH: Final = "activation_gradient.rms"


@dataclass(slots=True)
class Node:
    """One module, or one that stands for all below it."""

    model: str
    path: str
    output: Tensor
    parameters: list[Tensor] = field(default_factory=list)
    folded: int = 0  # modules that it stands for


def spine(record: RunRecord, fold: str, opened: Sequence[str]) -> list[Node]:
    """The nodes. `fold`: auto, none or modules; `opened`: containers whose members are listed all the same."""
    outputs = list({(t.model, owner(t)): t for t in reversed(record.outputs)}.values())[::-1]  # the first of each module
    paths = {(t.model, owner(t)) for t in outputs}
    inside = Counter((model, outer) for model, path in paths for outer in _around(path))
    containers = paths & inside.keys()
    is_folded = fold == "modules" or (fold == "auto" and len(paths - containers) > FOLD_FROM)
    closed = {
        key for key in containers if is_folded and key[1] == folded_name(key[1] + "/out") and key[1] and key[1] not in opened
    }
    nodes = []
    for tensor in outputs:
        key = (tensor.model, owner(tensor))
        hidden = any((key[0], outer) in closed for outer in _around(key[1]))
        if hidden or (key in containers and key not in closed):
            continue
        nodes.append(Node(*key, tensor, folded=inside[key] if key in closed else 0))
    _give_parameters(record, nodes)
    return nodes


def _around(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


def _give_parameters(record: RunRecord, nodes: Sequence[Node]) -> None:
    by_place: Mapping[tuple[str, str], Node] = {(node.model, node.path): node for node in nodes}
    for tensor in record.tensors:
        path = owner(tensor)
        for outer in [path, *reversed(_around(path))]:
            node = by_place.get((tensor.model, outer))
            if node is not None and (outer == path or node.folded or not _is_listed(by_place, tensor.model, outer)):
                node.parameters.append(tensor)
                break


def _is_listed(by_place: Mapping[tuple[str, str], Node], model: str, outer: str) -> bool:
    return any(key[0] == model and key[1].startswith(f"{outer}.") for key in by_place)


def network_at(record: RunRecord, statistic: str, step: int | None, fold: str, opened: Sequence[str]) -> dict[str, Any]:
    """The spine at one step: the chosen statistic of each node, and the gains of each layer with its activation."""
    last = max(record.steps - 1, 0)
    step = last if step is None else min(max(step, 0), last)
    nodes = spine(record, fold, opened)
    values = _values(record, nodes, statistic, step)
    spreads, spread_step = _spreads(record, nodes, step)
    gains = _gains(_groups(nodes), spreads, _reacts(record, nodes, step))
    bad = _at(record, f"{parse(statistic)[0].word}.nonfinite_count", step)
    members = [[node.output] if parse(statistic)[0] in OF_OUTPUTS else node.parameters for node in nodes]
    broken = [any(bad.get(tensor.id, 0.0) > 0 for tensor in mine) for mine in members]
    listed = [_as_json(node, value, has) for node, value, has in zip(nodes, values, broken, strict=True)]
    for place, (forward, backward) in gains.items():
        listed[place] |= {"forward": forward, "backward": backward}
    scale = parse(statistic)[1].scale
    kept = list(gains.values())
    told: dict[str, Any] = jsonable(
        {
            "step": step,
            "steps": _steps(record),
            "spread_step": spread_step,
            "statistic": statistic,
            "scale": scale,
            "domain": domain_of_values(np.array(values), scale, statistic),
            "nodes": listed,
            "folds": any(node.folded for node in nodes) or fold == "none" or bool(opened),
            "kinds": _kinds(nodes),
            "values": sum(t.count for t in record.tensors),
            "biases": sum(t.count for t in record.tensors if is_bias(t)),
            "forward": _told([forward for forward, _ in kept]),
            "backward": _told([backward for _, backward in kept]),
        }
    )
    return told


def gains_at(record: RunRecord, nodes: Sequence[Node], step: int) -> dict[int, tuple[float | None, float | None]]:
    """By place in `nodes` what each layer and its activation make of the signal forward and of dL/dh backward."""
    return _gains(_groups(nodes), _spreads(record, nodes, step)[0], _reacts(record, nodes, step))


def _reacts(record: RunRecord, nodes: Sequence[Node], step: int) -> np.ndarray:
    back = _at(record, DL_DH, step)
    return np.array([back.get(node.output.id, np.nan) for node in nodes])


def _as_json(node: Node, value: float, is_broken: bool) -> dict[str, Any]:
    weight = next((t for t in node.parameters if len(t.shape) > 1), None)
    return {
        "model": node.model,
        "path": node.path,
        "kind": node.output.module,
        "shape": list(weight.shape) if weight is not None and not node.folded else [],
        "gives": list(node.output.shape),
        "count": sum(t.count for t in node.parameters),
        "folded": node.folded,
        "value": value,
        "nonfinite": is_broken,
        "forward": None,
        "backward": None,
    }


def _kinds(nodes: Sequence[Node]) -> list[tuple[str, int]]:
    counts: dict[str, int] = {}
    for node in nodes:
        counts[node.output.module] = counts.get(node.output.module, 0) + 1
    return sorted(counts.items(), key=lambda kind: -kind[1])


def _steps(record: RunRecord) -> list[int]:
    """At which something can be seen: where units were counted."""
    found = np.unique(record.whole("units").column("step").to_numpy())
    steps = max(record.info.steps, 1)
    return [int(step) for step in found if step < steps]


def _at(record: RunRecord, statistic: str, step: int) -> dict[int, float]:
    """By tensor the last number at or before a step."""
    values, _ = record.at_or_before(step, statistic)
    return {tensor.id: value for tensor, value in zip(record.tensors_of(parse(statistic)[0]), values.tolist(), strict=True)}


def _values(record: RunRecord, nodes: Sequence[Node], statistic: str, step: int) -> list[float]:
    found = _at(record, statistic, step)
    quantity, one = parse(statistic)
    if quantity in OF_OUTPUTS:
        return [found.get(node.output.id, np.nan) for node in nodes]
    typical = typical_of(np.array([[value] for value in found.values()])) if found else np.array([np.nan])
    told = []
    for node in nodes:
        members = [t for t in node.parameters if not is_bias(t)] or node.parameters
        values = np.array([[found.get(t.id, np.nan)] for t in members])
        told.append(float(values[worst_member(values, one.scale, typical)[0], 0]) if len(values) else np.nan)
    return told


def _spreads(record: RunRecord, nodes: Sequence[Node], step: int) -> tuple[np.ndarray, int | None]:
    """Of each node's output how far its units stray between inputs: root of the mean of their variances.

    From rows that count one step only: over several, a step's change of the weights would pass for a difference of inputs.
    """
    found, latest = np.full(len(nodes), np.nan), None
    seen = record.units_seen(step)
    for i, node in enumerate(nodes):
        row = seen.get(node.output.id)
        if row is not None and row.n > 1:
            variance = row.sum_sq / row.n - np.square(row.sum / row.n)
            found[i] = float(np.sqrt(np.maximum(variance, 0.0).mean()))
            latest = row.step if np.isfinite(found[i]) else latest
    return found, latest


def _groups(nodes: Sequence[Node]) -> list[list[int]]:
    """A layer with parameters and what follows it without any (its activation, a pooling) are one."""
    groups: list[list[int]] = []
    for i, node in enumerate(nodes):
        if node.parameters or not groups:
            groups.append([i])
        else:
            groups[-1].append(i)
    return groups


def _gains(
    groups: Sequence[Sequence[int]], spreads: np.ndarray, reacts: np.ndarray
) -> dict[int, tuple[float | None, float | None]]:
    """By the first node of each group: spread behind it over spread before it, and dL/dh before it over that behind it."""
    gains: dict[int, tuple[float | None, float | None]] = {}
    for before, group in zip([None, *groups], groups, strict=False):
        ends = (before[-1], group[-1]) if before is not None else None
        forward = _ratio(spreads[ends[1]], spreads[ends[0]]) if ends else None
        backward = _ratio(reacts[ends[0]], reacts[ends[1]]) if ends else None
        gains[group[0]] = (forward, backward)
    return gains


def _ratio(over: float, under: float) -> float | None:
    return float(over / under) if over > 0 and under > 0 and np.isfinite([over, under]).all() else None


def _told(gains: Sequence[float | None]) -> dict[str, float | None]:
    """Median gain of one layer, and of all of them together."""
    known = [gain for gain in gains if gain is not None]
    if not known:
        return {"median": None, "all": None}
    return {"median": float(np.median(known)), "all": float(np.exp(np.sum(np.log(known))))}
