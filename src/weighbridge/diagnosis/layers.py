"""How modules hang together, as far as the table of tensors tells: whose parameters, what was executed before and after.

Only names, shapes and the order of execution are known here, not which module is given what; so everything here answers
with nothing where it is not sure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from weighbridge.diagnosis.tensors import Tensors

AFFINE: Final = frozenset(
    {
        *("Linear", "Bilinear", "NonDynamicallyQuantizableLinear", "Conv1D"),
        *("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"),
    }
)
NORMS: Final = frozenset(
    {
        *("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm", "LayerNorm", "GroupNorm", "RMSNorm"),
        *("InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"),
    }
)
RECURRENT: Final = frozenset({"RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"})
WEIGHTS: Final = ("weight", "weight_ih_l0", "weight_ih")
CHANNELS_SECOND: Final = (
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose",
    "BatchNorm",
    "SyncBatchNorm",
    "InstanceNorm",
    "GroupNorm",
)


class Layers:
    """Answers about the columns of a table of tensors."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors
        outputs = [c for c, t in enumerate(tensors) if t.is_output]
        self.outputs = sorted(outputs, key=lambda c: (tensors[c].model, tensors[c].order))
        self._at = {c: i for i, c in enumerate(self.outputs)}
        self._parameters: dict[tuple[str, str], dict[str, int]] = {}
        for c, t in enumerate(tensors):
            for name in () if t.is_output or t.note else (t.name, *t.aliases):
                path, _, own = name.rpartition(".")
                self._parameters.setdefault((t.model, path), {})[own] = c

    def parameters(self, output: int) -> dict[str, int]:
        """Columns of the parameters of the module that gives this, by their own names."""
        return self._parameters.get((self.tensors[output].model, self.tensors.owner(output)), {})

    def weight(self, output: int) -> int | None:
        """The weight of the module that gives this; None where it has none."""
        own = self.parameters(output)
        return next((own[name] for name in WEIGHTS if name in own), None)

    def is_trained(self, output: int) -> bool:
        """Has its module a weight, and is that trained?"""
        weight = self.weight(output)
        return weight is not None and self.tensors[weight].requires_grad

    def is_inside(self, column: int) -> bool:
        """Is it a weight that is trained, of which a row of `spread` tells what a function makes of it inside its module?"""
        return not self.tensors[column].is_output and self.tensors[column].requires_grad

    def bias(self, output: int) -> int | None:
        """The bias of such a module, where it is trained."""
        found = self.parameters(output).get("bias")
        return found if found is not None and self.tensors[found].requires_grad else None

    def place(self, output: int) -> str:
        """Its module's place in a finding."""
        return self.tensors.place_of(output)

    def units(self, output: int) -> int:
        """How many units it has: channels of what comes from convolutions, else the last dimension; 0 = not known."""
        shape = self.tensors[output].shape
        second = self.tensors[output].module.startswith(CHANNELS_SECOND) or len(shape) in (4, 5)
        return 0 if len(shape) < 2 else shape[1] if second else shape[-1]

    def samples(self, output: int, n: int) -> int:
        """How many samples n numbers of each unit are at least: positions of one sample count as one."""
        shape = self.tensors[output].shape
        positions = self.tensors[output].count // max(1, shape[0] * self.units(output)) if len(shape) > 2 else 1
        return n // max(1, positions)

    def before(self, output: int) -> Iterator[int]:
        """What the same model executed before it, the nearest first."""
        model = self.tensors[output].model
        return (c for c in reversed(self.outputs[: self._at[output]]) if self.tensors[c].model == model)

    def after(self, output: int) -> Iterator[int]:
        """What the same model executed after it, the nearest first."""
        model = self.tensors[output].model
        return (c for c in self.outputs[self._at[output] + 1 :] if self.tensors[c].model == model)

    def producer(self, activation: int) -> int:
        """The affine module or norm whose output an activation most likely takes: the last one executed before it, if it has as
        many units and no other activation has come between; else the activation itself."""
        for c in self.before(activation):
            if self.weight(c) is not None:
                return c if self.units(c) == self.units(activation) else activation
            if self.tensors[c].module == self.tensors[activation].module:
                return activation
        return activation
