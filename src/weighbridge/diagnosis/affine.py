"""Affine layers in a graph: which feeds which with nothing between that is not linear."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from weighbridge.diagnosis.flow import BATCH_NORMS
from weighbridge.diagnosis.graphrule import module_of
from weighbridge.firstpass import FirstPass
from weighbridge.lossgraph import AFFINE, NORMS, PARTS, RESHAPES, Edge, Graph, Node

SAME_LINE: Final = RESHAPES | {"NativeDropout"}  # between two affine layers these leave all linear
MOVES: Final = frozenset({"T", "Transpose", "Permute", "Expand", "Slice", "Select", "Split", "Cat", "Stack"})
POOLS: Final = frozenset(
    {"AvgPool2D", "AvgPool3D", "AdaptiveAvgPool2D", "AdaptiveAvgPool3D", "MaxPool2DWithIndices", "MaxPool3DWithIndices", "Mean"}
)
# Where there is nothing else in front of a layer, there is no activation: sums, norms and pools make none.
NO_ACTIVATION: Final = (
    SAME_LINE | MOVES | POOLS | BATCH_NORMS | {"NativeLayerNorm", "NativeGroupNorm", "Parameter", "Add", "Sub", *AFFINE}
)
RUNS_ITSELF: Final = ("Attention", "LSTM", "GRU", "RNN")  # modules whose products are followed by more than the graph shows


def pairs(first: FirstPass) -> dict[int, int]:
    """By layer the one in front of it: affine layers with a parameter of their own as matrix, of which the output of one alone
    is the input of the other.

    Excused: a middle narrower than both sides (a bottleneck), a value that is used elsewhere or is a sum (residuals, several
    heads), grouped and transposed convolutions, layers inside attention or recurrent modules.
    """
    found = {}
    for index, node in enumerate(first.graph.nodes):
        before = single_source(first, index) if node.op in AFFINE else None
        if before is not None and not is_excused(first, before, index):
            found[index] = before
    return found


def without_activation_anywhere(first: FirstPass) -> dict[int, int]:
    """The same where all that is in front is sums, norms, pools and affine layers, used nowhere else; the nearest of these."""
    fronts = _Fronts(first)
    near = {index: fronts.nearest(index) for index, node in enumerate(first.graph.nodes) if node.op in AFFINE}
    return {index: layer for index, layer in near.items() if layer is not None}


@dataclass(frozen=True, slots=True)
class _Front:
    """A node and all that it is made of. Each number is joined over the inputs however these overlap, so that a deep model
    costs one look at each node, and not one at each pair of layers."""

    is_plain: bool = True  # nothing makes an activation
    is_own: bool = True  # all but the node itself is used in here alone; False where that is not clear at once
    nearest: int = -1  # the last affine layer
    has_vectors: bool = False  # is one of the affine layers no convolution?
    is_excused: bool = False  # of one of them too little is known, whatever follows
    narrowest: float = math.inf  # outputs of the narrowest that gives fewer numbers than it takes


class _Fronts:
    """What stands in front of the layers of one pass."""

    def __init__(self, first: FirstPass) -> None:
        self.first, self.graph = first, first.graph
        self.layers: dict[str, list[int]] = {}  # by the name of their weight
        self.fronts: list[_Front] = []  # of each node; inputs stand before those who use them
        for index, node in enumerate(self.graph.nodes):
            if node.op in AFFINE:
                self.layers.setdefault(weight_of(self.graph, index), []).append(index)
            self.fronts.append(self._of(index))

    def nearest(self, index: int) -> int | None:
        """The nearest layer in front of this one, where nothing there makes an activation; else None."""
        node = self.graph.nodes[index]
        edge = node.inputs[AFFINE[node.op][0]]
        front = _Front() if edge is None else self.fronts[edge[0]]
        if edge is None or not front.is_plain or front.nearest < 0 or self._is_shared(edge, index):
            return None
        own = _layer(self.first, index)
        is_image_made = front.has_vectors and not own.has_vectors
        is_excused = front.is_excused or own.is_excused or is_image_made or self._is_used_again(edge, index)
        return None if is_excused or front.narrowest < width(self.graph, index) else front.nearest

    def _is_shared(self, before: Edge, index: int) -> bool:
        """Is something in front of a layer used elsewhere, too?"""
        if self.fronts[before[0]].is_own:
            return {user for user, _ in self.graph.users[before[0]]} != {index}
        ahead = _ahead(self.graph, before)
        return any({user for user, _ in self.graph.users[i]} - ahead - {index} for i in ahead)

    def _is_used_again(self, before: Edge, index: int) -> bool:
        """Has a layer in front the same weight?"""
        others = {*self.layers[weight_of(self.graph, index)]} - {index}
        return bool(others) and not others.isdisjoint(_ahead(self.graph, before))

    def _of(self, index: int) -> _Front:
        node, users = self.graph.nodes[index], self.graph.users
        before = {edge[0] for edge in node.inputs if edge is not None}
        parts = [self.fronts[i] for i in before]
        if node.op not in NO_ACTIVATION or _bends(node) or not all(part.is_plain for part in parts):
            return _Front(is_plain=False)
        own = _layer(self.first, index) if node.op in AFFINE else _Front()
        return _Front(
            is_own=all(self.fronts[i].is_own and {user for user, _ in users[i]} == {index} for i in before),
            nearest=max(own.nearest, *(part.nearest for part in parts), -1),
            has_vectors=own.has_vectors or any(part.has_vectors for part in parts),
            is_excused=own.is_excused or any(part.is_excused for part in parts),
            narrowest=min([own.narrowest, *(part.narrowest for part in parts)]),
        )


def _layer(first: FirstPass, index: int) -> _Front:
    """An affine layer alone: what `is_excused` asks of it."""
    is_vector, name = first.graph.nodes[index].op != "Convolution", weight_of(first.graph, index)
    if not name or _is_special(first, index):
        return _Front(nearest=index, has_vectors=is_vector, is_excused=True)
    middle = width(first.graph, index)
    is_narrow = middle < _inner(first.by_name[name].shape, middle)
    return _Front(nearest=index, has_vectors=is_vector, narrowest=middle if is_narrow else math.inf)


def _bends(node: Node) -> bool:
    """Is it no linear map, and there for nothing else?

    A norm of each sample by its own size that has no weights (Ni et al. 2024, arXiv 2406.01255: a layer norm is no linear map,
    and networks with no other activation tell all classes apart); and a sum with what has no gradient, which can be made of the
    same numbers, as in a straight-through estimator (Bengio et al. 2013, arXiv 1308.3432).
    """
    is_bare = node.op in ("NativeLayerNorm", "NativeGroupNorm") and not any(node.inputs[1:])
    return is_bare or (node.op in ("Add", "Sub") and None in node.inputs[:2])


def _ahead(graph: Graph, edge: Edge | None) -> set[int]:
    found: set[int] = set()
    waiting = [] if edge is None else [edge[0]]
    while waiting:
        index = waiting.pop()
        if index not in found:
            found.add(index)
            waiting += [before[0] for before in graph.nodes[index].inputs if before is not None]
    return found


def single_source(first: FirstPass, index: int) -> int | None:
    """The affine layer whose output, and nothing else, is the input of this one. A batch norm may stand between convolutions,
    and between layers of one module (that of a projection, behind which another module begins, is meant so: SimSiam)."""
    graph = first.graph
    op = graph.nodes[index].op
    edge = graph.nodes[index].inputs[AFFINE[op][0]]
    has_norm = False
    while edge is not None:
        node = graph.nodes[edge[0]]
        if len(graph.users[edge[0]]) != 1:
            return None
        if node.op in AFFINE:
            return edge[0] if not has_norm or node.op == op == "Convolution" or _are_siblings(graph, edge[0], index) else None
        is_dropout = first.kinds.get(node.module, "").startswith("Dropout")
        is_norm = node.op in BATCH_NORMS
        has_norm |= is_norm
        if not (node.op in SAME_LINE or is_dropout or is_norm or _adds_parameter(graph, edge[0]) or _is_factor(graph, edge[0])):
            return None
        edge = node.inputs[0] if node.inputs[0] is not None else node.inputs[1]
    return None


def _are_siblings(graph: Graph, one: int, two: int) -> bool:
    holders = {module_of(module_of(weight_of(graph, i))) for i in (one, two)}
    return len(holders) == 1


def _adds_parameter(graph: Graph, index: int) -> bool:
    node = graph.nodes[index]
    return node.op == "Add" and node.inputs[0] is not None and len(node.inputs) > 1 and _is_vector(graph, node.inputs[1])


def _is_vector(graph: Graph, edge: Edge | None) -> bool:
    return edge is not None and bool(graph.nodes[edge[0]].parameter) and len(graph.nodes[edge[0]].shape) == 1


def _is_factor(graph: Graph, index: int) -> bool:
    node = graph.nodes[index]
    is_alone = node.op in ("Mul", "Div") and not any(node.inputs[1:])
    return is_alone and (node.facts.get("other_shape") == () or _drops(node))


def _drops(node: Node) -> bool:
    """Is it `F.dropout` on the CPU, a product with 0 and 1 / (1 - p)? One that passes what is positive has 0 and 1."""
    least, most = node.facts.get("other_least"), node.facts.get("other_most", 0.0)
    return node.op == "Mul" and node.facts.get("other_shape") == node.shape and least == 0 and most > 1


def weight_of(graph: Graph, index: int) -> str:
    """The name of the parameter that is the matrix of an affine layer; empty where it is computed."""
    place = AFFINE.get(graph.nodes[index].op, (0, 1))[1]
    leaf = graph.behind(index, place, RESHAPES | {"T", "Transpose", "Permute"})
    return "" if leaf is None else graph.nodes[leaf].parameter


def is_excused(first: FirstPass, one: int, two: int) -> bool:
    """Two affine layers in a row that are meant so, or of which too little is known."""
    graph = first.graph
    names = [weight_of(graph, i) for i in (one, two)]
    if graph.nodes[two].op == "Convolution" != graph.nodes[one].op:  # a decoder begins so: a vector is made an image
        return True
    if not all(names) or names[0] == names[1]:
        return True
    if _is_special(first, one) or _is_special(first, two):
        return True
    middle = width(graph, one)
    return middle < min(_inner(first.by_name[names[0]].shape, middle), width(graph, two))


def _is_special(first: FirstPass, index: int) -> bool:
    """Grouped or transposed convolutions, and what is a part of a module that runs its products itself."""
    facts = first.graph.nodes[index].facts
    return facts.get("groups", 1) != 1 or bool(facts.get("transposed")) or runs_itself(first, index)


def is_meant(first: FirstPass, one: int, two: int) -> bool:
    """Two linear layers in a row that may be meant so: what the first gives has a name of its own, or it is a factor."""
    graph = first.graph
    if "Convolution" in (graph.nodes[one].op, graph.nodes[two].op):
        return False
    outer, inner = (module_of(module_of(weight_of(graph, i))) for i in (two, one))
    is_end_of_part = inner != outer and not outer.startswith(f"{inner}." if inner else "") and not _are_stacked(inner, outer)
    is_prediction = any(last_layer(graph, start.node)[0] == two for start in first.starts)
    is_factor = (
        not has_own_bias(graph, one) and has_own_bias(graph, two) and graph.behind(two, AFFINE[graph.nodes[two].op][0]) == one
    )
    return is_factor or (is_end_of_part and not is_prediction)


def _are_stacked(one: str, two: str) -> bool:
    """Do two names differ in numbers only: blocks of one stack?

    >>> _are_stacked("blocks.0.ffn", "blocks.1.ffn"), _are_stacked("encoder", "decoder")
    (True, False)
    """
    return re.sub(r"\d+", "#", one) == re.sub(r"\d+", "#", two)


def runs_itself(first: FirstPass, index: int) -> bool:
    """Is this operation a part of attention or of a recurrent layer?"""
    places = (module_of(weight_of(first.graph, index)), first.graph.nodes[index].module)
    kinds = " ".join(first.kinds.get(part, "") for place in places for part in (place, module_of(place)))
    return any(word in kinds for word in RUNS_ITSELF)


def width(graph: Graph, index: int) -> int:
    """Outputs of an affine layer."""
    node = graph.nodes[index]
    return node.shape[1 if node.op == "Convolution" else -1]


def _inner(shape: tuple[int, ...], middle: int) -> int:
    """Inputs of the first layer: the other axis of its matrix, whichever way it is kept."""
    return shape[1] if shape[0] == middle else shape[0]


def last_layer(graph: Graph, loss: int) -> tuple[int | None, bool]:
    """The affine layer that gives the prediction of a loss, with only parts, factors, added constants and mixtures of its rows
    between; whether it has a bias, or something is added. None where there is no such layer."""
    edge = next((one for one in graph.nodes[loss].inputs if one is not None), None)
    has_bias = False
    while edge is not None and (graph.nodes[edge[0]].op not in AFFINE or _mixes_rows(graph, edge[0])):
        node = graph.nodes[edge[0]]
        if _mixes_rows(graph, edge[0]):
            edge = node.inputs[1]
            continue
        is_difference = node.op == "Sub" and graph.nodes[loss].op not in LOSSES and edge[0] == graph.behind(loss)
        if node.op not in {*PARTS, "Add", "Sub", "Mul", "Div", "Neg"}:
            return None, False
        has_bias |= node.op in ("Add", "Sub") and not is_difference
        others = [one for one in node.inputs if one is not None and not graph.nodes[one[0]].parameter]
        edge = others[0] if len(others) == 1 else None
    return (None, False) if edge is None else (edge[0], has_bias or has_own_bias(graph, edge[0]))


def _mixes_rows(graph: Graph, index: int) -> bool:
    """Is it a given matrix times what the model gives for each row, as a graph's adjacency is? It has no weights of its own."""
    node = graph.nodes[index]
    return node.op == "Mm" and node.inputs[0] is None and not weight_of(graph, index)


LOSSES: Final = ("MseLoss", "SmoothL1Loss", "HuberLoss")


def has_own_bias(graph: Graph, index: int) -> bool:
    """Does an affine operation add a bias, frozen ones included?"""
    node = graph.nodes[index]
    if node.op == "Convolution":
        return any(node.facts.get("bias_sym_sizes_opt", ())) or node.inputs[2] is not None
    return node.op != "Mm"


HOMOGENEOUS: Final[frozenset[str]] = (
    PARTS
    | MOVES
    | POOLS
    | {"Relu", "LeakyRelu", "Abs", "Mul", "Div", "Neg", "Add", "Sub", "NativeDropout", *AFFINE, "Parameter"}
)

# f(-x) = -f(x): of inputs that lie as far on one side of 0 as on the other, what they give has a mean of 0.
ODD: Final[frozenset[str]] = (
    PARTS | MOVES | {"Tanh", "Atan", "Asinh", "Erf", "Sin", "Neg", "Div", "Add", "Sub", "NativeDropout", "Parameter", *AFFINE}
)


def constants_before(graph: Graph, index: int, harmless: frozenset[str] = HOMOGENEOUS) -> bool:
    """Can what a layer takes hold a constant that does not come with the batch: a bias, a shift, an operation that is not
    known to be `harmless`?"""
    for i in _ahead(graph, graph.nodes[index].inputs[AFFINE[graph.nodes[index].op][0]]):
        node = graph.nodes[i]
        if node.op not in harmless or (node.op in AFFINE and has_own_bias(graph, i)):
            return True
        if node.op in ("Add", "Sub", "Cat") and any(e is None or graph.nodes[e[0]].parameter for e in node.inputs):
            return True
    return False


def is_linear_before(graph: Graph, index: int) -> bool:
    """Is all that a layer takes a linear function of the batch?"""
    ahead = _ahead(graph, graph.nodes[index].inputs[AFFINE[graph.nodes[index].op][0]])
    return all(graph.nodes[i].op in NO_ACTIVATION and graph.nodes[i].op not in NORMS for i in ahead)


def is_product(first: FirstPass) -> bool:
    """Is what the last affine layer takes, and gives, a product of matrices: all in front linear, and no bias anywhere?"""
    nodes = first.graph.nodes
    affine = [i for i, node in enumerate(nodes) if node.op in AFFINE]
    is_pooled = any(node.op.startswith(("MaxPool", "AdaptiveMaxPool")) for node in nodes)
    has_bias = any(_adds_parameter(first.graph, i) for i in range(len(nodes)))
    return not (is_pooled or has_bias) and all(
        is_linear_before(first.graph, i) and not has_own_bias(first.graph, i) for i in affine
    )
