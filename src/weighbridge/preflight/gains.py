"""Initial weights that let the gradient vanish, or signals explode, along a plain chain of layers.

A chain is affine layers with nothing between but one activation after another: no sum, no norm, no second use, so neither
residuals nor norms are in it. What passes through is known from the weights alone (mean field theory): a layer multiplies the
norm of the gradient, and the rms of what it is given, by rms(w) sqrt(inputs), and an activation by the root of the mean of its
squared slope. Told only where both say so: what was measured on the batch, and the product of what the weights give. The last
layer before the loss is left out: it may start small, or at zero.

References: Poole et al. 2016, "Exponential expressivity in deep neural networks through transient chaos"; Schoenholz et al.
2017, "Deep information propagation" (depth to which a signal comes); He et al. 2015 (1/2 of ReLU); Glorot & Bengio 2010.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from weighbridge.diagnosis import Finding, TableEvidence, ValueEvidence
from weighbridge.diagnosis.affine import weight_of
from weighbridge.diagnosis.graphrule import BEFORE, depth, module_of
from weighbridge.diagnosis.rule import Severity
from weighbridge.diagnosis.tensors import in_code
from weighbridge.firstpass import FirstPass
from weighbridge.format import number
from weighbridge.lossgraph import AFFINE, RESHAPES, Graph
from weighbridge.preflight.records import Layer

RULE: Final = "wrong-initial-scale"
# Root of the mean squared slope of a unit normal, rounded up; for what is not here, 1 bounds it.
SLOPES: Final = {
    **dict.fromkeys(("Relu", "Gelu", "Silu", "Mish", "Hardswish"), math.sqrt(0.5)),
    **dict.fromkeys(("Tanh", "Elu", "LeakyRelu", "Hardtanh", "Softplus"), 1.0),
    "Sigmoid": 0.25,
}
BETWEEN: Final = RESHAPES | {"NativeDropout", "MaxPool2DWithIndices", "MaxPool3DWithIndices"}  # pass on what they pass on
LIMIT: Final = 100.0  # over the whole depth
VANISHED: Final = 6.0**5  # ten ReLU layers as PyTorch initialises them, each 1 / sqrt(6): as vanishing-gradient has it
EXPLODED: Final = 1e3  # as exploding-gradient has it
EXPERIMENT: Final = "Initialise these layers with torch.nn.init.kaiming_normal_: if this is right, the gains are then near 1."
LEAST: Final = 3  # layers, to speak of a depth
ABRUPT: Final = 0.5  # share of the whole change at one layer, from which it is the answer


@dataclass(frozen=True, slots=True)
class Link:
    """One layer of a chain."""

    node: int
    layer: Layer
    gain: float  # rms(w) sqrt(inputs)
    expected: float  # of the gradient's norm through this layer and the activation before it; 1 for the first

    @property
    def gradient(self) -> float:
        """Norm of dL/dh by what the layer gives."""
        return (self.layer.gradient_rms or 0.0) * math.sqrt(math.prod(self.layer.output_shape))

    @property
    def size(self) -> float:
        return self.layer.output_rms or 0.0


def findings(first: FirstPass, layers: Sequence[Layer]) -> Iterator[Finding]:
    """One per chain. `layers`: the rows of the table, which have the measured sizes."""
    for chain in chains(first, layers):
        expected = math.prod(link.expected for link in chain)
        backward, forward = _ratio(chain[0].gradient, chain[-1].gradient), _ratio(chain[-1].size, chain[0].size)
        if 0 < backward < 1 / LIMIT and 0 < expected < 1 / LIMIT:
            severity: Severity = "warning" if max(backward, expected) < 1 / VANISHED else "note"
            yield _finding(first, chain, severity, backward, expected, f"The gradient falls to {number(backward)} of its size")
        elif max(backward, forward) > LIMIT and expected > LIMIT:
            severity = "warning" if min(max(backward, forward), expected) > EXPLODED else "note"
            what = (
                f"The gradient grows ×{number(backward)}"
                if backward > forward
                else f"What layers give grows ×{number(forward)}"
            )
            yield _finding(first, chain, severity, max(backward, forward), expected, what)


def _ratio(top: float, bottom: float) -> float:
    return top / bottom if bottom else 0.0


def chains(first: FirstPass, layers: Sequence[Layer]) -> Iterator[tuple[Link, ...]]:
    """The longest plain chains of at least LEAST layers whose sizes are known, the shallowest layer first."""
    known = {one.module: one for one in layers if one.calls == 1}
    affine = [i for i, node in enumerate(first.graph.nodes) if node.op in AFFINE and _is_known(first.graph, i, known)]
    before = {i: source for i in affine if (source := _source(first, i)) is not None and source[0] in affine}
    ahead = {source: i for i, (source, _) in before.items()}
    for start in affine:
        if start in before:
            continue
        chain, at = [_link(first, known, start, None)], start
        while at in ahead:
            at = ahead[at]
            chain.append(_link(first, known, at, before[at][1]))
        if not _feeds_a_layer(first.graph, at):
            chain.pop()
        if len(chain) >= LEAST:
            yield tuple(chain)


def _is_known(graph: Graph, index: int, known: Mapping[str, Layer]) -> bool:
    node = graph.nodes[index]
    return node.module in known and module_of(weight_of(graph, index)) == node.module and not node.facts.get("transposed")


def _source(first: FirstPass, index: int) -> tuple[int, float] | None:
    """The affine layer whose output, and nothing else, comes in here, and the slope of the activations between."""
    graph, slope = first.graph, 1.0
    edge = graph.nodes[index].inputs[AFFINE[graph.nodes[index].op][0]]
    while edge is not None and len(graph.users[edge[0]]) == 1:
        node = graph.nodes[edge[0]]
        if node.op in AFFINE:
            return edge[0], slope
        is_dropout = first.kinds.get(node.module, "").startswith("Dropout")
        if not (node.op in SLOPES or node.op in BETWEEN or is_dropout):
            return None
        slope *= SLOPES.get(node.op, 1.0)
        edge = node.inputs[0]
    return None


def _feeds_a_layer(graph: Graph, index: int) -> bool:
    waiting, seen = [index], {index}
    while waiting:
        for user, _ in graph.users[waiting.pop()]:
            if graph.nodes[user].op in AFFINE:
                return True
            if user not in seen:
                seen.add(user)
                waiting.append(user)
    return False


def _link(first: FirstPass, known: Mapping[str, Layer], index: int, slope: float | None) -> Link:
    layer = known[first.graph.nodes[index].module]
    shape = first.by_name[weight_of(first.graph, index)].shape
    gain = math.hypot(layer.weight_mean or 0.0, layer.weight_std or 0.0) * math.sqrt(math.prod(shape[1:]))
    return Link(index, layer, gain, 1.0 if slope is None else gain * slope)


def _finding(
    first: FirstPass, chain: Sequence[Link], severity: Severity, measured: float, expected: float, what: str
) -> Finding:
    worst = max(chain[1:], key=lambda link: abs(math.log(link.expected)))
    place = worst if abs(math.log(worst.expected)) > ABRUPT * abs(math.log(expected)) else chain[0]
    each = abs(expected) ** (1 / (len(chain) - 1))
    ends = f"{in_code(chain[0].layer.module)} to {in_code(chain[-1].layer.module)}"
    message = (
        f"{what} along the {len(chain)} layers from {ends}; the initial weights alone give {number(expected)}, "
        f"{number(each)} a layer (1 keeps sizes)."
    )
    rows = tuple((link.layer.module, link.gain, link.size, link.gradient) for link in chain)
    evidence = (
        ValueEvidence("change over the whole depth", measured, limit=1 / LIMIT if expected < 1 else LIMIT),
        ValueEvidence("expected from the weights", expected),
        TableEvidence("layers", ("layer", "gain of the weights", "rms of the output", "norm of dL/dh"), rows),
    )
    weight = f"{in_code(place.layer.module)}.weight"
    fix = f"torch.nn.init.kaiming_normal_({weight}, nonlinearity='relu') in each of them, or norm layers between."
    told = Finding(place.layer.module, BEFORE, BEFORE, message, evidence, fix, RULE, severity, "heuristic")
    return dataclasses.replace(told, experiment=EXPERIMENT, depth=depth(first, place.node))
