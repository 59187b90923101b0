"""The actual numbers of small tensors (architecture decision 15): whose are kept when.

For the tutorial's 2-4-1 network this would be the dearest part of a step, so the kernel copies the numbers of plain
float32 tensors itself. Whatever else (other dtypes, strides, gathered tensors) goes through torch, one by one.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch

from weighbridge.capture.addresses import PLAIN
from weighbridge.capture.plan import (
    EVERY_STEP_ELEMENTS,
    EVERY_STEP_MODEL_ELEMENTS,
    EVERY_STEP_UNTIL,
    SAMPLED_MODEL_TENSORS,
    SAMPLES_PER_DECADE,
    next_log_spaced,
)
from weighbridge.capture.shards import is_sharded
from weighbridge.capture.snapshots import Snapshots, as_real
from weighbridge.records import Quantity

_PARAMETER, _GRADIENT, _UPDATE = int(Quantity.PARAMETER), int(Quantity.GRADIENT), int(Quantity.UPDATE)


_EVERY_STEP, _SAMPLED = 1, 2  # bits of an item's `values`, and of what a step keeps


class Values:
    """The small tensors among the items of one optimizer. Marks those whose numbers the kernel keeps itself.

    `limit`: elements of the largest that counts as small (Plan.values_elements).
    """

    def __init__(self, snapshots: Snapshots, limit: int) -> None:
        self.snapshots = snapshots
        self._sampled_at = 0  # the next step of the samples; steps only grow
        self.every_step, self.sampled = _chosen(snapshots, limit)
        marks = dict.fromkeys(self.every_step, _EVERY_STEP | _SAMPLED) | dict.fromkeys(self.sampled, _SAMPLED)
        by_kernel = {
            i: mark
            for i, mark in marks.items()
            if snapshots.reached[i] == PLAIN and snapshots.parameters[i].dtype is torch.float32
        }
        self.rest = [(i, mark) for i, mark in marks.items() if i not in by_kernel]
        for i, mark in by_kernel.items():
            snapshots.items["values"][i] = mark
        self.room = {}  # (rows, bytes) that the kernel writes in a step, by what the step keeps
        for keep in (_EVERY_STEP, _SAMPLED):
            sizes = [snapshots.sizes[i] for i, mark in by_kernel.items() if mark & keep]
            self.room[keep] = (3 * len(sizes), 3 * sum(sizes))

    def kept_at(self, step: int) -> int:
        """Which tensors' numbers are kept at this step, as bits; 0 = of none."""
        if step > self._sampled_at:
            self._sampled_at = next_log_spaced(step, SAMPLES_PER_DECADE)
        if step == self._sampled_at:
            return _SAMPLED
        return _EVERY_STEP if step < EVERY_STEP_UNTIL else 0

    def kept_from(self, step: int) -> tuple[int, float]:
        """The same from this step on, and the first step at which it may be another: EVERY_STEP_UNTIL is a sampled one, too."""
        keep = self.kept_at(step)
        return keep, step + 1 if keep == _SAMPLED else self._sampled_at

    def keep_rest(self, keep: int, step: int, attempt: int, rows: list[tuple[Any, ...]]) -> None:
        """Append what the kernel does not keep. Call with gradients attached, before `weigh` refreshes the copies."""
        for i, mark in self.rest:
            if mark & keep:
                rows.extend((step, attempt, self.snapshots.weighed[i].tensor, *value) for value in self._through_torch(i))

    def _through_torch(self, i: int) -> list[tuple[int, str, bytes]]:
        """(quantity, dtype, bytes in C order) of any tensor."""
        snapshots = self.snapshots
        parameter = snapshots.parameters[i]
        is_complex = parameter.is_complex()
        before, after = self._copy(i, snapshots.addresses[i]), self._copy(i, int(snapshots.items["parameter"][i]))
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


def encoded(real: torch.Tensor, is_complex: bool) -> tuple[str, bytes]:
    """(name of the dtype, bytes in C order); a complex tensor's pairs are its own bytes."""
    name = str(real.dtype).removeprefix("torch.")
    if is_complex:
        name = "complex64" if real.dtype is torch.float32 else "complex128"
    return name, real.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _chosen(snapshots: Snapshots, limit: int) -> tuple[list[int], list[int]]:
    """(items whose values are kept at every step, items whose values are kept on sampled steps)."""
    every_step: list[int] = []
    sampled: list[int] = []
    left, left_sampled = EVERY_STEP_MODEL_ELEMENTS, SAMPLED_MODEL_TENSORS * limit
    for i in sorted(range(len(snapshots.weighed)), key=lambda i: snapshots.weighed[i].tensor):
        if is_sharded(snapshots.parameters[i]):
            continue  # the numbers of a part alone have no shape that a reader could show
        count = int(snapshots.items["count"][i])
        if 0 < count <= min(EVERY_STEP_ELEMENTS, limit) and count <= left:
            every_step.append(i)
            left -= count
        elif 0 < count <= limit and count <= left_sampled:
            sampled.append(i)
            left_sampled -= count
    return every_step, sampled
