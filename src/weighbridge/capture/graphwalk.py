"""The autograd graph of a loss as plain records.

The graph is what really happened in the forward pass, functional calls included; it can be read where tracing (torch.fx) and
exporting fail. Names and saved attributes of nodes are torch's own and no promise of torch's: an operation that is not known
here is kept under its name, and no rule reads anything into it.

What autograd saved is looked at only where nobody has hooks on it: a checkpoint would compute its part anew, a saving to the
CPU would be copied back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch

from weighbridge.lossgraph import Edge, Graph, Node

LEAF: Final = "torch::autograd::AccumulateGrad"
CAST: Final = "ToCopyBackward0"
SINK: Final = "_DDPSinkBackward"
THROUGH: Final = ("TBackward0", "TransposeBackward0", "PermuteBackward0", CAST)
# Attributes that rules read. Sizes and indices wrap around at 2^64 where they are negative.
PLAIN: Final = (
    *("training", "dim", "dim0", "dim1", "dims", "padding", "transposed", "groups", "alpha", "scale", "keepdim", "is_causal"),
    *("min_val", "max_val", "min", "max", "exponent", "ignore_index", "bias_sym_sizes_opt"),
)
SCALED: Final = ("Mul", "Div")  # of which rules want the shapes of both sides
MOST_FACTORS: Final = 2**16  # numbers of a constant factor whose sign is looked for
MOST_NODES: Final = 10_000  # about 10 us each; a language model of 48 layers has 2,200
KEPT: Final = ("Relu", "Sigmoid", "Tanh", "Softmax", "LogSoftmax", "Exp")  # save what they give,
AGAIN: Final[Mapping[str, Callable[[Any, torch.Tensor], torch.Tensor]]] = {  # or what they are given
    "Softplus": lambda node, x: torch.nn.functional.softplus(x, node._saved_beta, node._saved_threshold),
    "Clamp": lambda node, x: x.clamp(node._saved_min, node._saved_max),
    "Hardtanh": lambda node, x: x.clamp(node._saved_min_val, node._saved_max_val),
}
TO_NUMPY: Final = (torch.float32, torch.float64)
MOST_WORK: Final = 2**22  # multiplications: a few milliseconds


class TooLarge(Exception):
    """The graph has more nodes than are taken down."""


def walk(
    roots: Sequence[torch.Tensor], names: Mapping[int, str], module_at: Callable[[int], str]
) -> tuple[Graph, tuple[Any, ...]]:
    """The graph behind `roots` (the loss, or outputs), and torch's own node for each of its nodes. Call it before the backward
    pass, which frees what is saved. Raises TooLarge above MOST_NODES. Waits for no device.

    `names`: name of a parameter by the id of its tensor. `module_at`: the module that ran at a sequence number of autograd.
    """
    order = nodes_behind(roots)
    index = {node: i for i, node in enumerate(order)}
    records = tuple(_record(node, index, names, module_at) for node in order)
    return Graph(records, tuple(index[node] for node in map(maker, roots) if node is not None)), tuple(order)


def nodes_behind(roots: Sequence[torch.Tensor]) -> list[Any]:
    """torch's own nodes, inputs before those who use them. Raises TooLarge."""
    return _inputs_first([node for node in map(maker, roots) if node is not None])


def maker(root: torch.Tensor) -> Any:
    """The node that made it, or None."""
    return None if root.grad_fn is None else _past_sinks(root.grad_fn, root.output_nr)[0]


def edges(node: Any) -> tuple[tuple[Any, int], ...]:
    """As torch's `next_functions`, past what computes nothing."""
    return tuple(_past_sinks(before, which) for before, which in node.next_functions)


def _past_sinks(node: Any, which: int) -> tuple[Any, int]:
    """DDP leads what its model gives through a function that hands it on as it is, where `find_unused_parameters` or
    `static_graph` is set: output k of it is input k, while nothing but tensors is given."""
    while type(node).__name__ == SINK and len(node.next_functions) == len(node._input_metadata):
        if node.next_functions[which][0] is None:
            break
        node, which = node.next_functions[which]
    return node, which


def _inputs_first(roots: Sequence[Any]) -> list[Any]:
    done: dict[Any, None] = {}
    stack = [(root, False) for root in reversed(roots)]
    while stack:
        node, is_expanded = stack.pop()
        if node in done:
            continue
        if is_expanded:
            done[node] = None
            if len(done) > MOST_NODES:
                raise TooLarge
            continue
        stack.append((node, True))
        stack += [(before, False) for before, _ in edges(node) if before is not None]
    return list(done)


def _record(node: Any, index: Mapping[Any, int], names: Mapping[int, str], module_at: Callable[[int], str]) -> Node:
    inputs: tuple[Edge | None, ...] = tuple(None if n is None else (index[n], which) for n, which in edges(node))
    shapes = tuple(tuple(map(int, made.shape)) for made in node._input_metadata)
    if node.name() == LEAF:
        return Node("Parameter", inputs, shapes, names.get(id(node.variable), ""))
    op = re.sub(r"Backward\d*$", "", node.name())
    return Node(op, inputs, shapes, "", module_at(node._sequence_nr()), _facts(node, op))


def _facts(node: Any, op: str) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for name in PLAIN:
        value = getattr(node, f"_saved_{name}", None)
        if isinstance(value, (bool, int, float, tuple)):
            facts[name] = _signed(value)
    for operand in ("self", "other") if op in SCALED else ():
        value = saved(node, operand)
        is_number = not hasattr(node, f"_raw_saved_{operand}") and hasattr(node, f"_saved_{operand}")
        if value is not None or is_number:
            facts[f"{operand}_shape"] = () if value is None else tuple(value.shape)
            if _is_constant(node, operand):
                facts |= _range(operand, getattr(node, f"_saved_{operand}") if value is None else value)
    return facts


def _is_constant(node: Any, operand: str) -> bool:
    place = ("self", "other").index(operand)
    return place >= len(node.next_functions) or node.next_functions[place][0] is None  # a plain number has no place


def _range(operand: str, value: Any) -> dict[str, Any]:
    """The smallest and the largest number of a factor: tells its sign. Nothing where it lies on a device, or is large."""
    if isinstance(value, int | float):
        return {f"{operand}_least": value, f"{operand}_most": value}
    if not value.is_cpu or value.is_complex() or not 0 < value.numel() <= MOST_FACTORS or value.layout != torch.strided:
        return {}
    least, most = (float(one) for one in torch.aminmax(value.float()))
    return {f"{operand}_least": least, f"{operand}_most": most} if least == least else {}


def _signed(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_signed(one) for one in value)
    return value - 2**64 if isinstance(value, int) and value >= 2**63 else value


def saved(node: Any, name: str) -> torch.Tensor | None:
    """A tensor that a node has saved, or None where it has not, where it was changed in place since, or where hooks keep it."""
    raw = getattr(node, f"_raw_saved_{name}", None)
    try:
        if raw is None or raw.unpack_hook is not None:
            return None
        value = getattr(node, f"_saved_{name}")
    except (RuntimeError, AttributeError):  # changed in place since, or given free; a torch that does not tell of hooks
        return None
    return value.detach() if isinstance(value, torch.Tensor) else None


def picked(node: Any) -> torch.Tensor | None:
    """int64 [samples]: the classes whose numbers `x[torch.arange(n), y]` or `x.gather(1, y[:, None])` takes out of [samples,
    classes]; None where it is something else, or hooks keep it."""
    if node.name() == "GatherBackward0":
        index = saved(node, "index")
        is_fit = index is not None and index.dim() == 2 and index.shape[1] == 1 and node._saved_dim in (1, 2**64 - 1)
        return index[:, 0] if is_fit and index is not None else None
    raw = getattr(node, "_raw_saved_indices", None) or ()
    if node.name() != "IndexBackward0" or len(raw) != 2 or any(one is None or one.unpack_hook is not None for one in raw):
        return None
    rows, classes = node._saved_indices
    if rows is None or classes is None or not rows.dim() == classes.dim() == 1 or rows.shape != classes.shape:
        return None
    is_fit = rows.dtype == classes.dtype == torch.int64 and rows.is_cpu  # what lies on a device is not waited for
    return classes.detach() if is_fit and bool((rows.diff() == 1).all()) else None


def result_of(node: Any) -> torch.Tensor | None:
    """What an operation gave, where autograd keeps it, or all that it is made of; None else, and of much work."""
    op = re.sub(r"Backward\d*$", "", node.name())
    if op in KEPT:
        return saved(node, "result")
    if op in AGAIN:
        given = saved(node, "self")
        return None if given is None else AGAIN[op](node, given)
    if op not in ("Addmm", "Mm") or (op == "Addmm" and (node._saved_alpha, node._saved_beta) != (1, 1)):
        return None
    rows, weight = saved(node, "mat1" if op == "Addmm" else "self"), leaf(node, 2 if op == "Addmm" else 1)
    bias = leaf(node, 0) if op == "Addmm" else None
    if rows is None or weight is None or (op == "Addmm" and bias is None):
        return None
    operands = [one.numpy() for one in (rows, weight, bias) if one is not None and one.is_cpu and one.dtype in TO_NUMPY]
    if rows.numel() * max(weight.shape) > MOST_WORK or len(operands) < (2 if bias is None else 3):
        return None
    made = operands[0] @ operands[1]  # no autocast, no mode counts it
    return torch.from_numpy(made if bias is None else made + operands[2])


def leaf(node: Any, place: int) -> torch.Tensor | None:
    """The parameter that is input `place` of a node, looked for through transposes and casts; a matrix as the node takes it."""
    before, is_turned = node.next_functions[place][0] if place < len(node.next_functions) else None, False
    while before is not None and before.name() in THROUGH:
        is_turned ^= before.name() != CAST
        before = before.next_functions[0][0]
    if before is None or before.name() != LEAF:
        return None
    found: torch.Tensor = before.variable.detach()
    return found.T if is_turned and found.dim() == 2 else found
