"""Units that an activation gives 0 for the whole batch, or holds where it is flat; and units that start as others do."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn

from weighbridge.capture.graphwalk import saved
from weighbridge.lossgraph import RESHAPES, Graph

EQUAL: Final = 1e-6  # of the largest gradient of the model: rows that differ by less differ by rounding
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


def symmetric_share(module: nn.Module, largest: float) -> float | None:
    """Units with the weights and the bias of another one, not all 0, and with its gradient: they stay alike for ever.

    `largest`: absolute value of all gradients of the model. None of modules whose units are not known.
    """
    if not isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return None
    weight, bias = module.weight, module.bias
    if weight.grad is None or (bias is not None and bias.grad is None):
        return None
    rows = torch.cat([weight.detach().flatten(1), *([] if bias is None else [bias.detach()[:, None]])], 1)
    slopes = torch.cat([weight.grad.flatten(1), *([] if bias is None or bias.grad is None else [bias.grad[:, None]])], 1)
    return float(_alike(rows, slopes, EQUAL * largest).double().mean())


def _alike(rows: torch.Tensor, slopes: torch.Tensor, limit: float) -> torch.Tensor:
    """Mask of the rows that another one equals, their slopes within the limit of each other. Sums first: most differ there."""
    found = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    _, by_sum, counts = torch.unique(rows.double().sum(1), return_inverse=True, return_counts=True)
    places = torch.nonzero((counts[by_sum] > 1) & rows.any(1)).flatten()
    if len(places):
        _, group = torch.unique(rows[places], dim=0, return_inverse=True)
        for one in range(int(group.max()) + 1):
            mine = places[group == one]
            near = (slopes[mine] - slopes[mine[0]]).abs().amax(1) <= limit
            found[mine[near]] = int(near.sum()) > 1
    return found


def _share(flags: torch.Tensor) -> float:
    return float(flags.double().mean())
