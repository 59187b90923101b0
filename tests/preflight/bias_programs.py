"""What tests of the report on biases share."""

from __future__ import annotations

import math
from typing import Any

import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

from weighbridge.preflight.bias_report import BiasReport, LayerBias


def trained(*layers: nn.Module, steps: int = 150, centre: float = 2.0) -> Any:
    """A model, its optimizer and two held-out batches. Inputs have mean `centre`."""
    torch.manual_seed(0)
    model = nn.Sequential(*layers)
    x = torch.randn(280, 4) + centre
    y = (x.sum(1) > 4 * centre).long() + (x[:, 0] > centre + 0.5).long()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x[:200]), y[:200]).backward()
        optimizer.step()
    return model, optimizer, [(x[200:250], y[200:250]), (x[250:], y[250:])]


def both(batches: Any) -> Any:
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def by_name(report: BiasReport) -> dict[str, LayerBias]:
    return {one.name: one for one in report}


def t_interval(values: torch.Tensor) -> tuple[float, float, float]:
    n = len(values)
    half = float(stats.t.ppf(0.975, n - 1)) * float(values.std()) / math.sqrt(n)
    return float(values.mean()), float(values.mean()) - half, float(values.mean()) + half
