"""Losses that are written by hand, as their graph shows them: shares of a sum, overlaps, likenesses, what is positive."""

from __future__ import annotations

from typing import Final

from weighbridge.lossgraph import PARTS, RESHAPES, Graph

SQUASHED: Final = ("Softmax", "SafeSoftmax", "Sigmoid")
POSITIVE: Final = frozenset({"Exp", "Softplus", "Sigmoid", "Softmax", "Abs", "Relu"})
REDUCED: Final = frozenset({"Mean", "Sum"})
DIAGONAL: Final = frozenset({"Diagonal", "DiagonalBackward0_copy"})
PICKS: Final = PARTS | DIAGONAL | {"Gather", "Expand", "MaskedFill", "Unbind"}  # some of the same numbers
ADDED: Final = PICKS | {"Cat", "Sum", "Add", "Exp", "Mul"}  # on the way from a sum of exponentials to what they are of
MOST: Final = 512  # operations in a part of a loss


def is_log_share(graph: Graph, index: int) -> int:
    """Is it the logarithm of a share, exp(z_y) / (exp(z_y) + more), which is never above 0? +1; its negative: -1; else 0.

    Written as a difference, z_y - logsumexp(z), or as a quotient, log(exp(z_y) / exp(z).sum()).
    """
    node = graph.nodes[index]
    if node.op == "Log" and (share := graph.behind(index, 0, PICKS)) is not None and graph.nodes[share].op == "Div":
        above = graph.behind(share, 0, PICKS)
        return int(above is not None and graph.nodes[above].op == "Exp" and _is_part(graph, above, graph.behind(share, 1)))
    for place in (0, 1) if node.op == "Sub" else ():
        total, part = (graph.behind(index, at, PICKS | REDUCED) for at in (place, 1 - place))
        if total is not None and part is not None and _is_part(graph, part, _summed(graph, total)):
            return 1 if place else -1
    return 0


def _summed(graph: Graph, index: int) -> int | None:
    """Of the logarithm of a sum of exponentials: what is summed."""
    if graph.nodes[index].op == "Logsumexp":
        return graph.behind(index, 0, frozenset())
    total = graph.behind(index, 0, PICKS) if graph.nodes[index].op == "Log" else None
    return total if total is not None and graph.nodes[total].op in ("Sum", "Add") else None


def _is_part(graph: Graph, part: int, total: int | None) -> bool:
    """Do both lead back to the same logits, so that the part is one of the sum's?"""
    return total is not None and bool(_sources(graph, part, ADDED - {"Sum", "Add", "Mul"}) & _sources(graph, total, ADDED))


def _sources(graph: Graph, index: int, through: frozenset[str]) -> set[int]:
    waiting, seen = [index], set[int]()
    while waiting and len(seen) < MOST:
        one = waiting.pop()
        behind = [edge[0] for edge in graph.nodes[one].inputs if edge is not None]
        seen.add(one)
        if graph.nodes[one].op in through and (graph.nodes[one].op != "Mul" or len(behind) == 1):
            waiting += [before for before in behind if before not in seen]
    return {one for one in seen if graph.nodes[one].op != "Exp"}


def is_overlap(graph: Graph, index: int) -> bool:
    """Dice, IoU, F1: is it a sum of probabilities where the targets are 1, over a sum of the same probabilities?"""
    if graph.nodes[index].op != "Div" or None in graph.nodes[index].inputs[:2] or len(graph.nodes[index].inputs) < 2:
        return False
    above, below = (graph.behind(index, place, RESHAPES) for place in (0, 1))
    while above is not None and graph.nodes[above].op in ("Add", "Mul", "Sum") and not _is_zero_or_one(graph, above):
        above = graph.behind(above, 0, RESHAPES) if sum(e is not None for e in graph.nodes[above].inputs) == 1 else None
    made = None if above is None else graph.behind(above, 0, RESHAPES)
    if above is None or made is None or below is None or graph.nodes[made].op not in SQUASHED:
        return False
    return _is_zero_or_one(graph, above) and is_positive(graph, below) and made in all_behind(graph, below)


def _is_zero_or_one(graph: Graph, index: int) -> bool:
    """A product with constants from 0 to 1 that are not all one number."""
    node = graph.nodes[index]
    return node.op == "Mul" and (
        node.facts.get("other_least", node.facts.get("self_least")),
        node.facts.get("other_most", node.facts.get("self_most")),
    ) == (0, 1)


def is_likeness(graph: Graph, index: int) -> bool:
    """The cosine between what the model gives and vectors that are given: sum(z / norm(z) * constants)."""
    if graph.nodes[index].op != "Sum":
        return False
    product = graph.behind(index)
    if product is None or graph.nodes[product].op != "Mul" or sum(e is not None for e in graph.nodes[product].inputs) != 1:
        return False
    place = next(at for at, edge in enumerate(graph.nodes[product].inputs) if edge is not None)
    unit = graph.behind(product, place)
    if unit is None or graph.nodes[unit].op != "Div":
        return False
    norm = graph.behind(unit, 1, RESHAPES | {"ClampMin", "Expand", "Clamp"})
    return (
        norm is not None and graph.nodes[norm].op in ("LinalgVectorNorm", "Norm") and (graph.behind(norm) == graph.behind(unit))
    )


def is_positive(graph: Graph, index: int) -> bool:
    """Is it never below 0, whatever the weights are? A number that is added counts as one against a division by 0."""
    node = graph.nodes[index]
    if node.op in POSITIVE or (node.op == "Pow" and node.facts.get("exponent", 1) % 2 == 0):
        return True
    behind = [edge[0] for edge in node.inputs if edge is not None]
    if node.op == "Mul" and len(behind) == 2:
        return behind[0] == behind[1]
    least = node.facts.get("other_least", node.facts.get("self_least"))
    is_scaled = node.op == "Mul" and least is not None and least >= 0
    is_passed = is_scaled or node.op in RESHAPES | REDUCED | {"Expand"}
    if node.op == "Add" or (is_passed and len(behind) == 1):
        return bool(behind) and all(is_positive(graph, one) for one in behind)
    return False


def all_behind(graph: Graph, index: int) -> set[int]:
    """A node and what it is made of; of more than MOST, no more than that."""
    waiting, seen = [index], set[int]()
    while waiting and len(seen) <= MOST:
        one = waiting.pop()
        if one not in seen:
            seen.add(one)
            waiting += [edge[0] for edge in graph.nodes[one].inputs if edge is not None]
    return seen
