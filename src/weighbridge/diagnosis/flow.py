"""Where the constant that a bias adds goes, through the graph, until something takes it out again.

A bias adds the same number at many places of a tensor. Of each tensor behind it we keep the axes along which that added part
may differ. A batch norm in training subtracts each channel's mean, a softmax whatever is the same for all its terms: where the
added part is constant along the axes that are averaged, nothing of it is left. If that happens on every path to the loss, the
loss does not depend on the bias: a proof, not a measurement. An operation that is not known here ends the proof; it never
completes it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from weighbridge.lossgraph import RESHAPES, Graph, Node

Shape = tuple[int, ...]
Axes = frozenset[int]
BATCH_NORMS: Final = frozenset({"NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm"})
BY_HAND: Final = frozenset({"Sub", "Var", "Std"})  # x - x.mean(0), and what does not change by a shift
SOFTMAXES: Final = frozenset({"Softmax", "SafeSoftmax", "LogSoftmax"})
POOLS: Final = frozenset(
    {"MaxPool2DWithIndices", "MaxPool3DWithIndices", "AdaptiveAvgPool2D", "AdaptiveAvgPool3D", "AvgPool2D"}
)
PARTS: Final = frozenset({"Slice", "Split", "SplitWithSizes", "Cat"})  # keep the axes; Cat only along one where it may differ
ATTENTION: Final = "ScaledDotProduct"  # ...FlashAttention, ...EfficientAttention and others: query, key, value


@dataclass(frozen=True, slots=True)
class Absorbed:
    """The operations that take a bias out again."""

    nodes: tuple[int, ...]
    axes: tuple[tuple[int, Axes], ...]  # of each node on the way

    def is_by_norm(self, graph: Graph) -> bool:
        return all(graph.nodes[i].op in BATCH_NORMS | BY_HAND for i in self.nodes)


def absorbed(
    graph: Graph, start: int, along: Axes = frozenset({0}), lost: set[tuple[int, Axes]] | None = None
) -> Absorbed | None:
    """What takes out of the loss a constant that is added at node `start` and differs along `along` only; None where it may
    matter. By default: the parameter (of one axis) at this node.

    lost: one set for all that is asked about a graph; it keeps from where on the loss is reached. The biases of a deep model
    all come through the same last layers.
    """
    held: dict[int, Axes] = {start: along}
    ends: list[int] = []
    waiting = sorted({user for user, _ in graph.users[start]})
    alone: list[tuple[int, Axes]] = []  # where all that is left of it is what one node gives: the rest depends on that alone
    lost = set() if lost is None else lost
    while waiting:  # the earliest first, as inputs stand before their users: all that it is made of is known then
        index = heapq.heappop(waiting)
        reached = [place for place, edge in enumerate(graph.nodes[index].inputs) if edge is not None and edge[0] in held]
        if _takes_out(graph, index, reached, held):
            ends.append(index)
            continue
        axes = _passed_on(graph, index, reached, held)
        if axes is not None and not waiting:
            alone.append((index, axes))
        if axes is None or (not waiting and alone[-1] in lost):
            lost.update(alone)
            return None
        held[index] = axes
        for user, _ in graph.users[index]:
            if user not in waiting:
                heapq.heappush(waiting, user)
    if not ends or any(root in held for root in graph.roots):
        return None
    return Absorbed(tuple(ends), tuple(held.items()))


def _takes_out(graph: Graph, index: int, reached: list[int], held: dict[int, Axes]) -> bool:
    node = graph.nodes[index]
    axes = _axes_in(graph, index, reached[0], held)
    if node.op == "Sub":
        return _less_its_mean(graph, index, axes)
    if node.op in BY_HAND:
        return axes.isdisjoint(_averaged(node, _shape_in(graph, index, 0)))
    if node.op in BATCH_NORMS:
        return reached == [0] and node.facts.get("training") is True and axes <= {1}
    if node.op in SOFTMAXES:
        return node.facts.get("dim", 0) % len(node.shape) not in axes
    if node.op.startswith(ATTENTION):
        shape = _shape_in(graph, index, 1)
        return reached == [1] and len(shape) - 2 not in axes  # all keys shifted alike: each query's scores are, too
    return False


def _less_its_mean(graph: Graph, index: int, axes: Axes) -> bool:
    """x - x.mean(...), a norm by hand: nothing is left of what is the same along the axes of the mean."""
    one, two = graph.nodes[index].inputs
    if one is None or two is None:
        return False
    mean, shape = graph.nodes[two[0]], _shape_in(graph, index, 0)
    averaged = _averaged(mean, shape)
    is_in_place = mean.facts.get("keepdim") is True or averaged == {0}  # else it would be taken off along other axes
    return mean.op == "Mean" and mean.inputs[0] == one and is_in_place and axes.isdisjoint(averaged)


def _averaged(node: Node, shape: Shape) -> Axes:
    """The axes over which a mean or a variance is taken: all where none is named."""
    dims = node.facts.get("dim")
    named = (dims,) if isinstance(dims, int) else tuple(dims or range(len(shape)))
    return frozenset(dim % max(1, len(shape)) for dim in named)


def _passed_on(graph: Graph, index: int, reached: list[int], held: dict[int, Axes]) -> Axes | None:
    """The axes along which the added part of this node's output may differ, or None where it is no such added part."""
    node = graph.nodes[index]
    each = [(place, _shape_in(graph, index, place), _axes_in(graph, index, place, held)) for place in reached]
    if node.op in ("Add", "Sub"):  # of several tensors that all hold it: each adds its part
        return _union(_broadcast(shape, node.shape, axes) for _, shape, axes in each)
    if node.op == "Cat":
        dim = node.facts.get("dim", 0) % len(node.shape)
        return _union(axes for _, _, axes in each) if all(dim in axes for _, _, axes in each) else None
    if len(each) != 1:
        return None
    place, shape, axes = each[0]
    return _single(node, place, shape, axes)


def _single(node: Node, place: int, shape: Shape, axes: Axes) -> Axes | None:
    if node.op in RESHAPES:
        return reshaped(shape, node.shape, axes)
    if node.op in ("Mul", "Div"):
        return _scaled(node, place, shape, axes)
    if node.op in ("Neg", "Expand"):
        return _broadcast(shape, node.shape, axes)
    if node.op in ("Transpose", "T", "Permute"):
        return _moved(node, axes)
    if node.op in POOLS:
        is_padded = node.op == "AvgPool2D" and any(node.facts.get("padding", (1,)))
        return axes if axes <= {1} and not is_padded else None
    if node.op == "Mean" and len(node.shape) in (len(shape), len(shape) - 1):
        averaged = _averaged(node, shape)
        if len(node.shape) == len(shape):
            return axes - averaged
        return frozenset(axis - sum(one < axis for one in averaged) for axis in axes - averaged)
    if node.op in PARTS and len(node.shape) == len(shape):
        return axes
    return _multiplied(node, place, shape, axes)


def _multiplied(node: Node, place: int, shape: Shape, axes: Axes) -> Axes | None:
    """Matrix products and convolutions: as a bias it is added, as an operand it is summed over one axis."""
    last = len(node.shape) - 1
    if node.op == "Addmm" and place == 0:
        return _broadcast(shape, node.shape, axes)
    if node.op == "Convolution" and place == 2:
        return frozenset({1})
    if node.op == "Linear":  # input, weight, bias
        return frozenset({last}) if place == 2 else None
    if (node.op, place) in (("Addmm", 1), ("Mm", 0), ("Bmm", 0)):
        return (axes - {last}) | {last} | ({0} if node.op == "Bmm" else set())
    if (node.op, place) == ("Bmm", 1):
        return (axes - {1}) | {0, 1}
    if node.op == "Convolution" and place == 0:  # without padding each window sees the same constants
        is_even = not any(node.facts.get("padding", (1,))) and node.facts.get("transposed") is False
        return frozenset({1}) if is_even and axes <= {1} else None
    return None


def _scaled(node: Node, place: int, shape: Shape, axes: Axes) -> Axes | None:
    """Times a number or a tensor that does not hold the bias: differs along that tensor's axes, too."""
    if node.op == "Div" and place != 0:
        return None
    other = node.facts.get("other_shape" if place == 0 else "self_shape")
    if other is None:
        return None
    varied = _broadcast(tuple(other), node.shape, frozenset(i for i, size in enumerate(other) if size > 1))
    return _broadcast(shape, node.shape, axes) | varied


def _moved(node: Node, axes: Axes) -> Axes | None:
    count = len(node.shape)
    if node.op == "Permute":
        dims = node.facts.get("dims")
        return None if dims is None else frozenset(i for i, source in enumerate(dims) if source % count in axes)
    if node.op == "Transpose" and "dim0" not in node.facts:
        return None
    one, two = (node.facts["dim0"] % count, node.facts["dim1"] % count) if node.op == "Transpose" else (0, count - 1)
    swap = {one: two, two: one}
    return frozenset(swap.get(axis, axis) for axis in axes)


def reshaped(before: Shape, after: Shape, axes: Axes) -> Axes:
    """The axes of a reshaped tensor that hold something of the given axes.

    >>> sorted(reshaped((8, 16, 64), (8, 16, 4, 16), frozenset({2})))
    [2, 3]
    >>> sorted(reshaped((8, 16, 5, 5), (1, 128, 5, 5), frozenset({1})))
    [1]
    """
    found: set[int] = set()
    for old, new in _groups(before, after):
        if any(axis in axes and before[axis] > 1 for axis in old):
            found.update(axis for axis in new if after[axis] > 1)
    return frozenset(found)


def _groups(before: Shape, after: Shape) -> Iterable[tuple[list[int], list[int]]]:
    """The finest runs of axes on both sides that hold the same numbers."""
    if 0 in before or math.prod(before) != math.prod(after):
        yield list(range(len(before))), list(range(len(after)))
        return
    i = j = 0
    while i < len(before) or j < len(after):
        old: list[int] = []
        new: list[int] = []
        here = there = 1
        while (not old and not new) or here != there:
            if here <= there and i < len(before):
                old, here, i = [*old, i], here * before[i], i + 1
            else:
                new, there, j = [*new, j], there * after[j], j + 1
        yield old, new


def _broadcast(shape: Shape, wide: Shape, axes: Axes) -> Axes:
    shift = len(wide) - len(shape)
    return frozenset(axis + shift for axis in axes if shape[axis] > 1)


def _shape_in(graph: Graph, index: int, place: int) -> Shape:
    edge = graph.nodes[index].inputs[place]
    if edge is None:
        return ()
    shapes = graph.nodes[edge[0]].shapes
    return shapes[edge[1]] if edge[1] < len(shapes) else ()


def _axes_in(graph: Graph, index: int, place: int, held: dict[int, Axes]) -> Axes:
    edge = graph.nodes[index].inputs[place]
    return frozenset() if edge is None else held.get(edge[0], frozenset())


def _union(parts: Iterable[Axes]) -> Axes:
    return frozenset().union(*parts)
