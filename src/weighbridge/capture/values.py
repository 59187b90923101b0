"""The actual numbers of small tensors (architecture decision 15): which are kept when, and their bytes.

For the tutorial's 2-4-1 network this is the dearest part of a step, so dense float32 and float64 tensors are read through
NumPy views that are made once; whatever else (bf16, strides, gathered tensors) goes through torch.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

import numpy as np
import torch

from weighbridge.capture.plan import (
    EVERY_STEP_ELEMENTS,
    EVERY_STEP_MODEL_ELEMENTS,
    EVERY_STEP_UNTIL,
    SAMPLED_ELEMENTS,
    SAMPLED_MODEL_ELEMENTS,
    is_sampled_step,
)
from weighbridge.capture.snapshots import Snapshots, as_real
from weighbridge.records import Quantity

_PARAMETER, _GRADIENT, _UPDATE = int(Quantity.PARAMETER), int(Quantity.GRADIENT), int(Quantity.UPDATE)
_PLAIN: Final = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


class Values:
    """The small tensors among the items of one optimizer."""

    def __init__(self, snapshots: Snapshots) -> None:
        self.snapshots = snapshots
        self.every_step, self.sampled = _chosen(snapshots)
        self.views: dict[int, tuple[int, np.ndarray, int, np.ndarray]] = {}

    def due(self, step: int) -> list[int]:
        """The items whose values this step keeps."""
        if is_sampled_step(step):
            return self.every_step + self.sampled
        return self.every_step if step < EVERY_STEP_UNTIL else []

    def keep(self, step: int, attempt: int, rows: list[tuple[Any, ...]]) -> None:
        """Append the rows of a step. Call with gradients attached, before `weigh` refreshes the copies."""
        snapshots = self.snapshots
        for i in self.due(step):
            if not snapshots.addresses[i]:
                continue
            tensor = snapshots.weighed[i].tensor
            dtype = _PLAIN.get(snapshots.parameters[i].dtype)
            if dtype is None or not snapshots.parameters[i].is_contiguous():
                rows.extend((step, attempt, tensor, *value) for value in self._through_torch(i))
                continue
            before, after = self._views(i, dtype)
            name = dtype.name
            rows.append((step, attempt, tensor, _PARAMETER, name, before.tobytes()))
            rows.append((step, attempt, tensor, _UPDATE, name, (after - before).tobytes()))
            gradient = snapshots.parameters[i].grad
            if gradient is not None:
                rows.append((step, attempt, tensor, _GRADIENT, *self._gradient(i, gradient)))

    def _views(self, i: int, dtype: np.dtype[Any]) -> tuple[np.ndarray, np.ndarray]:
        """NumPy views on the copy and on the parameter, made anew only where one of them has moved."""
        before_at, after_at = self.snapshots.addresses[i], self.snapshots.pointers[i]
        known = self.views.get(i)
        if known is None or known[0] != before_at or known[2] != after_at:
            size = self.snapshots.sizes[i]
            known = (before_at, _view(before_at, size, dtype), after_at, _view(after_at, size, dtype))
            self.views[i] = known
        return known[1], known[3]

    def _gradient(self, i: int, gradient: torch.Tensor) -> tuple[str, bytes]:
        dtype = _PLAIN.get(gradient.dtype)
        if dtype is None or gradient.layout is not torch.strided or not gradient.is_contiguous():
            return encoded(as_real(gradient.detach().to_dense()), gradient.is_complex())
        return dtype.name, ctypes.string_at(self.snapshots.gradients[i], gradient.numel() * dtype.itemsize)

    def _through_torch(self, i: int) -> list[tuple[int, str, bytes]]:
        """(quantity, dtype, bytes in C order) of any tensor."""
        snapshots = self.snapshots
        parameter = snapshots.parameters[i]
        is_complex = parameter.is_complex()
        before, after = self._copy(i, snapshots.addresses[i]), self._copy(i, snapshots.pointers[i])
        update = after.double() - before.double() if after.dtype is torch.float64 else after.float() - before.float()
        found = [(_PARAMETER, *encoded(before, is_complex)), (_UPDATE, *encoded(update, is_complex))]
        if parameter.grad is not None:
            found.append((_GRADIENT, *encoded(as_real(parameter.grad.detach().to_dense()), is_complex)))
        return found

    def _copy(self, i: int, address: int) -> torch.Tensor:
        """A copy of the bytes at an address as a tensor with the shape of item i."""
        real = as_real(self.snapshots.parameters[i].detach())
        flat = torch.frombuffer(bytearray(ctypes.string_at(address, self.snapshots.sizes[i])), dtype=real.dtype)
        is_direct = self.snapshots.weighed[i].is_direct
        return flat.as_strided(real.shape, real.stride()) if is_direct else flat.view(real.shape)

    def closing(self, step: int, attempt: int, rows: list[tuple[Any, ...]]) -> None:
        """Append the parameters' values as they are after the last step."""
        for i in self.every_step + self.sampled:
            parameter = self.snapshots.parameters[i]
            value = encoded(as_real(parameter.detach()), parameter.is_complex())
            rows.append((step, attempt, self.snapshots.weighed[i].tensor, _PARAMETER, *value))


def _view(address: int, size: int, dtype: np.dtype[Any]) -> np.ndarray:
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype)


def encoded(real: torch.Tensor, is_complex: bool) -> tuple[str, bytes]:
    """(name of the dtype, bytes in C order); a complex tensor's pairs are its own bytes."""
    name = str(real.dtype).removeprefix("torch.")
    if is_complex:
        name = "complex64" if real.dtype is torch.float32 else "complex128"
    return name, real.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _chosen(snapshots: Snapshots) -> tuple[list[int], list[int]]:
    """(items whose values are kept at every step, items whose values are kept on sampled steps)."""
    every_step: list[int] = []
    sampled: list[int] = []
    left, left_sampled = EVERY_STEP_MODEL_ELEMENTS, SAMPLED_MODEL_ELEMENTS
    for i in sorted(range(len(snapshots.weighed)), key=lambda i: snapshots.weighed[i].tensor):
        count = int(snapshots.items["count"][i])
        if 0 < count <= EVERY_STEP_ELEMENTS and count <= left:
            every_step.append(i)
            left -= count
        elif 0 < count <= SAMPLED_ELEMENTS and count <= left_sampled:
            sampled.append(i)
            left_sampled -= count
    return every_step, sampled
