"""What a trial pass leaves behind: plain records that the lint rules read. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

VIEWS: Final = frozenset({"View", "UnsafeView", "ReshapeAlias", "Alias", "Clone", "ToCopy", "Contiguous"})
RESHAPES: Final = VIEWS | {"Unsqueeze", "Squeeze", "SqueezeDim"}  # the same numbers in the same order
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


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of the model, and what the trial pass says about it."""

    name: str
    module: str  # the module that owns it
    kind: str  # the type of that module: "Linear"
    shape: tuple[int, ...]
    size_bytes: int
    is_trainable: bool
    is_called: bool  # its module, or one around it that reads it, ran in the forward pass
    is_optional: bool  # its module is one of several in a ModuleList or ModuleDict of which others ran
    is_optimized: bool | None = None  # None: no optimizer was given
    gradient_rms: float | None = None  # None: no gradient came
    has_equal_rows: bool = False  # all units start with the same weights, not all zero, and get the same gradient
    aliases: tuple[str, ...] = ()  # other names of the same parameter

    @property
    def count(self) -> int:
        total = 1
        for size in self.shape:
            total *= size
        return total


@dataclass(frozen=True, slots=True)
class Layer:
    """One row of the table: a module that computes, at its first call. None: not measured, or there is no such thing."""

    module: str  # PyTorch's dotted name; empty for the model itself
    kind: str
    output_shape: tuple[int, ...]
    calls: int
    parameters: int  # of its own, not those of modules inside it
    has_bias: bool | None  # None: a layer that can have none
    weight_mean: float | None = None
    weight_std: float | None = None
    bias_mean: float | None = None
    bias_std: float | None = None
    output_rms: float | None = None
    forward_gain: float | None = None  # rms(output) / rms(input)
    gradient_rms: float | None = None  # of dL/dh by its output
    backward_gain: float | None = None  # rms(dL/dh by its input) / rms(dL/dh by its output); by the input over all its paths
    dead_share: float | None = None  # units that a ReLU behind it (or it itself) gives 0 for the whole batch
    saturated_share: float | None = None  # units of a tanh or sigmoid with a slope below 0.01 in 95 % of the batch


@dataclass(frozen=True, slots=True)
class Start:
    """A loss at the start, beside the predictor that knows nothing."""

    kind: str  # "cross-entropy" or "squared error"
    place: str  # the module that gives the prediction
    loss: float  # mean over the samples, without weights of classes
    trivial: float  # of the predictor that gives each class the same, or the mean of the targets
    error: float  # standard error of `loss`
    samples: int
    prediction_std: float
    target_mean: float | None = None
    target_std: float | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """The numbers that come in, where the first layer with weights takes them as they are."""

    place: str
    rms: float
    largest_rms: float  # of one feature
    output_rms: float  # of what this layer makes of them
    samples: int


@dataclass(frozen=True, slots=True)
class Trial:
    """All that one forward and backward pass on a copy of the model has shown."""

    graph: Graph
    parameters: tuple[Parameter, ...]
    layers: tuple[Layer, ...]
    kinds: Mapping[str, str]  # type of each module
    written: Mapping[str, str]  # each module without children as its constructor is written: "Linear(in_features=3, ...)"
    loss: float
    has_optimizer: bool = False
    state_tensors: int | None = None  # that the optimizer keeps of each parameter; None: not known
    starts: tuple[Start, ...] = ()
    scale: Scale | None = None
    remarks: tuple[str, ...] = ()
