"""Biases that the loss does not depend on: for the rule, and for `without_redundant_biases`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from weighbridge.diagnosis.flow import Absorbed, Axes, absorbed
from weighbridge.firstpass import Parameter
from weighbridge.lossgraph import Graph

# Where a parameter enters as a bias: the operation and which of its inputs.
AS_BIAS: Final = frozenset({("Addmm", 0), ("Convolution", 2), ("Linear", 2), ("Add", 0), ("Add", 1)})
CAST: Final = "ToCopy"  # to another dtype, by autocast


@dataclass(frozen=True, slots=True)
class Redundant:
    """A bias that the loss does not depend on."""

    parameter: Parameter
    by: Absorbed
    is_before_norm: bool
    absorber: str  # the module that takes it out


def redundant_biases(graph: Graph, parameters: Iterable[Parameter]) -> Iterator[Redundant]:
    """Every redundant bias, in the order of the parameters."""
    lost: set[tuple[int, Axes]] = set()
    for parameter in parameters:
        leaf = graph.leaves.get(parameter.name)
        if leaf is None or len(parameter.shape) != 1 or not _is_bias(graph, leaf):
            continue
        by = absorbed(graph, leaf, lost=lost)
        if by is not None:
            where = graph.nodes[by.nodes[0]].module
            yield Redundant(parameter, by, by.is_by_norm(graph), where)


def _is_bias(graph: Graph, leaf: int) -> bool:
    users = graph.users[leaf]
    return all(
        _is_bias(graph, user) if graph.nodes[user].op == CAST else (graph.nodes[user].op, place) in AS_BIAS
        for user, place in users
    )
