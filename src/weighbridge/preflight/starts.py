"""The loss of the first batch beside the trivial predictor's, and the scale of what comes in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from weighbridge.preflight.graph import saved
from weighbridge.preflight.observed import Observed, rms
from weighbridge.preflight.records import Graph, Scale, Start


def starts(graph: Graph, nodes: tuple[Any, ...]) -> Iterator[Start]:
    """One record per cross-entropy with class indices, and per mean squared error. Before the backward pass."""
    for index, node in enumerate(graph.nodes):
        if node.op in ("NllLoss", "NllLoss2D"):
            before = graph.behind(index)
            if before is not None and graph.nodes[before].op == "LogSoftmax":
                yield from _cross_entropy(graph, nodes, index, before)
        elif node.op == "MseLoss":
            yield from _squared_error(graph, nodes, index)


def _cross_entropy(graph: Graph, nodes: tuple[Any, ...], index: int, before: int) -> Iterator[Start]:
    logs, targets = saved(nodes[index], "self"), saved(nodes[index], "target")
    if logs is None or targets is None or logs.ndim not in (2, 4):
        return
    ignored = nodes[index]._saved_ignore_index
    ignored = ignored - 2**64 if ignored >= 2**63 else ignored
    rows = logs.movedim(1, -1).reshape(-1, logs.shape[1]).double()
    wanted = targets.reshape(-1)
    rows, wanted = rows[wanted != ignored], wanted[wanted != ignored]
    if len(wanted) < 2:
        return
    losses = -rows.gather(1, wanted[:, None])[:, 0]
    spread = float((rows - rows.mean(1, keepdim=True)).square().mean().sqrt())
    place = _maker(graph, before)
    yield Start("cross-entropy", place, float(losses.mean()), math.log(logs.shape[1]), _error(losses), len(losses), spread)


def _squared_error(graph: Graph, nodes: tuple[Any, ...], index: int) -> Iterator[Start]:
    given, targets = saved(nodes[index], "self"), saved(nodes[index], "target")
    if given is None or targets is None or targets.numel() < 2 or given.shape != targets.shape:
        return
    given, targets = given.double().flatten(), targets.double().flatten()
    losses = (given - targets).square()
    variance = float(targets.var(correction=0))
    if not variance > 0:
        return
    place = _maker(graph, index)
    mean, std = float(targets.mean()), math.sqrt(variance)
    made = float(given.std(correction=0))
    yield Start("squared error", place, float(losses.mean()), variance, _error(losses), len(losses), made, mean, std)


def _error(losses: torch.Tensor) -> float:
    return float(losses.std() / math.sqrt(len(losses)))


def _maker(graph: Graph, index: int) -> str:
    before = graph.behind(index)
    return "" if before is None else graph.nodes[before].module


NORMS = ("NativeBatchNorm", "CudnnBatchNorm", "NativeLayerNorm", "NativeGroupNorm", "FusedRmsNorm")


def first_scale(graph: Graph, observed: Observed, kinds: Mapping[str, str]) -> Scale | None:
    """Of the first layer with weights, where it takes the batch's numbers as they are and no norm follows at once."""
    for call in sorted(observed.calls, key=lambda call: call.begin):
        if kinds.get(call.module, "") not in ("Linear", "Conv1d", "Conv2d", "Conv3d"):
            continue
        given = call.first_input
        if given is None or not given.numel() or call.output_rms is None or _is_normed(graph, call.module):
            return None
        axis = 1 if kinds[call.module] != "Linear" else -1
        by_feature = given.double().movedim(axis, -1).reshape(-1, given.shape[axis]).square().mean(0).sqrt()
        return Scale(call.module, rms(given), float(by_feature.max()), call.output_rms, given.shape[0])
    return None


def _is_normed(graph: Graph, module: str) -> bool:
    made = [i for i, node in enumerate(graph.nodes) if node.module == module]
    users = {user for i in made for user, _ in graph.users[i] if user not in made}
    return any(graph.nodes[user].op in NORMS for user in users)
