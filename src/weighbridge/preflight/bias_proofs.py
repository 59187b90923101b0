"""What the graph of the loss proves about a place for a bias."""

from __future__ import annotations

from typing import Final

from weighbridge.diagnosis.affine import HOMOGENEOUS, constants_before, weight_of
from weighbridge.diagnosis.flow import Absorbed, absorbed
from weighbridge.lossgraph import AFFINE, Graph

# Where all that comes in is 0 these give 0: nothing behind them can make a constant. What is not known here might.
KEEPS_ZERO: Final = HOMOGENEOUS | {"Tanh", "Gelu", "Silu", "Mish", "Elu", "Hardtanh", "Hardswish"}


def products(graph: Graph, weight: str) -> tuple[int, ...]:
    """The nodes in which the parameter of this name is the matrix of a product or a convolution."""
    return tuple(i for i, node in enumerate(graph.nodes) if weight and node.op in AFFINE and weight_of(graph, i) == weight)


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
    ends = products(graph, weight)
    return not ends or any(constants_before(graph, end, KEEPS_ZERO) for end in ends)
