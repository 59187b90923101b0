"""What the first pass of a training shows: the graph of its loss, and numbers about what came in and what was asked for.

Capture takes it down at the first backward passes of a run, `inspect` on a copy before training; the same rules read both. It
is kept as one JSON text per pass, in the table `graph`. No torch here.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from weighbridge.lossgraph import Graph, Node


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a model. None: not known, or not looked at."""

    name: str
    module: str  # the module that owns it
    kind: str  # the type of that module: "Linear"
    shape: tuple[int, ...]
    size_bytes: int
    is_trainable: bool
    is_called: bool = True  # its module, or one around it that reads it, ran in the forward pass
    is_optional: bool = False  # its module is one of several in a ModuleList or ModuleDict of which others ran
    is_optimized: bool | None = None  # None: no optimizer was given
    gradient_rms: float | None = None  # None: no gradient came
    has_equal_rows: bool = False  # all units start with the same weights, not all zero (inspect: and get the same gradient)
    aliases: tuple[str, ...] = ()  # other names of the same parameter
    is_fresh: bool | None = None  # the numbers that torch's own module begins with; None: it cannot be said

    @property
    def count(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Start:
    """A loss at the start, beside the predictor that knows nothing. Sums over at most 2^20 numbers, evenly chosen."""

    kind: str  # "cross-entropy", "binary cross-entropy" or "squared error" (of whatever is a function of a difference)
    node: int  # of the loss, in the graph
    place: str  # the module that gives the prediction
    loss: float  # mean over the samples, without weights of classes
    trivial: float  # of the predictor that gives each class the same, or the mean of the targets; NaN = targets not known
    error: float  # standard error of `loss`
    samples: int
    prediction_std: float = math.nan
    input_rms: float = math.nan  # of what the last affine layer before the loss takes; 0 = there is none
    target_mean: float = math.nan
    target_std: float = math.nan
    target_low: float = math.nan  # the smallest and the largest
    target_high: float = math.nan
    floor: float = 0.0  # mean squared distance of the targets from what the output's activation can give; 0 = it has no limit
    rows: int = 0  # samples by the first axis
    offset: float = math.nan  # of the targets (where unknown: of target less prediction): squared mean by variance, of columns


@dataclass(frozen=True, slots=True)
class Scale:
    """The numbers that come in, where a layer with weights takes them as they are."""

    node: int  # of the layer, in the graph
    place: str
    samples: int
    rms: float
    largest_rms: float  # of one feature
    largest: float  # absolute value
    output_rms: float  # expected of what this layer makes of them: root of the sum over features of E[x^2] times mean W^2
    mean_power: float  # sum over the features of the squared mean,
    variance: float  # and of the variance
    constants: int  # features that are the same in all samples, and not 0
    features: int = 1


@dataclass(frozen=True)
class FirstPass:
    """One forward pass, and perhaps its backward pass."""

    graph: Graph
    parameters: tuple[Parameter, ...]
    kinds: Mapping[str, str] = field(default_factory=dict)  # type of each module
    written: Mapping[str, str] = field(default_factory=dict)  # constructors: "Linear(in_features=3, ...)"
    starts: tuple[Start, ...] = ()
    scales: tuple[Scale, ...] = ()
    state_tensors: int | None = None  # that the optimizer keeps of each parameter; None: not known
    has_gradients: bool = False  # the backward pass was waited for: what has no gradient gets none
    has_optimizer: bool = False

    @functools.cached_property
    def by_name(self) -> Mapping[str, Parameter]:
        return {parameter.name: parameter for parameter in self.parameters}


def to_text(first: FirstPass) -> str:
    """As JSON; a node is a list, without what it has not."""
    nodes = [[n.op, n.inputs, n.shapes, n.parameter, n.module, dict(n.facts)] for n in first.graph.nodes]
    plain = {name: getattr(first, name) for name in ("kinds", "written", "state_tensors", "has_gradients", "has_optimizer")}
    lists = {name: [_plain(one) for one in getattr(first, name)] for name in ("parameters", "starts", "scales")}
    return json.dumps({"nodes": nodes, "roots": first.graph.roots, **plain, **lists}, separators=(",", ":"))


def _plain(one: Parameter | Start | Scale) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__slots__}


@functools.lru_cache(maxsize=8)  # as many as a run may have: each rule asks for them
def from_text(text: str) -> FirstPass:
    """The inverse of `to_text`."""
    read = json.loads(text)
    nodes = tuple(_node(*one) for one in read.pop("nodes"))
    graph = Graph(nodes, tuple(read.pop("roots")))
    parameters = tuple(Parameter(**_tuples(one)) for one in read.pop("parameters"))
    starts = tuple(Start(**one) for one in read.pop("starts"))
    scales = tuple(Scale(**one) for one in read.pop("scales"))
    return FirstPass(graph, parameters, starts=starts, scales=scales, **read)


def _node(op: str, inputs: Sequence[Any], shapes: Sequence[Any], parameter: str, module: str, facts: dict[str, Any]) -> Node:
    edges = tuple(None if edge is None else (edge[0], edge[1]) for edge in inputs)
    return Node(op, edges, tuple(map(tuple, shapes)), parameter, module, _tuples(facts))


def _tuples(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}
