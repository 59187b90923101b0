"""What the tutorials print, read back from a run's own records."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from weighbridge.store.record import RunRecord


@dataclass(frozen=True, slots=True)
class EpochMeans:
    """The mean of every parameter after the last step of one epoch, and the loss of that step."""

    epoch: int
    loss: float
    means: dict[str, float]


def values_at(record: RunRecord, name: str, step: int, quantity: str = "parameter") -> np.ndarray:
    """The tensor's numbers at exactly this step; of a parameter: before update `step`."""
    found, values = record.values(name, quantity, step)
    if found != step:
        raise LookupError(f"{name}: nothing kept at step {step}, the nearest before is {found}")
    return values


def epoch_means(record: RunRecord) -> list[EpochMeans]:
    """Per epoch what a hand-written loop prints after it. The values after step k are the row of step k + 1.

    The mean is torch's own, in float32, of the recorded values: the very number that `parameter.mean().item()` printed.
    """
    steps, epochs = record.epochs()
    losses = record.losses()
    loss_of = dict(zip(losses.steps.tolist(), losses.values.tolist(), strict=True))
    found = []
    for epoch in np.unique(epochs):
        last = int(steps[epochs == epoch].max())
        means = {}
        for tensor in record.tensors:
            values = np.array(values_at(record, tensor.name, last + 1))
            means[tensor.name] = torch.from_numpy(values).mean().item()
        found.append(EpochMeans(int(epoch), loss_of[last], means))
    return found


def first_step_without_gradient(record: RunRecord, name: str) -> int | None:
    """The step from which on every gradient of a tensor is exactly 0, if there is one."""
    largest = record.series(name, "gradient.abs_max")
    alive = np.flatnonzero(largest.values != 0)
    after = int(alive[-1]) + 1 if len(alive) else 0
    return int(largest.steps[after]) if after < len(largest.steps) else None
