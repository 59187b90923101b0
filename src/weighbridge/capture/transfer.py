"""Tensors that are not in CPU memory: weighed by torch operations on their own device, on sampled steps, without waiting.

Each statistic vector is computed on the device and copied to the host behind the training's own work. It is fetched some
steps later, when the device says that it is done; nothing here waits for a device but `drain`, at the run's end.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from weighbridge.capture.fallback import row_from_vector, summarize
from weighbridge.capture.plan import is_sampled_step
from weighbridge.capture.recorder import Recorder
from weighbridge.capture.shards import local
from weighbridge.capture.snapshots import Weighed, as_real
from weighbridge.records import Quantity

EVERY: Final = 100  # besides the log-spaced steps of `plan.is_sampled_step`
_WAITING: Final = 4096  # vectors under way; beyond it a sampled step is left out


@dataclass(slots=True)
class Waiting:
    """A vector on its way to the host."""

    step: int
    tensor: int
    quantity: Quantity
    vector: torch.Tensor
    done: Any  # an event of the device, or None where the copy is finished when the call returns


class DeviceWeigher:
    """The parameters of one optimizer that live on cuda, mps or another device."""

    def __init__(self, weighed: list[Weighed], tell: Callable[[str], None]) -> None:
        self.weighed = weighed
        self.before_values: dict[int, torch.Tensor] = {}
        self.waiting: deque[Waiting] = deque()
        kind = weighed[0].parameter.device.type
        tell(f"{len(weighed)} tensors are on {kind}: weighed by torch operations on sampled steps only")

    def is_due(self, step: int) -> bool:
        """Is this step sampled?"""
        return (is_sampled_step(step) or step % EVERY == 0) and len(self.waiting) < _WAITING

    def before(self, step: int) -> list[int]:
        """Keep the parameters of a sampled step as they are before it. Whether others changed them is not known."""
        if self.is_due(step):
            self.before_values = {w.tensor: as_real(local(w.parameter)).clone() for w in self.weighed}
        return []

    def after(self, step: int, lent: Mapping[int, torch.Tensor] | None, recorder: Recorder) -> None:
        """Start weighing a sampled step, and fetch what has arrived from earlier ones."""
        for one in self.weighed:
            before = self.before_values.get(one.tensor)
            if before is None:
                continue
            self._start(step, one.tensor, Quantity.PARAMETER, before)
            self._start(step, one.tensor, Quantity.UPDATE, as_real(local(one.parameter)) - before)
            gradient = one.parameter.grad if lent is None else lent.get(one.tensor)
            if gradient is not None:
                self._start(step, one.tensor, Quantity.GRADIENT, as_real(local(gradient).to_dense()))
        self.before_values = {}
        self._fetch(recorder, wait=False)

    def weigh_moments(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Not here."""

    def closing(self, step: int) -> None:
        """The `parameter` row of every tensor as it stands at the end."""
        for one in self.weighed:
            self._start(step, one.tensor, Quantity.PARAMETER, as_real(local(one.parameter)))

    @property
    def oldest(self) -> float:
        """The first step of which rows are under way; infinity where none are."""
        return self.waiting[0].step if self.waiting else math.inf

    def drain(self, recorder: Recorder) -> None:
        """Fetch everything that is under way; waits for the device."""
        self._fetch(recorder, wait=True)

    def _start(self, step: int, tensor: int, quantity: Quantity, values: torch.Tensor) -> None:
        vector = summarize(values)
        done: Any = None
        if vector.device.type == "cuda":
            host = torch.empty(vector.shape, dtype=vector.dtype, pin_memory=True)
            host.copy_(vector, non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
            vector = host
        elif vector.device.type == "mps":
            done = torch.mps.Event()
            done.record()
        self.waiting.append(Waiting(step, tensor, quantity, vector, done))

    def _fetch(self, recorder: Recorder, wait: bool) -> None:
        while self.waiting and (wait or self.waiting[0].done is None or self.waiting[0].done.query()):
            one = self.waiting.popleft()
            if wait and one.done is not None:
                one.done.synchronize()
            values, histogram = row_from_vector(one.vector.cpu())
            key = {"step": one.step, "attempt": recorder.attempt, "tensor": one.tensor, "quantity": int(one.quantity)}
            recorder.room(1).add({**values, **key}, histogram)
