"""Gradients too small for what holds them: below Adam's eps, below float16's smallest number."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from clinic.frame import Case, faulty, healthy
from clinic.tuning._data import digits
from clinic.tuning._loop import accuracy, cross_entropy, train

# ---- dominant-epsilon ----


def _is_below_eps(model: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
    """Every gradient is smaller than eps."""
    return max(p.grad.abs().max().item() for p in model.parameters()) < optimizer.param_groups[0]["eps"]


@faulty(
    "dominant-epsilon",
    places=("",),
    kind="MLP",
    source="TensorFlow's documentation of Adam ('for Inception 1.0 or 0.1 is a good choice') followed with the usual rate",
    data="digits",
)
def eps_of_one(case: Case) -> None:
    x, y = digits(middle=0.3)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1.0 if case.ill else 1e-8)
    train(case, model, optimizer, (x, y), cross_entropy, lambda *_: _is_below_eps(model, optimizer), size=64)
    case.proof(lambda: accuracy(model, x, y) > 0.3)


@faulty(
    "dominant-epsilon",
    places=("",),
    kind="autoencoder",
    source="a sum over a loss weight of 1e-9: gradients far below Adam's default eps (Wortsman et al. 2024)",
    data="digits",
    also=("vanishing-gradient",),
)
def loss_weight_far_below_eps(case: Case) -> None:
    x, _ = digits(middle=0.3)
    model = nn.Sequential(nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 64))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    weight = 1e-9 if case.ill else 1.0
    with case.watch(model):
        for _ in range(case.steps):
            rows = torch.randint(0, len(x), (64,))
            optimizer.zero_grad()
            (F.mse_loss(model(x[rows]), x[rows]) * weight).backward()
            case.truth(lambda: _is_below_eps(model, optimizer))
            optimizer.step()
    case.proof(lambda: F.mse_loss(model(x), x).item() < 0.7 * x.var(0).mean().item() + 0.05)


@healthy(kind="MLP", source="eps=0.1 with a learning rate raised to match: momentum SGD on purpose", data="digits")
def large_eps_with_a_large_rate(case: Case) -> None:
    x, y = digits(middle=0.3)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02, eps=0.1)
    train(case, model, optimizer, (x, y), size=64)
    case.proof(lambda: accuracy(model, x, y) > 0.8)


# ---- gradient-underflow ----


@faulty(
    "gradient-underflow",
    places=("", "*"),
    kind="MLP",
    source="model.half() and a loss divided by the number of pixels: gradients below 6e-8",
    data="digits",
)
def half_without_scaler(case: Case) -> None:
    x, y = digits(middle=0.3)
    x = x.half()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).half()
    weight = 2e-5 if case.ill else 1.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2 / weight)
    with case.watch(model):
        for _ in range(case.steps):
            rows = torch.randint(0, len(x), (64,))
            optimizer.zero_grad()
            (F.cross_entropy(model(x[rows]).float(), y[rows]) * weight).backward()
            case.truth(lambda: _share_lost(model) > 0.2)
            optimizer.step()
    case.proof(lambda: accuracy(model, x, y) > 0.5)


def _share_lost(model: nn.Module) -> float:
    """Of the gradients in float16, those that are 0 or less than 8 of the smallest numbers."""
    every = torch.cat([p.grad.flatten().float() for p in model.parameters()])
    return float((every.abs() < 8 * 2**-24).float().mean())


@faulty(
    "gradient-underflow",
    places=("", "*"),
    kind="CNN",
    source="PyTorch documentation, AMP recipe, with the GradScaler left out and a mean over a large map",
    data="digits",
    steps=50,
)
def autocast_without_scaler(case: Case) -> None:
    x, _ = digits(middle=0.3)
    x = x.view(-1, 1, 8, 8)
    model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
    model.append(nn.Conv2d(16, 1, 3, padding=1))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    scaler = torch.amp.GradScaler("cpu", enabled=not case.ill, init_scale=2.0**14)
    with case.watch(model):
        for _ in range(case.steps):
            rows = torch.randint(0, len(x), (64,))
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.float16):
                out = model(x[rows])
            loss = F.mse_loss(out.float(), x[rows]) / 256
            scaler.scale(loss).backward()
            case.truth(lambda: case.ill and _share_lost(model) > 0.2)
            scaler.step(optimizer)
            scaler.update()
    case.proof(lambda: F.mse_loss(model(x), x).item() < 0.7 * x.var().item())
