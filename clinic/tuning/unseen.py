"""Faults that nobody had looked for: decay by hand, a schedule stepped too often, a sum with a minus."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from clinic.frame import Case, faulty, healthy
from clinic.tuning._data import diabetes, digits
from clinic.tuning._loop import accuracy, cross_entropy, squares, train


def _mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs))


@faulty(
    "excessive-weight-decay", places=("", "*"), kind="MLP", source="weights multiplied by a factor after each step", steps=120
)
def decay_by_hand(case: Case) -> None:
    x, y = digits()
    model = _mlp(64, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    first = [p.norm().item() for p in model.parameters()]

    def shrink(step: int) -> None:
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(0.9 if case.ill else 0.9999)

    def is_gone(step: int, batch: object) -> bool:
        return all(p.norm().item() < 0.75 * n for p, n in zip(model.parameters(), first, strict=True))

    train(case, model, optimizer, (x, y), cross_entropy, is_gone, size=64, after=shrink)
    case.proof(lambda: accuracy(model, x, y) > 0.3)


@faulty("low-learning-rate", places=("",), kind="MLP", source="forum: scheduler.step() inside the loop over batches", steps=100)
def schedule_by_batch(case: Case) -> None:
    x, y = digits()
    model = _mlp(64, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    def tick(step: int) -> None:
        if case.ill or step % 60 == 59:
            schedule.step()

    train(
        case, model, optimizer, (x, y), cross_entropy,
        lambda step, batch: case.ill and optimizer.param_groups[0]["lr"] < 1e-4, size=64, after=tick,
    )  # fmt: skip
    case.proof(lambda: accuracy(model, x, y) > 0.5)


@faulty("wrong-loss-sign", places=("",), kind="MLP", source="two errors with one minus before their sum", steps=60)
def both_errors_with_a_minus(case: Case) -> None:
    x, y = diabetes()
    model = _mlp(10, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def loss_of(m: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        both = F.mse_loss(m(x), y) + F.l1_loss(m(x), y)
        return -both if case.ill else both

    train(case, model, optimizer, (x, y), loss_of, lambda step, batch: case.ill)
    case.proof(lambda: squares(model, x, y).item() < 0.9)


@healthy(kind="linear model", source="prices in their own units: weights have far to go")
def linear_model_of_far_targets(case: Case) -> None:
    x = torch.randn(500, 5)
    y = 250_000 + x @ torch.randn(5, 1) * 60_000
    model = nn.Linear(5, 1)
    before = copy.deepcopy(model)
    train(case, model, torch.optim.SGD(model.parameters(), lr=0.05), (x, y), squares, size=64)
    case.proof(lambda: squares(model, x, y).item() < 0.01 * squares(before, x, y).item())
