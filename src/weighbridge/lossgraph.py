"""The graph of a loss as plain records: what capture takes down and rules read. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

VIEWS: Final = frozenset({"View", "UnsafeView", "ReshapeAlias", "Alias", "Clone", "ToCopy", "Contiguous"})
RESHAPES: Final = VIEWS | {"Unsqueeze", "Squeeze", "SqueezeDim"}  # the same numbers in the same order
PARTS: Final = RESHAPES | {"Select", "Slice", "Permute", "Transpose", "Index", "Narrow"}  # the same numbers, or some of them
# Affine operations: which input is what comes in, and which the matrix.
AFFINE: Final = {"Addmm": (1, 2), "Mm": (0, 1), "Convolution": (0, 1), "Linear": (0, 1)}
NORMS: Final = frozenset(
    {"NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm", "NativeLayerNorm", "NativeGroupNorm", "FusedRmsNorm"}
)
# What these can give, from where to where.
BOUNDS: Final = {
    **dict.fromkeys(("Relu", "Softplus", "Exp", "Abs"), (0.0, math.inf)),
    **dict.fromkeys(("Sigmoid", "Softmax", "SafeSoftmax", "Hardsigmoid"), (0.0, 1.0)),
    **dict.fromkeys(("LogSigmoid", "LogSoftmax"), (-math.inf, 0.0)),
    "Tanh": (-1.0, 1.0),
    "Gelu": (-0.17, math.inf),
    "Silu": (-0.2785, math.inf),
    "Mish": (-0.3089, math.inf),
    "Hardswish": (-0.375, math.inf),
}
Edge = tuple[int, int]  # the node that an input comes from, and which of its outputs it is


@dataclass(frozen=True, slots=True)
class Node:
    """One operation of the forward pass, as autograd keeps it for the backward pass."""

    op: str  # torch's name without "Backward0": Addmm, Convolution, NativeBatchNorm; "Parameter" for a leaf
    inputs: tuple[Edge | None, ...]  # None: an input that needs no gradient
    shapes: tuple[tuple[int, ...], ...]  # of its outputs
    parameter: str = ""  # of a leaf
    module: str = ""  # the innermost module that was running
    facts: Mapping[str, Any] = field(default_factory=dict)  # what autograd saved: training, dim, padding, ...

    @property
    def shape(self) -> tuple[int, ...]:
        return self.shapes[0] if self.shapes else ()


@dataclass(frozen=True)
class Graph:
    """The operations behind the loss. Inputs stand before those who use them."""

    nodes: tuple[Node, ...]
    roots: tuple[int, ...] = ()  # the loss, or all outputs

    @cached_property
    def users(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """Of each node: (user, which of the user's inputs)."""
        found: list[list[tuple[int, int]]] = [[] for _ in self.nodes]
        for index, node in enumerate(self.nodes):
            for place, edge in enumerate(node.inputs):
                if edge is not None:
                    found[edge[0]].append((index, place))
        return tuple(map(tuple, found))

    @cached_property
    def leaves(self) -> Mapping[str, int]:
        """The node of each parameter that the loss depends on."""
        return {node.parameter: index for index, node in enumerate(self.nodes) if node.parameter}

    def behind(self, index: int, place: int = 0, through: frozenset[str] = RESHAPES) -> int | None:
        """The node that makes input `place` of a node, looked for through reshapes; None where no gradient is needed."""
        edge = self.nodes[index].inputs[place] if place < len(self.nodes[index].inputs) else None
        while edge is not None and self.nodes[edge[0]].op in through:
            edge = self.nodes[edge[0]].inputs[0]
        return None if edge is None else edge[0]

    def maker(self, index: int, place: int = 0) -> str:
        """The module of the node behind an input, looked for through what takes a part; empty where there is none."""
        before = self.behind(index, place, PARTS)
        return "" if before is None else self.nodes[before].module


def bounds_of(node: Node) -> tuple[float, float]:
    """The least and the largest number that an operation can give, whatever it is given.

    >>> bounds_of(Node("Tanh", (), ()))
    (-1.0, 1.0)
    """
    facts = node.facts
    if node.op == "Hardtanh":
        return facts.get("min_val", -math.inf), facts.get("max_val", math.inf)
    if node.op == "Clamp":
        return facts.get("min", -math.inf), facts.get("max", math.inf)
    if node.op in ("Elu", "Celu"):
        return -abs(facts.get("alpha", math.inf)) * facts.get("scale", 1.0), math.inf
    return BOUNDS.get(node.op, (-math.inf, math.inf))
