"""Units that an activation gives 0 for the whole batch, or holds where it is flat."""

from __future__ import annotations

from typing import Any, Final

import torch

from weighbridge.capture.graphwalk import saved
from weighbridge.lossgraph import RESHAPES, Graph

FLAT_SLOPE: Final = 1e-2  # of tanh at |x| = 3, of sigmoid at |x| = 4.6
MOST_OF_BATCH: Final = 0.95
BY_CHANNEL: Final = frozenset({"Convolution", "NativeBatchNorm", "CudnnBatchNorm", "NativeGroupNorm", "MaxPool2DWithIndices"})


def dead_and_saturated(graph: Graph, nodes: tuple[Any, ...]) -> dict[int, tuple[float | None, float | None]]:
    """Of each activation's node: the share of dead units (ReLU), of saturated ones (tanh, sigmoid)."""
    found: dict[int, tuple[float | None, float | None]] = {}
    for index, node in enumerate(graph.nodes):
        if node.op not in ("Relu", "Tanh", "Sigmoid"):
            continue
        values = saved(nodes[index], "result")
        if values is None or values.ndim < 2 or not values.numel():
            continue
        units = values.detach().movedim(_unit_axis(graph, index), -1).reshape(-1, values.shape[_unit_axis(graph, index)])
        found[index] = (_share((units <= 0).all(0)), None) if node.op == "Relu" else (None, _saturated(node.op, units))
    return found


def producer(graph: Graph, index: int) -> int | None:
    """The node whose output an activation takes, reshapes left aside."""
    return graph.behind(index, 0, RESHAPES)


def _unit_axis(graph: Graph, index: int) -> int:
    before = graph.behind(index)
    return 1 if before is not None and graph.nodes[before].op in BY_CHANNEL else -1


def _saturated(op: str, units: torch.Tensor) -> float:
    slope = 1 - units.double() ** 2 if op == "Tanh" else units.double() * (1 - units.double())
    return _share((slope < FLAT_SLOPE).double().mean(0) > MOST_OF_BATCH)


def _share(flags: torch.Tensor) -> float:
    return float(flags.double().mean())
