"""How many attentions lie on every way from what comes in to the loss, as the graph of the loss tells.

A residual connection is a way around an attention. Without one, what positions differ by has to pass all of them.
"""

from __future__ import annotations

import math
from typing import Final

from weighbridge.diagnosis.flow import ATTENTION, SOFTMAXES
from weighbridge.lossgraph import AFFINE, PARTS, Graph, Node

PRODUCTS: Final = frozenset({"Bmm", "Mm", "Baddbmm"})
TOGETHER: Final = frozenset({"Mean", "Sum", "Amax", "Max", "Logsumexp"})
KEEPS_WEIGHTS: Final = PARTS | {"Expand", "Mul", "Div", "NativeDropout", "Dropout"}  # of attention, on their way to the values


def attentions(graph: Graph, since_pools: bool = True) -> int:
    """The least number on any way from data to the loss; 0 also where nothing is known.

    since_pools: count anew behind what takes all positions together (a mean over them, an attention with one query):
    an answer for the whole of them does not ask what they differ by.

    >>> attentions(Graph(()))
    0
    """
    least: list[float] = []
    weights: list[bool] = []  # is it what a softmax gives, as it is or in part?
    for node in graph.nodes:
        found = _least(node, least, weights)
        least.append(0.0 if since_pools and math.isfinite(found) and _pools(graph, node, weights) else found)
        weights.append(node.op in SOFTMAXES or (node.op in KEEPS_WEIGHTS and _is_any(node, weights)))
    found = min((least[root] for root in graph.roots), default=0.0)
    return int(found) if math.isfinite(found) else 0


def _is_any(node: Node, weights: list[bool]) -> bool:
    return any(weights[edge[0]] for edge in node.inputs if edge is not None)


def _is_attention(node: Node, weights: list[bool]) -> bool:
    return node.op.startswith(ATTENTION) or (node.op in PRODUCTS and _is_any(node, weights))


def _pools(graph: Graph, node: Node, weights: list[bool]) -> bool:
    if _is_attention(node, weights):
        return len(node.shape) > 1 and node.shape[-2] == 1
    edge = node.inputs[0] if node.inputs else None
    if node.op not in TOGETHER or edge is None or not node.shape:
        return False
    axes = len(graph.nodes[edge[0]].shapes[edge[1]])
    named = node.facts.get("dim", ())
    dims = {dim % max(1, axes) for dim in ((named,) if isinstance(named, int) else named)}
    return any(0 < dim < axes - 1 for dim in dims)


def _least(node: Node, least: list[float], weights: list[bool]) -> float:
    """inf = no data come this way: it is made of parameters only."""
    if node.parameter:
        return math.inf
    if node.op == "Embedding":
        return 0.0
    is_attention = _is_attention(node, weights)
    inputs = node.inputs
    if is_attention:  # values; a softmax's part is made of the same
        inputs = tuple(edge for edge in inputs if edge is None or not weights[edge[0]])
    elif node.op in AFFINE:
        inputs = inputs[AFFINE[node.op][0] :][:1]
    known = min((least[edge[0]] for edge in inputs if edge is not None), default=math.inf)
    if math.isinf(known) and None in inputs:
        known = 0.0
    return known + is_attention
