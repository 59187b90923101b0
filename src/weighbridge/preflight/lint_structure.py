"""What the order of operations shows: an output activation that the loss applies again, affine layers with nothing between.

Both are read off the autograd graph, so functional calls are seen, and modules that are declared and never called are not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from weighbridge.diagnosis import Finding, ValueEvidence
from weighbridge.preflight.finding import finding, in_code, module_of
from weighbridge.preflight.records import RESHAPES, Graph, Trial

SIGMOID_LOSS: Final = "BinaryCrossEntropyWithLogits"
SAME_LINE: Final = RESHAPES | {"NativeDropout"}  # between two affine layers these leave all linear
MATRICES: Final = {"Addmm": (1, 2), "Mm": (0, 1), "Convolution": (0, 1), "Linear": (0, 1)}  # input, weight
RUNS_ITSELF: Final = (
    "Attention",
    "LSTM",
    "GRU",
    "RNN",
)  # modules whose inner products are followed by more than the graph shows


def doubled(trial: Trial) -> Iterator[Finding]:
    """A softmax before cross-entropy, a sigmoid before BCE-with-logits: the loss applies it again.

    Cross-entropy of C classes then cannot fall below ln(1 + (C-1)/e), 1.46 for 10 classes. LogSoftmax twice changes nothing.
    """
    graph = trial.graph
    for index, node in enumerate(graph.nodes):
        before = graph.behind(index)
        first = "" if before is None else graph.nodes[before].op
        if before is None or (first, node.op) not in DOUBLES:
            continue
        dims = [graph.nodes[i].facts.get("dim", 0) for i in (before, index)]
        if "Softmax" in first and "Softmax" in node.op and dims[0] % len(node.shape) != dims[1] % len(node.shape):
            continue
        yield _doubled(graph, before, index)


DOUBLES: Final = frozenset(
    {
        ("Softmax", "LogSoftmax"),
        ("LogSoftmax", "LogSoftmax"),
        ("Sigmoid", "LogSoftmax"),
        ("Sigmoid", SIGMOID_LOSS),
        ("Sigmoid", "Sigmoid"),
        ("Softmax", SIGMOID_LOSS),
    }
)


def _doubled(graph: Graph, before: int, index: int) -> Finding:
    first, second = graph.nodes[before], graph.nodes[index]
    place = first.module
    fix = f"Take the {first.op.lower()} in {in_code(place)} out; the loss wants what comes before it."
    if first.op == "LogSoftmax":
        message = "log_softmax is applied to the output of a log_softmax: the second changes nothing and costs time."
        return finding("note", "proof", place, message, fix, ValueEvidence("times applied", 2, limit=1), depth=before)
    if first.op == "Softmax" and second.op == "LogSoftmax":
        classes = second.shape[second.facts.get("dim", -1)]
        floor = math.log1p((classes - 1) / math.e)
        message = f"Softmax before cross-entropy, which applies it again: the loss cannot fall below {floor:.3f}."
        return finding(
            "error", "proof", place, message, fix, ValueEvidence("least possible loss", floor, limit=0.0), depth=before
        )
    again = {"LogSoftmax": "cross-entropy", SIGMOID_LOSS: "BCE with logits"}.get(second.op, second.op.lower())
    message = f"{first.op} before {again}, which wants unbounded inputs and gets numbers in [0, 1]: its gradients are small."
    return finding("error", "proof", place, message, fix, ValueEvidence("largest possible input", 1.0), depth=before)


def without_activation(trial: Trial) -> Iterator[Finding]:
    """Two affine layers with only reshapes, dropout or factors between: together one affine layer.

    Excused: a middle narrower than both sides (a bottleneck), a value that is used elsewhere too or is a sum (residuals,
    several heads), grouped convolutions (depthwise-separable), layers inside attention or recurrent modules.
    """
    shapes = {p.name: p.shape for p in trial.parameters}
    for index, node in enumerate(trial.graph.nodes):
        if node.op not in MATRICES:
            continue
        first = _single_source(trial, index)
        if first is None:
            continue
        one, two = _weight(trial.graph, first), _weight(trial.graph, index)
        if one and two and one != two and not _is_excused(trial, first, index, shapes[one], shapes[two]):
            yield _linear_pair(trial, one, two, index)


def _single_source(trial: Trial, index: int) -> int | None:
    """The affine layer whose output, and nothing else, is the input of this one."""
    graph = trial.graph
    edge = graph.nodes[index].inputs[MATRICES[graph.nodes[index].op][0]]
    while edge is not None:
        node = graph.nodes[edge[0]]
        if len(graph.users[edge[0]]) != 1:
            return None
        if node.op in MATRICES:
            return edge[0]
        is_dropout = trial.kinds.get(node.module, "").startswith("Dropout")
        if not (node.op in SAME_LINE or is_dropout or _adds_parameter(graph, edge[0]) or _is_factor(graph, edge[0])):
            return None
        edge = node.inputs[0] if node.inputs[0] is not None else node.inputs[1]
    return None


def _adds_parameter(graph: Graph, index: int) -> bool:
    node = graph.nodes[index]
    return node.op == "Add" and node.inputs[0] is not None and _is_vector(graph, node.inputs[1])


def _is_vector(graph: Graph, edge: tuple[int, int] | None) -> bool:
    return edge is not None and bool(graph.nodes[edge[0]].parameter) and len(graph.nodes[edge[0]].shape) == 1


def _is_factor(graph: Graph, index: int) -> bool:
    node = graph.nodes[index]
    return node.op in ("Mul", "Div") and node.inputs[1] is None and node.facts.get("other_shape") == ()


def _weight(graph: Graph, index: int) -> str:
    """The name of the parameter that is the matrix of an affine layer; empty where it is computed."""
    place = MATRICES[graph.nodes[index].op][1]
    leaf = graph.behind(index, place, RESHAPES | {"T", "Transpose"})
    return "" if leaf is None else graph.nodes[leaf].parameter


def _is_excused(trial: Trial, first: int, second: int, one: tuple[int, ...], two: tuple[int, ...]) -> bool:
    nodes = trial.graph.nodes
    if any(nodes[i].facts.get("groups", 1) != 1 or nodes[i].facts.get("transposed") for i in (first, second)):
        return True
    names = [module_of(nodes[i].parameter) for i in (first, second)] + [nodes[first].module, nodes[second].module]
    kinds = " ".join(trial.kinds.get(part, "") for name in names for part in (name, module_of(name)))
    if any(word in kinds for word in RUNS_ITSELF):
        return True
    middle = nodes[first].shape[1 if nodes[first].op == "Convolution" else -1]
    sides = (_inner(one, middle), _outer(nodes[second].op, nodes[second].shape))
    return middle < min(sides)


def _inner(shape: tuple[int, ...], middle: int) -> int:
    """Inputs of the first layer: the other axis of its matrix, whichever way it is kept."""
    return shape[1] if shape[0] == middle else shape[0]


def _outer(op: str, shape: tuple[int, ...]) -> int:
    return shape[1 if op == "Convolution" else -1]


def _linear_pair(trial: Trial, one: str, two: str, depth: int) -> Finding:
    first, second = module_of(one) or one, module_of(two) or two
    pair = f"{in_code(first)} feeds {in_code(second)}"
    message = f"{pair} with no activation between: two affine layers in a row can do no more than one."
    fix = f"Put an activation between them, x = F.relu({in_code(first)}(x)), or leave one of them out."
    counts = {p.name: p.count for p in trial.parameters}
    evidence = ValueEvidence("weights in the two matrices", counts[one] + counts[two])
    return finding("warning", "proof", second, message, fix, evidence, depth=depth)
