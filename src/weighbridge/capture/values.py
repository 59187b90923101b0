"""The actual numbers of small tensors (architecture decision 15): which are kept when, and their bytes.

For the tutorial's 2-4-1 network this would be the dearest part of a step, row by row. So dense float32 tensors are
copied together, one string of bytes per quantity and step, and cut into rows by the background thread. Whatever else
(other dtypes, strides, gathered tensors) goes through torch, one by one.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
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
from weighbridge.records import VALUES, Quantity

_PARAMETER, _GRADIENT, _UPDATE = int(Quantity.PARAMETER), int(Quantity.GRADIENT), int(Quantity.UPDATE)


@dataclass(slots=True)
class Together:
    """The float32 values of one step of several tensors. What can wait is done in `batch`, on the writer's thread."""

    step: int
    attempt: int
    tensors: np.ndarray  # int32, their ids
    sizes: np.ndarray  # bytes of each
    before: np.ndarray  # float32, all of them one after another
    after: np.ndarray
    with_gradient: np.ndarray  # ids of those that have a gradient
    gradient_sizes: np.ndarray
    gradient: bytes

    @property
    def nbytes(self) -> int:
        """Bytes that wait for the disk."""
        return self.before.nbytes + self.after.nbytes + len(self.gradient)

    @staticmethod
    def batch(rows: list[Together]) -> pa.RecordBatch:
        """All steps as Arrow: only whole columns are touched."""
        before = np.concatenate([row.before for row in rows])
        with np.errstate(all="ignore"):  # infinity minus infinity is what is recorded, not something to warn the user of
            update = np.concatenate([row.after for row in rows]) - before
        gradients = b"".join([row.gradient for row in rows])
        plain = [(row.step, row.attempt, row.tensors, row.sizes) for row in rows]
        given = [(row.step, row.attempt, row.with_gradient, row.gradient_sizes) for row in rows]
        parts = [_part(_PARAMETER, plain, before), _part(_UPDATE, plain, update), _part(_GRADIENT, given, gradients)]
        return pa.concat_batches([part for part in parts if part.num_rows])


def _part(quantity: int, keys: list[tuple[int, int, np.ndarray, np.ndarray]], data: np.ndarray | bytes) -> pa.RecordBatch:
    """One quantity of several steps: `data` holds the bytes of all its values, in the order of the keys."""
    counts = [len(tensors) for _, _, tensors, _ in keys]
    offsets = np.zeros(sum(counts) + 1, np.int32)
    np.cumsum(np.concatenate([sizes for _, _, _, sizes in keys]), out=offsets[1:])
    length = len(offsets) - 1
    columns = [
        pa.array(np.repeat([step for step, _, _, _ in keys], counts), pa.int64()),
        pa.array(np.repeat([attempt for _, attempt, _, _ in keys], counts), pa.int16()),
        pa.array(np.concatenate([tensors for _, _, tensors, _ in keys]), pa.int32()),
        pa.array(np.full(length, quantity), pa.int8()),
        pa.repeat(pa.scalar("float32"), length),
        pa.Array.from_buffers(pa.binary(), length, [None, pa.py_buffer(offsets), pa.py_buffer(data)]),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=VALUES)


class Group:
    """Dense float32 tensors whose values are kept together."""

    def __init__(self, snapshots: Snapshots, items: list[int]) -> None:
        self.snapshots, self.items = snapshots, items
        self.tensors = np.array([snapshots.weighed[i].tensor for i in items], np.int32)
        self.sizes = [snapshots.sizes[i] for i in items]
        self.sizes_column = np.array(self.sizes, np.int32)
        self.pointers: list[int] = []
        self.before: list[np.ndarray] = []
        self.after: list[np.ndarray] = []

    def keep(self, step: int, attempt: int, rows: list[Any]) -> None:
        """Append the values before and after a step, and the gradients of the tensors that have one."""
        snapshots = self.snapshots
        pointers = snapshots.pointers
        if pointers is not self.pointers:  # a list of its own for each time that some parameter moved
            self.pointers = pointers
            self.before = [_view(snapshots.addresses[i], size) for i, size in zip(self.items, self.sizes, strict=True)]
            self.after = [_view(pointers[i], size) for i, size in zip(self.items, self.sizes, strict=True)]
        at = [snapshots.gradients[i] for i in self.items]
        key, sizes = (self.tensors, self.sizes_column), self.sizes
        if not all(at):
            there = np.flatnonzero(at)
            key, sizes, at = (key[0][there], key[1][there]), [sizes[n] for n in there], [at[n] for n in there]
        gradient = b"".join(map(ctypes.string_at, at, sizes))
        before, after = np.concatenate(self.before), np.concatenate(self.after)
        rows.append(Together(step, attempt, self.tensors, self.sizes_column, before, after, *key, gradient))


class Values:
    """The small tensors among the items of one optimizer."""

    def __init__(self, snapshots: Snapshots) -> None:
        self.snapshots = snapshots
        self.every_step, self.sampled = _chosen(snapshots)
        self.often, self.rest_often = self._grouped(self.every_step)
        self.all, self.rest_all = self._grouped(self.every_step + self.sampled)

    def _grouped(self, items: list[int]) -> tuple[Group | None, list[int]]:
        snapshots = self.snapshots
        together = [i for i in items if snapshots.is_plain[i] and snapshots.parameters[i].dtype is torch.float32]
        return (Group(snapshots, together) if together else None), [i for i in items if i not in set(together)]

    def keep(self, step: int, attempt: int, together: list[Any], rows: list[tuple[Any, ...]]) -> None:
        """Append the values of a step. Call with gradients attached, before `weigh` refreshes the copies."""
        if is_sampled_step(step):
            group, rest = self.all, self.rest_all
        elif step < EVERY_STEP_UNTIL:
            group, rest = self.often, self.rest_often
        else:
            return
        if group is not None:
            group.keep(step, attempt, together)
        for i in rest:
            rows.extend((step, attempt, self.snapshots.weighed[i].tensor, *value) for value in self._through_torch(i))

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


def _view(address: int, size: int) -> np.ndarray:
    return np.frombuffer((ctypes.c_char * size).from_address(address), np.float32)  # type: ignore[call-overload,no-any-return]


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
