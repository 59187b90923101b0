"""What the graph of the loss proves about a place for a bias."""

from __future__ import annotations

from typing import Final

from torch import nn

from weighbridge.preflight.bias_slots import Slot
from weighbridge.preflight.flow import Absorbed, absorbed
from weighbridge.preflight.records import RESHAPES, Graph

MATRICES: Final = {"Addmm": 2, "Mm": 1, "Bmm": 1, "Convolution": 1, "Linear": 1}  # which input is the matrix
# Where all that comes in is 0 these give 0: nothing behind them can make a constant. What is not known here might.
KEEPS_ZERO: Final = RESHAPES | {
    *("Relu", "Tanh", "Gelu", "Silu", "LeakyRelu", "Elu", "Hardtanh", "NativeDropout", "MaxPool2DWithIndices", "AvgPool2D"),
    *("AdaptiveAvgPool2D", "Neg", "Mul", "Add", "Sub", "T", "Transpose", "Permute", "Expand", "Slice", "Mean", "Sum", "Cat"),
}  # fmt: skip
ADDED: Final = ("Add", "Sub", "Cat")


def outputs(graph: Graph, slot: Slot) -> tuple[int, ...]:
    """The nodes that make what a module gives: those with a user outside of it."""
    own = {i for i, node in enumerate(graph.nodes) if node.module == slot.layer and not node.parameter}
    return tuple(sorted(i for i in own if i in graph.roots or any(user not in own for user, _ in graph.users[i])))


def would_be_absorbed(graph: Graph, slot: Slot) -> Absorbed | None:
    """What would take a bias out again, were there one. None where it may matter, or the module ran more than once."""
    ends = outputs(graph, slot)
    if len(ends) != 1 or not isinstance(slot.module, (nn.Linear, nn.modules.conv._ConvNd)):
        return None
    is_convolution = isinstance(slot.module, nn.modules.conv._ConvNd)
    return absorbed(graph, ends[0], frozenset({1 if is_convolution else len(graph.nodes[ends[0]].shape) - 1}))


def has_constant_before(graph: Graph, slot: Slot) -> bool:
    """Whether something before the layer could make a constant of its own: another bias, a norm's shift, an embedding, a
    sigmoid. False is a proof: zero in, zero out, whatever the weights."""
    waiting, seen = list(outputs(graph, slot)), set()
    if not waiting:
        return True
    while waiting:
        index = waiting.pop()
        node = graph.nodes[index]
        if node.op not in MATRICES and node.op not in KEEPS_ZERO:
            return True
        if node.op in ADDED and None in node.inputs:
            return True  # a number, a buffer, or the batch: the graph does not say which
        for place, edge in enumerate(node.inputs):
            if edge is None or edge[0] in seen:
                continue
            if _is_weight(graph, index, place):
                continue
            if graph.nodes[edge[0]].parameter:
                return True  # added, or multiplied with: not a matrix
            seen.add(edge[0])
            waiting.append(edge[0])
    return False


def _is_weight(graph: Graph, index: int, place: int) -> bool:
    """Whether an input of a matrix product is a parameter, looked for through transposes."""
    if MATRICES.get(graph.nodes[index].op) != place:
        return False
    leaf = graph.behind(index, place, RESHAPES | {"T", "Transpose", "Permute"})
    return leaf is not None and bool(graph.nodes[leaf].parameter)
