"""An optimizer that was given the last layer alone. Oracle: what has trained the rest before, and what was meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weighbridge
from weighbridge.capture.freshness import is_fresh


def plain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))


def normed() -> nn.Sequential:
    """As ResNets begin: convolutions by He, norms as they are made."""
    first, second = nn.Conv1d(1, 16, 3, bias=False), nn.Conv1d(16, 16, 3, bias=False)
    for one in (first, second):
        nn.init.kaiming_normal_(one.weight)
    parts = (first, nn.BatchNorm1d(16), nn.ReLU(), second, nn.BatchNorm1d(16), nn.ReLU(), nn.AdaptiveAvgPool1d(2))
    return nn.Sequential(nn.Unflatten(1, (1, 16)), *parts, nn.Flatten(), nn.Linear(32, 4))


def one_hidden() -> nn.Sequential:
    """An extreme learning machine."""
    return nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 4))


def train(model: nn.Sequential, optimizer: torch.optim.Optimizer, steps: int) -> None:
    x = torch.randn(256, 16)
    y = x[:, :4].argmax(dim=1)
    for _ in range(steps):
        rows = torch.randint(256, (32,))
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()


def told(model: nn.Sequential, where: Path) -> set[str]:
    with weighbridge.watch(model, run=weighbridge.init(dir=where, name="run")) as run:
        train(model, torch.optim.Adam(model[-1].parameters(), lr=1e-2), 15)
    return {one.severity for one in weighbridge.diagnose(run.path) if one.rule == "parameter-in-no-optimizer"}


@pytest.mark.parametrize("make", [plain, normed])
def test_a_head_over_layers_that_nothing_has_trained_is_a_warning(make: Callable[[], nn.Sequential], tmp_path: Path) -> None:
    torch.manual_seed(0)
    assert told(make(), tmp_path) == {"warning"}


@pytest.mark.parametrize("make", [plain, normed])
def test_a_head_over_layers_that_were_trained_is_a_note(make: Callable[[], nn.Sequential], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = make()
    train(model, torch.optim.Adam(model.parameters(), lr=1e-2), 60)
    assert told(model, tmp_path) == {"note"}


def test_one_layer_of_random_features_is_a_note(tmp_path: Path) -> None:
    torch.manual_seed(0)
    assert told(one_hidden(), tmp_path) == {"note"}


@pytest.mark.parametrize(
    "module",
    [nn.Linear(40, 30), nn.Conv2d(4, 8, 3), nn.Embedding(50, 8), nn.LSTM(16, 12), nn.GRUCell(9, 8), nn.LayerNorm(64)],
    ids=lambda one: type(one).__name__,
)
def test_what_torch_makes_is_fresh_until_it_is_trained(module: nn.Module) -> None:
    for parameter in module.parameters():
        assert is_fresh(module, parameter) in (True, None)
        assert is_fresh(module, parameter * 1.3 + 0.01) in (False, None)
    assert any(is_fresh(module, parameter) for parameter in module.parameters())


def test_of_few_numbers_and_of_modules_of_others_nothing_is_said() -> None:
    assert is_fresh(nn.Linear(3, 2), nn.Linear(3, 2).weight) is None
    assert is_fresh(nn.Bilinear(9, 9, 9), nn.Bilinear(9, 9, 9).weight) is None
    assert is_fresh(None, torch.rand(40, 40)) is None
