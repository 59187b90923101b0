"""Predictions that meet the targets of all samples. Oracle: how large the difference is that the loss is taken of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from weighbridge import inspect

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

FAULTS: dict[str, Loss] = {  # predictions [B, 1], targets [B]
    "mse_loss": F.mse_loss,
    "l1_loss": F.l1_loss,
    "smooth_l1_loss": F.smooth_l1_loss,
    "huber_loss": F.huber_loss,
    "a square": lambda p, y: (p - y).square().mean(),
    "a square the other way": lambda p, y: ((y - p) ** 2).sum() / len(y),
    "a product": lambda p, y: ((p - y) * (p - y)).mean(),
    "an absolute value": lambda p, y: (p - y).abs().mean(),
    "the root of it": lambda p, y: (p - y).pow(2).mean().sqrt(),
    "half of it": lambda p, y: 0.5 * (p - y).square().mean(),
    "with a penalty": lambda p, y: (p - y).square().mean() + 0.01 * torch.ones(3, requires_grad=True).square().sum(),
    "flat ones": lambda p, y: (p.squeeze(1) - y[:, None]).square().mean(),
    "a column of them": lambda p, y: (p[:, 0] - y[:, None]).abs().mean(),
}

HEALTHY: dict[str, Loss] = {
    "flat": lambda p, y: F.mse_loss(p[:, 0], y),
    "columns": lambda p, y: F.mse_loss(p, y[:, None]),
    "a constant": lambda p, y: F.mse_loss(p, torch.zeros(len(y), 1)),
    "a ranking": lambda p, y: F.softplus(-(p - p.T) * torch.sign(y[:, None] - y)).mean(),
    "an energy distance": lambda p, y: 2 * (p - y).abs().mean() - (p - p.T).abs().mean(),
    "kernels": lambda p, y: (-((p - p.T) ** 2)).exp().mean() - 2 * (-((p - y) ** 2)).exp().mean(),
    "kernels of data alone": lambda p, y: -(-((p - y) ** 2)).exp().mean(),
    "products of pairs": lambda p, y: F.mse_loss(p @ p.T, torch.outer(y, y)),
    "codes that are not as many": lambda p, y: (p - torch.linspace(-1, 1, 5)).square().min(1).values.mean(),
    "the nearest of as many codes": lambda p, y: (p - torch.linspace(-1, 1, len(y))).square().min(1).values.mean(),
}


def told(loss: Loss, samples: int = 16) -> list[tuple[str, str, str]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    x = torch.randn(samples, 3)
    found = inspect(model, (x, x.sum(1)), loss).findings
    return [(f.severity, f.place, f.fix) for f in found if f.rule == "broadcast-loss"]


@pytest.mark.filterwarnings("ignore:Using a target size")  # which is what torch says of its own functions
@pytest.mark.parametrize("kind", FAULTS)
def test_each_prediction_against_every_target(kind: str) -> None:
    ((severity, place, fix),) = told(FAULTS[kind])
    assert (severity, place) == ("error", "2")
    turned = "target.squeeze(1)" if "ones" in kind or "column" in kind else "target.unsqueeze(1)"
    assert fix.startswith(f"Give both the same shape: {turned} where the loss is computed, or what model[2] gives")


@pytest.mark.parametrize("kind", HEALTHY)
def test_what_is_meant_to_meet_all_or_meets_its_own(kind: str) -> None:
    assert told(HEALTHY[kind]) == []


def test_a_single_sample_meets_its_own_target() -> None:
    assert told(FAULTS["a square"], samples=1) == []
