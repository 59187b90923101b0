"""What a loss is made of, and with which sign: read from its graph.

From the root back, through means, sums, differences, signs and factors, to what is known: errors, which cannot be negative for
targets that fit them; probabilities and their logarithms; penalties, which know the weights alone. A sign is known where every
factor on the way is (a minus, `1 - x`, a constant whose smallest number is not below 0).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from weighbridge.diagnosis.lossforms import (
    DIAGONAL,
    MOST,
    SQUASHED,
    all_behind,
    is_likeness,
    is_log_share,
    is_overlap,
    is_positive,
)
from weighbridge.lossgraph import AFFINE, PARTS, RESHAPES, Graph, Node

ERRORS: Final = {
    "NllLoss": "cross-entropy",
    "NllLoss2D": "cross-entropy",
    "MseLoss": "squared error",
    "SmoothL1Loss": "smooth L1 error",
    "HuberLoss": "Huber error",
    "BinaryCrossEntropy": "binary cross-entropy",
    "BinaryCrossEntropyWithLogits": "binary cross-entropy",
    "SoftMarginLoss": "soft margin error",
    "MultiMarginLoss": "margin error",
    "CtcLoss": "CTC error",
    "KlDiv": "Kullback-Leibler divergence",
}
OF_DIFFERENCE: Final = {"Abs": "absolute error", "Pow": "squared error"}
LIKELY: Final = "log-probability"
PROBABLE: Final = "probability"
OVERLAP: Final = "overlap of probabilities and targets"
LIKENESS: Final = "cosine similarity"
PENALTY: Final = "penalty on the weights"
LOGS: Final = ("LogSoftmax", "LogSigmoid")
PICKED: Final = frozenset({"Gather", "Index", "Select"}) | DIAGONAL
GROWING: Final = frozenset({"Log", "Log1P", "Sqrt"})  # of more they give more
MINUS: Final = (-1.0, -0.5)  # the second before the square in a normal density
PASSING: Final = RESHAPES | PICKED | {"Mean", "Sum", "Slice"}  # neither turns a sign around
WEIGHED: Final = {*LOGS, *SQUASHED, "Logsumexp"}  # whose distribution a factor may not be of: p log(p) is an entropy


@dataclass(frozen=True, slots=True)
class Term:
    """One part of a loss. name: empty = nothing that is known. sign: +1, -1, or 0 where a factor on the way is not known."""

    name: str
    sign: int
    is_picked: bool = False  # of the targets' classes alone
    has_factor: bool = False  # times an unknown number: an advantage, perhaps
    node: int = field(default=-1, compare=False)  # in the graph


def terms(graph: Graph) -> list[Term]:
    """The parts of a loss with one root; of a graph with several, or too large a sum, one that is not known."""
    if len(graph.roots) != 1:
        return [Term("", 0)]
    found = []
    for count, term in enumerate(_parts(graph, graph.roots[0], Term("", 1))):
        found.append(term)
        if count == MOST:
            return [Term("", 0)]
    return found


def penalised(graph: Graph) -> set[str]:
    """Parameters of which the loss holds a penalty: a term that knows the weights alone and is not taken off."""
    found: set[str] = set()
    for root in graph.roots if len(graph.roots) == 1 else ():
        for count, term in enumerate(_parts(graph, root, Term("", 1))):
            if count == MOST:
                break
            if term.name == PENALTY and term.sign >= 0:
                found |= {graph.nodes[i].parameter for i in all_behind(graph, term.node)} - {""}
    return found


def _parts(graph: Graph, index: int, way: Term) -> Iterator[Term]:
    while True:
        node, name = graph.nodes[index], _known(graph, index)
        behind = [(place, edge[0]) for place, edge in enumerate(node.inputs) if edge is not None]
        if name:
            yield Term(name, way.sign, way.is_picked, way.has_factor, index)
            return
        if node.op in ("Add", "Sub") and behind:
            for place, before in behind:
                turned = -1 if node.op == "Sub" and place == 1 else 1
                yield from _parts(graph, before, Term("", way.sign * turned, way.is_picked, way.has_factor))
            return
        if (weighed := _weighed(graph, index)) is not None:
            index = weighed
            continue
        step = _step(graph, index, way)
        if step is None or not behind:
            yield Term(PENALTY if _knows_weights_alone(graph, index) else "", way.sign, node=index)
            return
        way, index = step, behind[0][1]


def _step(graph: Graph, index: int, way: Term) -> Term | None:
    """The way one operation further back; None where it does not go on, or what it leads to is not known."""
    node = graph.nodes[index]
    taken = [edge is not None for edge in node.inputs]
    if sum(taken) != 1:
        return None
    if node.op in PASSING | GROWING or _is_mixture(graph, index):
        return Term("", way.sign, way.is_picked or node.op in PICKED, way.has_factor)
    if node.op in ("Neg", "Rsub"):
        return Term("", -way.sign, way.is_picked, way.has_factor)
    if node.op in ("Mul", "Div") and (taken[0] or node.op == "Mul"):
        return _times(node, way, "other" if taken[0] else "self")
    return None


def _weighed(graph: Graph, index: int) -> int | None:
    """Of an error over a variance, or times a factor that is never below 0 (the focal loss's): the error."""
    node = graph.nodes[index]
    if node.op not in ("Mul", "Div") or len(node.inputs) < 2 or None in node.inputs[:2]:  # of a plain number, one input
        return None
    for place in (1,) if node.op == "Div" else (0, 1):
        factor, other = node.inputs[place][0], node.inputs[1 - place][0]  # type: ignore[index]
        if is_positive(graph, factor) and (node.op == "Div" or _is_weight(graph, factor)):
            return other
    return None


def _is_mixture(graph: Graph, index: int) -> bool:
    """The logarithm of a density that is a sum: logsumexp(log(share) + log(density)). Of distances alone it may push apart."""
    inner = graph.behind(index) if graph.nodes[index].op == "Logsumexp" else None
    if inner is None or graph.nodes[inner].op != "Add":
        return False
    return any(term.name == LIKELY for term in _parts(graph, inner, Term("", 1)))


def _is_weight(graph: Graph, index: int) -> bool:
    """Is it a power, (1 - p)^2, or knows no distribution? Probabilities themselves would make an entropy of their logarithm."""
    ops = {graph.nodes[one].op for one in all_behind(graph, index)}
    return graph.nodes[index].op == "Pow" or (graph.nodes[index].op == "Exp" and ops.isdisjoint(WEIGHED))


def _times(node: Node, way: Term, side: str) -> Term | None:
    """A constant factor: of a known sign, or a single number of an unknown one."""
    least, most = node.facts.get(f"{side}_least"), node.facts.get(f"{side}_most")
    if least is not None and least >= 0:
        return way
    if most is not None and most <= 0:  # a reward below 0, but for what stands in formulas
        return Term("", -way.sign, way.is_picked, way.has_factor) if least == most and least in MINUS else None
    is_single = all(size == 1 for size in node.facts.get(f"{side}_shape", ()))
    return (
        Term("", 0, way.is_picked, way.has_factor or node.op == "Mul")
        if is_single or all(size == 1 for size in node.shape)
        else None
    )


def _known(graph: Graph, index: int) -> str:
    """What this operation is; empty where it is nothing known."""
    node, before = graph.nodes[index], graph.behind(index)
    if node.op in LOGS:
        return LIKELY
    if node.op in SQUASHED:
        return PROBABLE
    if is_overlap(graph, index) or is_likeness(graph, index):
        return OVERLAP if node.op == "Div" else LIKENESS
    if share := is_log_share(graph, index):
        return LIKELY if share > 0 else ERRORS["NllLoss"]
    if node.op == "Log" and (one := graph.behind(index, 0, PASSING | {"Clamp", "Add", "Rsub"})) is not None:
        return LIKELY if graph.nodes[one].op in SQUASHED else ""
    if node.op.startswith("NllLoss"):
        return ERRORS[node.op] if before is not None and graph.nodes[before].op == "LogSoftmax" else ""
    if node.op in ERRORS:
        return ERRORS[node.op] if sum(edge is not None for edge in node.inputs) == 1 else ""
    is_even = node.op == "Abs" or (node.op == "Pow" and node.facts.get("exponent") == 2)
    while is_even and before is not None and (weighed := _weighed(graph, before)) is not None:  # (y - mean) / deviation
        before = weighed
    is_of_target = before is not None and graph.nodes[before].op == "Sub" and graph.nodes[before].inputs.count(None) == 1
    return OF_DIFFERENCE[node.op] if is_even and is_of_target else ""


def is_softmax_by_hand(graph: Graph, index: int) -> bool:
    """Is it exp(z) / sum(exp(z)) along an axis?"""
    node = graph.nodes[index]
    if node.op != "Div":
        return False
    above, below = graph.behind(index, 0), graph.behind(index, 1, RESHAPES | {"Expand"})
    if above is None or below is None or graph.nodes[above].op != "Exp" or graph.nodes[below].op != "Sum":
        return False
    return graph.behind(below) == above


def before_log_softmax(graph: Graph, index: int) -> int | None:
    """What log-softmax is applied to here, written by hand too: z - logsumexp(z), of all classes or of the targets' alone, or
    the same the other way round. None where it is none."""
    node = graph.nodes[index]
    if node.op == "LogSoftmax":
        return graph.behind(index, 0, PARTS)
    for place in (0, 1) if node.op == "Sub" else ():
        total = graph.behind(index, place, RESHAPES | {"Expand"})
        if total is not None and graph.nodes[total].op == "Logsumexp":
            before = graph.behind(total, 0, PARTS)
            return before if before is not None and before == graph.behind(index, 1 - place, PARTS) else None
    return None


def _knows_weights_alone(graph: Graph, index: int) -> bool:
    """Does no layer take part in it: is it a function of parameters and constants?"""
    behind = [graph.nodes[i] for i in all_behind(graph, index)]
    has_layer = any(node.op in AFFINE or node.op.startswith(("Embedding", "Bmm")) for node in behind)
    has_data = any(node.op != "Parameter" and not any(edge is not None for edge in node.inputs) for node in behind)
    return not (has_layer or has_data or len(behind) > MOST)
