"""Weights that are made anew whenever they are asked for. Oracle: the same training without us, bit by bit."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn

import weighbridge


class Counted(nn.Module):
    """Gives what it gets, and counts how often."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("times", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.times += 1
        return x


def trained(where: Path | None) -> list[torch.Tensor]:
    torch.manual_seed(0)
    spectral = nn.utils.parametrizations.spectral_norm
    model = nn.Sequential(spectral(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 2))
    nn.utils.parametrize.register_parametrization(model[2], "bias", Counted())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    if where:
        weighbridge.init(dir=where)
    with weighbridge.watch(model) if where else nullcontext():
        for _ in range(25):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(torch.randn(16, 6)), torch.randint(0, 2, (16,))).backward()
            optimizer.step()
    return list(model.state_dict().values())


def test_a_spectral_norm_moves_on_as_without_us(tmp_path: Path) -> None:
    assert all(torch.equal(a, b) for a, b in zip(trained(None), trained(tmp_path), strict=True))
