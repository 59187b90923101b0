"""What a bias adds beside W.x: from the sums of each unit of the module's output and the bias itself.

With y = W.x + b, the sums over a step of y and y^2 of each unit give those of (y - b)^2 and of b (y - b) exactly, without
another pass over anything: sum (y-b)^2 = sum y^2 - 2 b sum y + n b^2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from weighbridge.capture.closely import Closely
from weighbridge.capture.seats import Seat
from weighbridge.capture.shards import is_sharded
from weighbridge.capture.tensors import TensorTable

if TYPE_CHECKING:
    from weighbridge.capture.outputhook import OutputHook

_AFFINE = (nn.Linear, nn.modules.conv._ConvNd)


class Begun:
    """The sums of a seat's units when a step begins."""

    __slots__ = ("addresses", "count", "sum", "sum_sq")

    def __init__(self, units: int) -> None:
        self.sum, self.sum_sq, self.count = np.empty(units), np.empty(units), 0
        self.addresses = self.sum.ctypes.data, self.sum_sq.ctypes.data

    def note(self, seat: Seat) -> None:
        """A step begins."""
        assert seat.units is not None
        self.count = seat.head.unit_count
        np.copyto(self.sum, seat.units.sum)
        np.copyto(self.sum_sq, seat.units.sum_sq)


class Biases:
    """The affine modules of a run whose bias is weighed against the rest of their output."""

    def __init__(self, table: TensorTable, closely: Closely | None = None) -> None:
        self.table, self.closely = table, closely
        self.seats: dict[OutputHook, Seat] = {}
        self.begun: dict[OutputHook, Begun] = {}

    def meet(self, hook: OutputHook, seat: Seat, module: nn.Module, name: str) -> None:
        """A module has got its seat."""
        if name != "out" or not isinstance(module, _AFFINE):
            return
        bias = module._parameters.get("bias")  # asked by name, a parametrised one would be made anew
        if not isinstance(bias, torch.Tensor):
            return
        if seat.units is not None and bias.numel() == len(seat.units.sum):
            self.seats[hook] = seat
            self.begun[hook] = Begun(len(seat.units.sum))
            self.begun[hook].note(seat)

    def forget(self, hook: OutputHook) -> None:
        """A module is gone."""
        self.seats.pop(hook, None)
        self.begun.pop(hook, None)

    def begin(self, hooks: list[OutputHook]) -> None:
        """A step begins at whose end rows are due: what is in the sums by now is of earlier steps."""
        for hook in hooks:
            if (seat := self.seats.get(hook)) is not None:
                self.begun[hook].note(seat)

    def rows(self, hooks: list[OutputHook], step: int, attempt: int) -> list[tuple[Any, ...]]:
        """Rows of the table of biases. Call before the optimizer changes them."""
        found = []
        for hook in hooks:
            seat, module = self.seats.get(hook), hook.module()
            if seat is None or module is None or not seat.is_called():
                continue
            bias = module._parameters.get("bias")
            if not isinstance(bias, torch.Tensor) or is_sharded(bias) or bias.device.type != "cpu":
                continue
            tensor = self.table.id_of(bias)
            if tensor is not None:
                found.append((step, attempt, tensor, *self._sums(hook, seat, bias)))
        return found

    def _sums(self, hook: OutputHook, seat: Seat, bias: Any) -> tuple[int, float, float, float]:
        """n, n * sum of b^2, sum of (y - b)^2, sum of b * (y - b)."""
        assert seat.units is not None
        begun = self.begun[hook]
        n = seat.head.unit_count - begun.count
        told = self.closely.bias(seat, begun.addresses, n, bias) if self.closely is not None else None
        if told is not None:
            return (n, *told)
        y, y_sq = seat.units.sum - begun.sum, seat.units.sum_sq - begun.sum_sq
        b = bias.detach().double().reshape(-1).cpu().numpy()
        with np.errstate(all="ignore"):  # NaN is what is recorded, not something to warn the user of
            bias_sq, cross = n * float(b @ b), float(b @ y)
        return n, bias_sq, float(y_sq.sum()) - 2 * cross + bias_sq, cross - bias_sq
