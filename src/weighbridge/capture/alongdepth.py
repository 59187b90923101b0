"""Sizes along the depth of a model whose layers are no modules: `x @ self.w`, F.linear, einsum, a module called in a loop.

What modules give shows the depth of other models. Here it is taken from the graph of the first passes: along the longest chain
of products with a parameter, the rms of what each takes (autograd keeps it) and the norm of the loss's gradient by what each
gives.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import torch

from weighbridge.capture.graphwalk import saved
from weighbridge.capture.late import Late, held, norm_into
from weighbridge.capture.throughtime import TURNED, longest
from weighbridge.lossgraph import AFFINE, PARTS, Graph

KIND: Final = "along_depth"  # the event
LEAST: Final = 3  # products
MOST: Final = 512
PRODUCTS: Final = {**AFFINE, "Bmm": (0, 1)}
TAKEN: Final = {"Addmm": ("mat1", "mat2"), "Mm": ("self", "mat2"), "Bmm": ("self", "mat2")}
KEPT: Final = {"Convolution": "input", "Linear": "input"}


@dataclass(slots=True)
class Depth:
    """One pass. All lists: the first product first."""

    parameters: list[str]
    sizes: list[torch.Tensor]  # rms of what each takes; 0-dim, on their device
    norms: dict[int, torch.Tensor] = field(default_factory=dict)  # of the gradient by what each gives
    late: Late | None = None
    kind: str = KIND
    message: str = "sizes along layers that are no modules"

    @property
    def is_complete(self) -> bool:
        """Has the backward pass gone through all of them?"""
        return len(self.norms) == len(self.sizes)

    def has_arrived(self, wait: bool = False) -> bool:
        """Has the device given all of them?"""
        if not self.is_complete:
            return False
        if self.late is None:
            self.late = Late([*self.sizes, *(self.norms[i] for i in range(len(self.norms)))])
        return self.late.has_arrived(wait)

    def detail(self) -> dict[str, Any]:
        """For the event."""
        assert self.late is not None
        numbers, count = self.late.numbers(), len(self.sizes)
        return {"parameters": self.parameters, "sizes": numbers[:count], "norms": numbers[count:]}


def follow(graph: Graph, nodes: tuple[Any, ...]) -> list[Depth]:
    """Hangs hooks on the products of the longest chain, where modules do not show it. Call it before the backward pass."""
    products = {i: found for i, node in enumerate(graph.nodes) if node.op in PRODUCTS and (found := _product(graph, i))}
    names = [name for name, _ in products.values()]
    hidden = [i for i, (name, _) in products.items() if names.count(name) > 1 or _owner(name) != graph.nodes[i].module]
    if len(hidden) < LEAST or len(products) > MOST:
        return []
    chain = longest(graph, [*products])
    taken = [_taken(nodes[i], graph.nodes[i].op, products[i][1]) for i in chain]
    sizes = [held(x.float().square().mean().sqrt()) for x in taken if x is not None and x.numel()]
    if len(chain) < LEAST or len(sizes) < len(chain) or len({size.device for size in sizes}) > 1:
        return []
    depth = Depth([products[i][0] for i in chain], sizes)
    for place, index in enumerate(chain):
        nodes[index].register_prehook(norm_into(depth.norms, place))
    return [depth]


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _product(graph: Graph, index: int) -> tuple[str, int] | None:
    """Its parameter, and which of its two factors that is not."""
    for place in (1, 0):
        leaf = graph.behind(index, PRODUCTS[graph.nodes[index].op][place], TURNED | PARTS | {"Unbind"})
        if leaf is not None and graph.nodes[leaf].parameter:
            return graph.nodes[leaf].parameter, 1 - place
    return None


def _taken(node: Any, op: str, factor: int) -> torch.Tensor | None:
    return saved(node, KEPT.get(op, "") or TAKEN[op][factor])
