"""What a bias adds beside W.x, over held-out batches: sums of each unit of the layer's output, with the bias taken off.

y = W.x + b; m = W.E[x] is the mean of y - b. All sums in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from weighbridge.preflight.bias_slots import Slot
from weighbridge.preflight.copying import tensors_in
from weighbridge.preflight.losses import HeldOut
from weighbridge.teaching.compare import t_value


@dataclass(slots=True)
class Sums:
    """Of one layer: n numbers of each unit, their sum and sum of squares, b left out; and the samples' mean inputs."""

    bias: torch.Tensor | None  # [units], float64
    n: int = 0
    rest: torch.Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.float64))
    rest_sq: torch.Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.float64))
    samples: int = 0
    mean: torch.Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.float64))  # [features], summed over samples
    mean_sq: torch.Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.float64))
    input_sq: float = 0.0  # mean square of the inputs, summed over samples

    @property
    def ratio(self) -> float | None:
        """rms(b) / rms(W.x) over all units; None where there is no bias or nothing ran."""
        if self.bias is None or not self.n:
            return None
        return _over(float(self.bias.square().mean().sqrt()), math.sqrt(float(self.rest_sq.mean()) / self.n))

    @property
    def ratios(self) -> tuple[float, ...]:
        """|b| / rms(W.x) of each unit."""
        if self.bias is None or not self.n:
            return ()
        rest = (self.rest_sq / self.n).sqrt()
        return tuple(_over(b, r) for b, r in zip(self.bias.abs().tolist(), rest.expand_as(self.bias).tolist(), strict=True))

    @property
    def cancelled(self) -> float | None:
        """1 - |m + b|^2 / |m|^2: 1 where the bias takes all of W.E[x] out, below 0 where it adds to it. None where it is 0,
        or the inputs are centred, as far as can be told."""
        mean = self.rest / max(self.n, 1)
        size = float(mean.square().sum())
        if self.bias is None or not bool(self.bias.any()) or not size > 0 or self.is_centred is not False:
            return None
        return 1 - float((mean + self.bias).square().sum()) / size

    @property
    def offset(self) -> float | None:
        """How far from centred the inputs are: rms of the features' means / rms of the inputs, from 0 to 1."""
        if not self.samples or not self.input_sq > 0:
            return None
        return float((self.mean / self.samples).square().mean().sqrt()) / math.sqrt(self.input_sq / self.samples)

    @property
    def is_centred(self) -> bool | None:
        """Whether all features' means could be 0: n |mean|^2 / sum of variances, in samples, within the 95 % point of
        F(1, n - 1), which it follows if all features move together (otherwise it is rarer that it passes it)."""
        if self.samples < 2:
            return None
        mean = self.mean / self.samples
        spread = float((self.mean_sq / self.samples - mean.square()).clamp_min(0).sum()) / (self.samples - 1)
        return float(mean.square().sum()) <= spread * t_value(self.samples - 1) ** 2


def _over(top: float, bottom: float) -> float:
    return top / bottom if bottom else math.nan if not top else math.inf


def sums(model: nn.Module, found: Sequence[Slot], held: HeldOut) -> Mapping[str, Sums]:
    """Of each layer whose output is known to be something plus its bias; by the bias's name. `model`: a copy."""
    made = {slot.name: Sums(None if slot.parameter is None else slot.parameter.detach().double().flatten().cpu())
            for slot in found if slot.adds}  # fmt: skip
    handles = [s.module.register_forward_hook(_adder(s, made[s.name])) for s in found if s.adds]
    try:
        held.all(model)
    finally:
        for handle in handles:
            handle.remove()
    return {name: one for name, one in made.items() if one.n}


def _adder(slot: Slot, to: Sums) -> Any:
    def add(_module: nn.Module, args: Any, output: Any) -> None:
        given = next(tensors_in(args), None)
        if isinstance(output, torch.Tensor) and given is not None and given.is_floating_point():
            _add_output(slot, to, output.detach().double().cpu())
            _add_input(slot, to, given.detach().double().cpu())

    return add


def _add_output(slot: Slot, to: Sums, output: torch.Tensor) -> None:
    """Adds y - b of one call, units last."""
    wide = slot.parameter.ndim if slot.parameter is not None else 1
    by_unit = output.flatten(-wide) if wide > 1 else output.movedim(slot.unit_axis(output), -1)
    rest = by_unit.reshape(-1, by_unit.shape[-1])
    rest = rest if to.bias is None else rest - to.bias
    to.n += rest.shape[0]
    to.rest = to.rest + rest.sum(0)
    to.rest_sq = to.rest_sq + rest.square().sum(0)


def _add_input(slot: Slot, to: Sums, given: torch.Tensor) -> None:
    """Adds the mean input of each sample, [samples, features]. The first axis is that of the samples."""
    if given.ndim < 2:
        given = given[None]
    mean = given.movedim(slot.unit_axis(given), -1).reshape(given.shape[0], -1, given.shape[slot.unit_axis(given)]).mean(1)
    to.samples += given.shape[0]
    to.mean = to.mean + mean.sum(0)
    to.mean_sq = to.mean_sq + mean.square().sum(0)
    to.input_sq += float(given.square().flatten(1).mean(1).sum())
