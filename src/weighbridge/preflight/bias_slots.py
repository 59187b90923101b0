"""Where a model has a bias, and where it could have one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from weighbridge.capture.modulekinds import CHANNELS_SECOND
from weighbridge.capture.roles import is_norm, role_of
from weighbridge.diagnosis.tensors import in_code

# Their output is something plus the bias. transformers' Conv1D is known by its name.
ADDS: Final = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
IN_CONSTRUCTOR: Final = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, nn.RNNBase, nn.MultiheadAttention, nn.LayerNorm)


@dataclass(frozen=True, slots=True)
class Slot:
    """A bias, or the place of one that was left out."""

    layer: str  # dotted name of the module
    attribute: str  # "bias", "in_proj_bias", "bias_ih_l0"
    module: nn.Module
    parameter: nn.Parameter | None

    @property
    def name(self) -> str:
        """The dotted name of the parameter."""
        return f"{self.layer}.{self.attribute}" if self.layer else self.attribute

    @property
    def role(self) -> str:
        """ "bias", or "norm_shift" of a norm."""
        return role_of(self.module, self.attribute)

    @property
    def adds(self) -> bool:
        """Whether the module's output is known to be something plus this bias."""
        return self.attribute == "bias" and (isinstance(self.module, ADDS) or type(self.module).__name__ == "Conv1D")

    def unit_axis(self, output: torch.Tensor) -> int:
        """The axis of the module's output along which the bias differs, counted from the end."""
        if isinstance(self.module, nn.modules.conv._ConvNd):
            return -1 - len(self.module.kernel_size)  # without a batch axis, too
        return 1 - output.ndim if isinstance(self.module, CHANNELS_SECOND) else -1


def slots(model: nn.Module) -> tuple[Slot, ...]:
    """All of a model, in the order of definition; a bias that several modules share once, under its first name."""
    seen: set[int] = set()
    found = []
    for layer, module in model.named_modules():
        for attribute, parameter in _of(module):
            if parameter is None or id(parameter) not in seen:
                found.append(Slot(layer, attribute, module, parameter))
                seen.add(id(parameter))
    return tuple(found)


def _of(module: nn.Module) -> Iterator[tuple[str, nn.Parameter | None]]:
    if isinstance(module, nn.RNNBase) and not module.bias:
        yield "bias", None
    scale = module._parameters.get("weight")
    for attribute, parameter in module._parameters.items():
        if role_of(module, attribute) not in ("bias", "norm_shift"):
            continue
        if parameter is None:
            if not (is_norm(module) and scale is None):  # a norm without any parameters was asked for so
                yield attribute, None
        elif parameter.ndim == 1 or (is_norm(module) and attribute == "bias"):
            yield attribute, parameter


def change(slot: Slot, with_bias: bool) -> str:
    """The line of a program that leaves a bias out, or puts one in."""
    here, module = in_code(slot.layer), slot.module
    if not isinstance(module, IN_CONSTRUCTOR):
        return "" if with_bias else f'{here}.register_parameter("{slot.attribute}", None)'
    if any(True for _ in module.children()):
        return f"{here} = nn.{type(module).__name__}(..., bias={with_bias})"
    written = re.sub(r"\s+", " ", repr(module)).removesuffix(")")
    body = re.sub(r"(, )?bias=(True|False)", "", written)
    return f"{here} = nn.{body}{'' if with_bias else ', bias=False'})"


def left_out(slot: Slot) -> bool:
    """Take the bias out of the module (of a copy): None where the module's forward pass knows what that is, else zero and
    frozen. True where it is gone."""
    module: Any = slot.module
    if slot.attribute == "bias" and isinstance(module, ADDS):
        module.bias = None
        return True
    assert slot.parameter is not None
    with torch.no_grad():
        slot.parameter.zero_().requires_grad_(False)
    return False
