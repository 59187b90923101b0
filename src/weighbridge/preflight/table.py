"""The table of layers, in the order in which they ran."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from weighbridge.diagnosis.graphrule import module_of
from weighbridge.lossgraph import Graph
from weighbridge.preflight.observed import Call, Observed
from weighbridge.preflight.records import Layer
from weighbridge.preflight.units import dead_and_saturated, producer, symmetric_share

Shares = Mapping[str, tuple[float | None, float | None]]


def shares_by_module(graph: Graph, nodes: tuple[Any, ...]) -> Shares:
    """Dead and saturated shares by the module that ran the activation, and by the one whose output it took."""
    found: dict[str, tuple[float | None, float | None]] = {}
    for index, shares in dead_and_saturated(graph, nodes).items():
        before = producer(graph, index)
        modules = {graph.nodes[index].module} | ({graph.nodes[before].module} if before is not None else set())
        for module in modules:
            found.setdefault(module, shares)
    return found


def table(model: torch.nn.Module, observed: Observed, shares: Shares, largest: float) -> tuple[Layer, ...]:
    """One row per module that has parameters of its own or none inside it, at its first call. After the backward pass.

    `largest`: absolute value of all gradients.
    """
    calls: dict[str, list[Call]] = {}
    for call in sorted(observed.calls, key=lambda call: (call.begin, -call.end)):
        calls.setdefault(call.module, []).append(call)
    modules = dict(model.named_modules())
    return tuple(_row(name, modules[name], ran, shares, largest) for name, ran in calls.items() if _is_layer(modules[name]))


def with_updates(model: torch.nn.Module, layers: Iterable[Layer], make: Callable[[], Mapping[str, float]]) -> Iterator[Layer]:
    """The rows with the size of the next update. `make` gives the rms of each parameter's, and changes the parameters."""
    before = {name: _square(p) for name, p in model.named_parameters()}
    counts = {name: p.numel() for name, p in model.named_parameters()}
    updates = make()
    for one in layers:
        names = [name for name in updates if module_of(name) == one.module and "bias" not in name.rpartition(".")[2]]
        moved, size = sum(updates[name] ** 2 * counts[name] for name in names), sum(before[name] for name in names)
        yield dataclasses.replace(one, update_ratio=math.sqrt(moved / size) if size else None)


def _square(parameter: torch.Tensor) -> float:
    return float(parameter.detach().double().square().sum())


def _is_layer(module: torch.nn.Module) -> bool:
    return bool(module._parameters) or not any(True for _ in module.children())


def _row(name: str, module: torch.nn.Module, calls: list[Call], shares: Shares, largest: float) -> Layer:
    first = calls[0]
    own = dict(module.named_parameters(recurse=False))
    weights = _moments([p for key, p in own.items() if "bias" not in key])
    biases = _moments([p for key, p in own.items() if "bias" in key])
    dead, saturated = shares.get(name, (None, None))
    return Layer(
        module=name,
        kind=type(module).__name__,
        output_shape=first.shape,
        calls=len(calls),
        parameters=sum(p.numel() for p in own.values()),
        has_bias=bool([key for key in own if "bias" in key]) if _may_have_bias(module) else None,
        weight_mean=weights[0],
        weight_std=weights[1],
        bias_mean=biases[0],
        bias_std=biases[1],
        output_rms=first.output_rms,
        forward_gain=_ratio(first.output_rms, first.input_rms),
        gradient_rms=first.gradient_rms,
        backward_gain=_ratio(first.input_gradient_rms, first.gradient_rms),
        dead_share=dead,
        saturated_share=saturated,
        symmetric_share=symmetric_share(module, largest),
    )


def _may_have_bias(module: torch.nn.Module) -> bool:
    return hasattr(module, "bias") or any("bias" in key for key in module._parameters)


def _moments(parameters: list[torch.nn.Parameter]) -> tuple[float | None, float | None]:
    """Mean and standard deviation (of the numbers, not an estimate) over all of them, in float64."""
    if not parameters:
        return None, None
    values = torch.cat([p.detach().double().flatten() for p in parameters])
    return float(values.mean()), float(values.std(correction=0))


def _ratio(top: float | None, bottom: float | None) -> float | None:
    return top / bottom if top is not None and bottom else None
