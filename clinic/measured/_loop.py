"""The loop of those measured programs whose fault is not in the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case
from clinic.measured._data import pick

ALL = ("", "*")  # places of a fault that is everywhere: the whole run, or anything in it


def never() -> bool:
    return False


def fit(
    case: Case,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[], Tensor],
    truth: Callable[[], bool] = never,
    *,
    clip: Callable[[], Any] | None = None,
    schedule: Any = None,
    learns: float | None = 0.9,
) -> list[float]:
    """Zero, forward, backward, clip, step. `truth` is asked between backward (or clip) and step.

    `learns`: where there is no fault, the last losses must be below this share of the first ones; None = not asked here.
    """
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            optimizer.zero_grad()
            value = loss()
            value.backward()
            if clip:
                clip()
            case.truth(truth)
            optimizer.step()
            if schedule:
                schedule.step()
            losses.append(value.item())
    if learns is not None:
        case.proof(lambda: mean(losses[-10:]) < learns * mean(losses[:3]))
    return losses


def on_batches(
    model: nn.Module, x: Tensor, y: Tensor, criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy, size: int = 32
) -> Callable[[], Tensor]:
    """A loss for `fit`: of the model on rows that are drawn afresh at each call."""

    def loss() -> Tensor:
        rows = pick(len(x), size)
        return criterion(model(x[rows]), y[rows])

    return loss


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def rms(x: Tensor | None) -> float:
    """Root of the mean square; 0 of nothing."""
    return 0.0 if x is None else x.detach().double().square().mean().sqrt().item()


def gradient(model: nn.Module) -> float:
    """Norm of all gradients together."""
    return sum(p.grad.double().square().sum().item() for p in model.parameters() if p.grad is not None) ** 0.5


def weight(model: nn.Module) -> float:
    """Norm of all parameters together."""
    return sum(p.detach().double().square().sum().item() for p in model.parameters()) ** 0.5


def all_finite(model: nn.Module) -> bool:
    return all(torch.isfinite(p).all() for p in model.parameters())


class Memory:
    """What happened to the parameters since it was asked before: for truths about updates."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.before = model, [p.detach().clone() for p in model.parameters()]

    def moved(self) -> float:
        """Norm of the movement since the last call (or the making)."""
        now = [p.detach().clone() for p in self.model.parameters()]
        distance = sum((a - b).double().square().sum().item() for a, b in zip(now, self.before, strict=True)) ** 0.5
        self.before = now
        return distance


def quietly(work: Callable[[], Any]) -> Any:
    with suppress(Exception), torch.no_grad():
        return work()
