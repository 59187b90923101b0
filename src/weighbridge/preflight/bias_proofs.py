"""What the graph of the loss proves about a place for a bias."""

from __future__ import annotations

from typing import Final

from weighbridge.diagnosis.flow import Absorbed, absorbed
from weighbridge.lossgraph import RESHAPES, Graph

MATRICES: Final = {"Addmm": 2, "Mm": 1, "Bmm": 1, "Convolution": 1, "Linear": 1}  # which input is the matrix
# Where all that comes in is 0 these give 0: nothing behind them can make a constant. What is not known here might.
KEEPS_ZERO: Final = RESHAPES | {
    *("Relu", "Tanh", "Gelu", "Silu", "LeakyRelu", "Elu", "Hardtanh", "NativeDropout", "MaxPool2DWithIndices", "AvgPool2D"),
    *("AdaptiveAvgPool2D", "Neg", "Mul", "Add", "Sub", "T", "Transpose", "Permute", "Expand", "Slice", "Mean", "Sum", "Cat"),
}  # fmt: skip
ADDED: Final = ("Add", "Sub", "Cat")


def products(graph: Graph, weight: str) -> tuple[int, ...]:
    """The nodes in which the parameter of this name is the matrix of a product or a convolution."""
    return tuple(i for i, n in enumerate(graph.nodes) if n.op in MATRICES and _matrix(graph, i, MATRICES[n.op]) == weight)


def would_be_absorbed(graph: Graph, weight: str) -> Absorbed | None:
    """What would take a bias beside this weight out again, were there one. None where it may matter, or it is used twice."""
    ends = products(graph, weight)
    if len(ends) != 1:
        return None
    node = graph.nodes[ends[0]]
    return absorbed(graph, ends[0], frozenset({1 if node.op == "Convolution" else len(node.shape) - 1}))


def has_constant_before(graph: Graph, weight: str) -> bool:
    """Whether something before the layer could make a constant of its own: another bias, a norm's shift, an embedding, a
    sigmoid. False is a proof: zero in, zero out, whatever the weights."""
    waiting, seen = list(products(graph, weight)), set()
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
            if edge is None or edge[0] in seen or (MATRICES.get(node.op) == place and _matrix(graph, index, place)):
                continue
            if graph.nodes[edge[0]].parameter:
                return True  # added, or multiplied with: not a matrix
            seen.add(edge[0])
            waiting.append(edge[0])
    return False


def _matrix(graph: Graph, index: int, place: int) -> str:
    """The parameter that is this input of a product, looked for through transposes; empty where it is computed."""
    leaf = graph.behind(index, place, RESHAPES | {"T", "Transpose", "Permute"})
    return "" if leaf is None else graph.nodes[leaf].parameter
