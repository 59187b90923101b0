"""Changes of a copy whose loss is compared with the unchanged one's, unit by unit.

Three of them: a bias taken out; taken out while the weights take over what they can; put in where there is none. What weights
can take over of a constant b is b (v.x), v the least-squares fit of 1 by the layer's inputs: v = E[x x^T]^-1 E[x]. Where inputs
are not centred it is most of it, and a bias is worth less than taking it out makes one think; where they are centred v is 0.
A bias that is put in is what they cannot: b (1 - v.x). v of one half of the samples is used on the other half, and so is the b
that is put in: what was fitted is never judged on what it was fitted to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional as F

from weighbridge.preflight.bias_slots import Slot
from weighbridge.preflight.losses import HeldOut

MOST_FEATURES: Final = 1024  # the fit costs the cube of it
LBFGS_STEPS: Final = 20
HALVES: Final = (0, 1)


def without(model: nn.Module, slot: Slot, held: HeldOut) -> torch.Tensor:
    """The losses with this bias at zero, [units] in float64."""
    assert slot.parameter is not None
    bias = slot.parameter.data
    kept = bias.clone()
    try:
        bias.zero_()
        return held.all(model)
    finally:
        bias.copy_(kept)


@dataclass(slots=True)
class Constant:
    """How well a layer's inputs can make a constant. Sums over each half of the samples."""

    slot: Slot
    held: HeldOut
    products: list[torch.Tensor] = field(default_factory=list)  # of each half: sum of x x^T, [features, features], float64
    totals: list[torch.Tensor] = field(default_factory=list)  # of each half: sum of x
    fits: list[torch.Tensor] = field(default_factory=list)  # of each half: v
    batch: int = 0  # that is running
    shift: list[torch.Tensor] = field(default_factory=list)  # what is added to units of each half, times 1 - v.x

    def losses(self, model: nn.Module) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Of each batch: which half its units belong to, and their losses in float64."""
        for batch in range(len(self.held.batches)):
            self.batch = batch
            yield self.held.half(batch), self.held.of(model, batch).double().cpu()

    def all(self, model: nn.Module) -> torch.Tensor:
        """The losses of all units, [count]."""
        with torch.no_grad():
            return torch.cat([losses for _, losses in self.losses(model)])

    def add(self, _module: nn.Module, args: Any, _output: Any) -> None:
        """Forward hook: adds a batch to the sums."""
        for half in HALVES:
            x = rows(self.slot.module, args[0])[self._chosen(args[0], half)].flatten(0, 1).double()
            self.products[half] += (x.T @ x).cpu()
            self.totals[half] += x.sum(0).cpu()

    def moved(self, _module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        """Forward hook: the output with `shift` times what the inputs cannot make of a constant, by the other half's fit."""
        added = torch.zeros_like(output)
        for half in HALVES:
            chosen = self._chosen(args[0], half)
            left = 1 - rows(self.slot.module, args[0])[chosen].double() @ self.fits[1 - half].to(output.device)
            part = _as_output(self.slot, left, output[chosen]) * _on_axis(self.slot, self.shift[half], output)
            added[chosen] = part.to(output.dtype)
        return output + added

    def _chosen(self, given: torch.Tensor, half: int) -> torch.Tensor:
        parts = self.held.half(self.batch).to(given.device)
        return (parts.expand(given.shape[0]) if len(parts) == 1 else parts) == half


def constant(model: nn.Module, slot: Slot, held: HeldOut) -> Constant | None:
    """The fits of both halves. None where the layer's inputs are not rows of numbers, its first axis is not the samples', or
    there are too many features."""
    size = _features(slot.module)
    if size is None or size > MOST_FEATURES:
        return None
    zeros = (
        [torch.zeros(size, size, dtype=torch.float64) for _ in HALVES],
        [torch.zeros(size, dtype=torch.float64) for _ in HALVES],
    )
    made = Constant(slot, held, *zeros)
    try:
        with _hooked(slot.module, made.add):
            made.all(model)
    except (IndexError, RuntimeError, ValueError):  # shapes that do not go together
        return None
    made.fits = [torch.linalg.pinv(p, hermitian=True) @ t for p, t in zip(made.products, made.totals, strict=True)]
    return made


def taken_over(model: nn.Module, made: Constant) -> torch.Tensor:
    """The losses without the bias, the weights making up for it as well as they can."""
    assert made.slot.parameter is not None
    made.shift = [-made.slot.parameter.detach().double() for _ in HALVES]
    with _hooked(made.slot.module, made.moved):
        return made.all(model)


def put_in(model: nn.Module, made: Constant, units: int) -> torch.Tensor | None:
    """The losses with a bias where there is none, fitted to the other half of the samples. None where that fails."""
    try:
        best = [_fitted(model, made, half, units) for half in HALVES]
    except RuntimeError:  # no gradient comes back to the layer in evaluation mode
        return None
    if not all(bool(one.isfinite().all()) for one in best):
        return None
    made.shift = best[::-1]  # that of the other half
    with _hooked(made.slot.module, made.moved):
        return made.all(model)


def _fitted(model: nn.Module, made: Constant, half: int, units: int) -> torch.Tensor:
    """The bias that makes the loss of one half smallest, all else as it is. L-BFGS from 0."""
    bias = torch.zeros(units, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([bias], max_iter=LBFGS_STEPS, line_search_fn="strong_wolfe")
    made.shift = [bias, bias]

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        halves = [(half_of == half, losses) for half_of, losses in made.losses(model)]
        total = torch.stack([losses[chosen].sum() for chosen, losses in halves]).sum()
        total = total / made.held.count
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with _hooked(made.slot.module, made.moved), torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return bias.detach()


@contextmanager
def _hooked(module: nn.Module, hook: Any) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _features(module: nn.Module) -> int | None:
    """Inputs of one output: those of a row, or of a patch. None where the layer is none that is a matrix times rows."""
    if isinstance(module, nn.Linear):
        return module.in_features
    if isinstance(module, (nn.Conv1d, nn.Conv2d)) and module.groups == 1 and module.padding_mode == "zeros":
        return None if isinstance(module.padding, str) else module.in_channels * math.prod(module.kernel_size)
    return None


def rows(module: nn.Module, given: torch.Tensor) -> torch.Tensor:
    """The inputs as the layer's matrix takes them, [samples, places, features]."""
    if isinstance(module, nn.Linear):
        return given.reshape(given.shape[0], -1, given.shape[-1])
    assert isinstance(module, (nn.Conv1d, nn.Conv2d))
    wide = given if isinstance(module, nn.Conv2d) else given[:, :, None]
    at = [(one if isinstance(module, nn.Conv2d) else (default, *one)) for one, default in _window(module)]
    return F.unfold(wide, at[0], at[1], at[2], at[3]).transpose(1, 2)


def _window(module: Any) -> Sequence[tuple[Any, int]]:
    return (module.kernel_size, 1), (module.dilation, 1), (module.padding, 0), (module.stride, 1)


def _as_output(slot: Slot, left: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """[samples, places] in the shape of the layer's output, with one unit."""
    sizes = list(output.shape)
    sizes[slot.unit_axis(output)] = 1
    return left.reshape(sizes)


def _on_axis(slot: Slot, units: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    return units.to(output.device).reshape(-1, *(1 for _ in range(-1 - slot.unit_axis(output))))
