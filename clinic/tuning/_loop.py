"""The loop of those tuning programs whose fault is not in the loop, and what several measure."""

import copy
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from clinic.frame import Case
from clinic.tuning._data import Batch, draw

LossOf = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
Truth = Callable[[int, Batch], bool]  # of the step and its batch


def cross_entropy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(x), y)


def squares(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(model(x), y)


def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    return float((model(x).argmax(-1) == y).float().mean())


def train(
    case: Case,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Batch,
    loss_of: LossOf = cross_entropy,
    truth: Truth = lambda step, batch: False,
    *,
    size: int | None = 32,
    steps: int | None = None,
    clip: Callable[[], object] = lambda: None,
    after: Callable[[int], object] = lambda step: None,
) -> None:
    """Zero, forward, backward, clip, step, on batches of `size` (None: all data). `truth` is asked before each step."""
    batches = draw(data, size)
    with case.watch(model):
        for step in range(steps or case.steps):
            batch = next(batches)
            optimizer.zero_grad()
            loss_of(model, *batch).backward()
            clip()
            case.truth(lambda step=step, batch=batch: truth(step, batch))
            optimizer.step()
            after(step)


def fit(
    case: Case,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Batch,
    loss_of: LossOf,
    truth: Truth,
    after: Callable[[int], object] = lambda step: None,
    learnt: float = 0.9,
) -> None:
    """`train`, and the proof: the loss over all data has fallen to this share of the first."""
    first = loss_of(copy.deepcopy(model), *data).item()
    train(case, model, optimizer, data, loss_of, truth, after=after)
    case.proof(lambda: loss_of(model, *data).item() < learnt * first)


def he(layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear | nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
