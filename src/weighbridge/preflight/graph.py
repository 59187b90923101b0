"""The autograd graph of a loss as plain records.

The graph is what really happened in the forward pass, functional calls included; it can be read where tracing (torch.fx) and
exporting fail. Names and saved attributes of nodes are torch's own and no promise of torch's: an operation that is not known
here is kept under its name, and no rule reads anything into it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch

from weighbridge.preflight.records import Edge, Graph, Node

LEAF: Final = "torch::autograd::AccumulateGrad"
# Attributes that rules read. Sizes and indices wrap around at 2^64 where they are negative.
PLAIN: Final = ("training", "dim", "dim0", "dim1", "dims", "padding", "transposed", "groups", "alpha", "keepdim", "is_causal")


def walk(
    roots: Sequence[torch.Tensor], names: Mapping[int, str], module_at: Callable[[int], str]
) -> tuple[Graph, tuple[Any, ...]]:
    """The graph behind `roots` (the loss, or outputs), and torch's own node for each of its nodes. Call it before the backward
    pass, which frees what is saved.

    `names`: name of a parameter by the id of its tensor. `module_at`: the module that ran at a sequence number of autograd.
    """
    ends = [root.grad_fn for root in roots if root.grad_fn is not None]
    order = _inputs_first(ends)
    index = {node: i for i, node in enumerate(order)}
    records = tuple(_record(node, index, names, module_at) for node in order)
    return Graph(records, tuple(index[end] for end in ends)), tuple(order)


def _inputs_first(roots: Sequence[Any]) -> list[Any]:
    done: dict[Any, None] = {}
    stack = [(root, False) for root in reversed(roots)]
    while stack:
        node, is_expanded = stack.pop()
        if node in done:
            continue
        if is_expanded:
            done[node] = None
            continue
        stack.append((node, True))
        stack += [(before, False) for before, _ in node.next_functions if before is not None and before not in done]
    return list(done)


def _record(node: Any, index: Mapping[Any, int], names: Mapping[int, str], module_at: Callable[[int], str]) -> Node:
    inputs: tuple[Edge | None, ...] = tuple(None if n is None else (index[n], which) for n, which in node.next_functions)
    shapes = tuple(tuple(map(int, made.shape)) for made in node._input_metadata)
    if node.name() == LEAF:
        return Node("Parameter", inputs, shapes, names.get(id(node.variable), ""))
    op = re.sub(r"Backward\d*$", "", node.name())
    return Node(op, inputs, shapes, "", module_at(node._sequence_nr()), _facts(node))


def _facts(node: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for name in PLAIN:
        value = getattr(node, f"_saved_{name}", None)
        if value is not None:
            facts[name] = _signed(value)
    for operand in ("self", "other"):
        value = _kept(node, operand)
        if value is not None:
            facts[f"{operand}_shape"] = tuple(getattr(value, "shape", ()))  # a Python number has no axes
    return facts


def _signed(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_signed(one) for one in value)
    return value - 2**64 if isinstance(value, int) and value >= 2**63 else value


def saved(node: Any, name: str) -> torch.Tensor | None:
    """A tensor that a node has saved, or None where it has not or where it was changed in place since."""
    value = _kept(node, name)
    return value.detach() if isinstance(value, torch.Tensor) else None


def _kept(node: Any, name: str) -> Any:
    try:
        return getattr(node, f"_saved_{name}", None)
    except RuntimeError:  # changed in place since
        return None
