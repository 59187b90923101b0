"""Faults that a count of samples shows: how many steps does it take until there are enough?"""

from __future__ import annotations

from collections import deque

import torch
from torch import nn
from torch.nn import functional as F

from clinic.frame import Case, faulty, healthy
from clinic.tuning._data import digits
from clinic.tuning._loop import accuracy, cross_entropy, train


def _net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


# ---- lost-updates ----


def _most_stayed(model: nn.Module, before: list[torch.Tensor]) -> bool:
    """Did the step leave more than half of the elements that had a gradient where they were?"""
    moved = [(p.grad != 0, p != b) for p, b in zip(model.parameters(), before, strict=True)]
    return sum(int((had & ~m).sum()) for had, m in moved) > 0.5 * sum(int(had.sum()) for had, _ in moved)


def _bfloat16(case: Case, model: nn.Module, optimizer: torch.optim.Optimizer, measured: bool = False) -> None:
    x, y = digits(middle=0.3)
    with case.watch(model):
        for _ in range(case.steps):
            rows = torch.randint(0, len(x), (64,))
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows].to(next(model.parameters()).dtype)).float(), y[rows]).backward()
            before = [p.detach().clone() for p in model.parameters()]
            optimizer.step()
            if measured:
                case.truth(lambda weights=before: _most_stayed(model, weights))
    case.proof(lambda: F.cross_entropy(model(x.to(next(model.parameters()).dtype)).float(), y).item() < 2.25)


@faulty(
    "lost-updates", places=("", "*"), kind="MLP", source="model.bfloat16() and finetuning's rate of 1e-5 (forum)", data="digits"
)
def all_in_bfloat16(case: Case) -> None:
    model = _net()
    model = model.bfloat16() if case.ill else model
    _bfloat16(case, model, torch.optim.AdamW(model.parameters(), lr=1e-4 if case.ill else 1e-3), measured=True)


@faulty("lost-updates", places=("", "*"), kind="MLP", source="the same with plain gradient descent", data="digits", steps=150)
def descent_in_bfloat16(case: Case) -> None:
    model = nn.Sequential(nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 10))
    model = model.bfloat16() if case.ill else model
    _bfloat16(case, model, torch.optim.SGD(model.parameters(), lr=0.02), measured=True)


@healthy(kind="MLP", source="bfloat16 throughout, at a rate whose updates it can hold", data="digits")
def bfloat16_that_holds(case: Case) -> None:
    model = _net().bfloat16()
    _bfloat16(case, model, torch.optim.Adam(model.parameters(), lr=2e-3))


@healthy(kind="MLP", source="bfloat16 with momentum, whose first updates are a tenth as long", data="digits")
def momentum_in_bfloat16(case: Case) -> None:
    model = _net().bfloat16()
    _bfloat16(case, model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.95))


# ---- scaler-starvation ----


def _scaled(
    case: Case,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    limit: float = 65504.0,
    *,
    measured: bool = False,
) -> None:
    """Gradients above `limit` count as infinite, as in float16. Truth: a third of the last 12 steps, not all, are left out."""
    x, y = digits(middle=0.3)
    last: deque[bool] = deque(maxlen=12)
    with case.watch(model):
        for _ in range(case.steps):
            rows = torch.randint(0, len(x), (64,))
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(x[rows]), y[rows])).backward()
            for p in model.parameters():
                p.grad[p.grad.abs() > limit] = torch.inf
            last.append(any(not p.grad.isfinite().all() for p in model.parameters()))
            if measured:
                case.truth(lambda: len(last) >= 3 and sum(last) >= len(last) / 3 and not all(last))
            scaler.step(optimizer)
            scaler.update()
    case.proof(lambda: accuracy(model, x, y) > 0.5)


@faulty(
    "scaler-starvation", places=("",), kind="MLP", source="growth_interval=1 copied from a unit test", data="digits", steps=60
)
def growth_at_each_step(case: Case) -> None:
    model = _net()
    interval = 1 if case.ill else 2000
    scaler = torch.amp.GradScaler("cpu", growth_interval=interval)
    _scaled(case, model, torch.optim.Adam(model.parameters(), lr=2e-3), scaler, measured=True)


@faulty(
    "scaler-starvation",
    places=("",),
    kind="MLP",
    source="backoff_factor of 1: the scale never comes down",
    data="digits",
    steps=60,
    also=("nonfinite-origin",),
)
def a_scale_that_stays(case: Case) -> None:
    model = _net()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, backoff_factor=0.999 if case.ill else 0.5)
    _scaled(case, model, torch.optim.SGD(model.parameters(), lr=0.1), scaler, 5000.0 if case.ill else 65504.0, measured=True)


@healthy(kind="MLP", source="a scaler that searches long: GradScaler(init_scale=2**24)", data="digits")
def a_long_search(case: Case) -> None:
    model = _net()
    _scaled(case, model, torch.optim.SGD(model.parameters(), lr=0.1), torch.amp.GradScaler("cpu", init_scale=2.0**24))


@healthy(kind="MLP", source="a scaler that grows every 100 steps", data="digits")
def a_scale_that_grows_often(case: Case) -> None:
    model = _net()
    scaler = torch.amp.GradScaler("cpu", growth_interval=100)
    _scaled(case, model, torch.optim.Adam(model.parameters(), lr=2e-3), scaler)


# ---- dominant-epsilon ----


@faulty(
    "dominant-epsilon",
    places=("",),
    kind="MLP",
    source="eps=0.03 from a reinforcement-learning recipe",
    data="digits",
    steps=50,
)
def eps_of_another_task(case: Case) -> None:
    x, y = digits(middle=0.3)
    model = _net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=0.3 if case.ill else 1e-8)
    truth = lambda *_: (
        max(float(p.grad.square().mean().sqrt()) for p in model.parameters()) < optimizer.param_groups[0]["eps"] / 3
    )
    train(case, model, optimizer, (x, y), cross_entropy, truth, size=64)
    case.proof(lambda: accuracy(model, x, y) > 0.5)


# ---- uninformative-data ----


@faulty(
    "uninformative-data",
    places=("input",),
    kind="MLP",
    source="labels shuffled apart, in batches of 16",
    data="digits",
    steps=60,
)
def shuffled_in_small_batches(case: Case) -> None:
    x, y = digits(middle=0.3)
    labels = y[torch.randperm(len(y))] if case.ill else y
    model = _net()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    train(case, model, optimizer, (x, labels), cross_entropy, lambda *_: case.ill, size=16)
    case.proof(lambda: accuracy(model, x, y) > 0.3)


@healthy(kind="MLP", source="a product of three features: neither a line nor a neighbour tells it soon")
def a_product_of_three(case: Case) -> None:
    x = torch.randn(2048, 5)
    y = (x[:, 0] * x[:, 1] * x[:, 2] > 0).long()
    model = nn.Sequential(nn.Linear(5, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    train(case, model, torch.optim.Adam(model.parameters(), lr=3e-3), (x, y), cross_entropy, size=64, steps=3 * case.steps)
    case.proof(lambda: accuracy(model, x, y) > 0.7)
