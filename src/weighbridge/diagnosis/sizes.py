"""What a graph says of sizes: which layers end it, and behind which of them the size is divided out again."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Final

from weighbridge.diagnosis.affine import weight_of
from weighbridge.diagnosis.graphrule import module_of
from weighbridge.firstpass import FirstPass
from weighbridge.lossgraph import AFFINE, NORMS, Graph

# What tells how large its input is: a norm layer written by hand divides by one of them.
SIZES: Final = frozenset({"Std", "StdMean", "Var", "VarMean", "LinalgVectorNorm", "Norm", "Sqrt", "Rsqrt", "Sum", "Amax"})


def ends(passes: Iterable[FirstPass]) -> set[str]:
    """Modules with the last affine layer on a way to a loss: several heads side by side are all ends."""
    found: set[str] = set()
    for first in passes:
        leads_on: list[bool] = [False] * len(first.graph.nodes)  # to another affine layer
        for index in range(len(leads_on) - 1, -1, -1):
            users = [user for user, _ in first.graph.users[index]]
            leads_on[index] = any(leads_on[user] or first.graph.nodes[user].op in AFFINE for user in users)
            if first.graph.nodes[index].op in AFFINE and not leads_on[index]:
                found.add(module_of(weight_of(first.graph, index)))
    return found


def normed(passes: Iterable[FirstPass]) -> set[str]:
    """Weights of affine layers whose output is divided by its own size before the next one: no size of theirs matters."""
    found: set[str] = set()
    for first in passes:
        for index, node in enumerate(first.graph.nodes):
            if node.op in AFFINE and _is_divided_by_itself(first.graph, index):
                found.add(weight_of(first.graph, index))
    return found


def _is_divided_by_itself(graph: Graph, index: int) -> bool:
    """Whether x / s(x), or x times 1 / s(x), is made of what a node gives, s being one of SIZES; or a norm layer takes it."""
    made, sizes = {index}, set[int]()
    waiting = sorted({user for user, _ in graph.users[index]})
    while waiting:  # the earliest first: all that it is made of is known then
        user = heapq.heappop(waiting)
        node = graph.nodes[user]
        if node.op in AFFINE or user in made:
            continue
        given = {edge[0] for edge in node.inputs if edge is not None} & made
        if node.op in NORMS or (node.op in ("Div", "Mul") and given & sizes and given - sizes):
            return True
        made.add(user)
        if node.op in SIZES or given <= sizes:
            sizes.add(user)
        for following, _ in graph.users[user]:
            heapq.heappush(waiting, following)
    return False
