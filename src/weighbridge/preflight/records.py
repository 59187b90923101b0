"""What a trial pass leaves behind for the table of layers, beside what rules read. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from weighbridge.firstpass import FirstPass


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
    symmetric_share: float | None = None  # units that start as another one does: same weights, not all 0, and same gradient
    update_ratio: float | None = None  # rms(update) / rms(weight) at the next step of the optimizer that was given


@dataclass(frozen=True, slots=True)
class Trial:
    """All that one forward and backward pass on a copy of the model has shown."""

    first: FirstPass
    layers: tuple[Layer, ...]
    loss: float
    remarks: tuple[str, ...] = ()
