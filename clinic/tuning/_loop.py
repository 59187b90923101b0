"""The loop of those tuning programs whose fault is not in the loop, and what several measure."""

import copy
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from clinic.frame import Case
from clinic.tuning._data import Batch, draw

LossOf = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]


def cross_entropy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(x), y)


def squares(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(model(x), y)


def fit(
    case: Case,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Batch,
    loss_of: LossOf,
    truth: Callable[[int, Batch], bool],
    after: Callable[[int], None] = lambda step: None,
    learnt: float = 0.9,
) -> None:
    """The usual loop. The twin has learnt where the loss over all data has fallen to this share of the first."""
    first = loss_of(copy.deepcopy(model), *data).item()
    batches = draw(data)
    with case.watch(model):
        for step in range(case.steps):
            batch = next(batches)
            optimizer.zero_grad()
            loss_of(model, *batch).backward()
            case.truth(lambda step=step, batch=batch: truth(step, batch))
            optimizer.step()
            after(step)
    case.proof(lambda: loss_of(model, *data).item() < learnt * first)


def he(layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear | nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
