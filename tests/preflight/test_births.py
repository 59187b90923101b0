"""Layers that are dead from the start. Oracle: biases pushed so low by hand that no unit can fire."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from weighbridge.diagnosis import Finding
from weighbridge.preflight.inspect import inspect


def network(width: int = 64, dead: int | None = None) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))
    with torch.no_grad():
        model[2].bias[: width if dead is None else dead] = -100.0
    return model


def found(model: nn.Module, samples: int = 32) -> list[Finding]:
    batch = torch.randn(samples, 6, generator=torch.Generator().manual_seed(1)), torch.arange(samples) % 3
    return [one for one in inspect(model, batch, F.cross_entropy).findings if one.rule == "dead-units"]


def test_a_layer_without_a_unit_that_fires_is_told_at_its_place() -> None:
    (told,) = found(network())
    assert (told.place, told.severity, told.first_step) == ("2", "warning", -1)
    assert "All 64 units of model[2] are 0 for all 32 samples" in told.message


@pytest.mark.parametrize(("width", "samples", "severity"), [(20, 30, "warning"), (20, 29, "note"), (75, 8, "note")])
def test_from_six_hundred_looks_on_it_is_a_warning(width: int, samples: int, severity: str) -> None:
    assert [one.severity for one in found(network(width), samples)] == [severity]


def test_one_unit_that_fires_lets_the_gradient_through() -> None:
    model = network(dead=63)
    with torch.no_grad():
        model[2].bias[63] = 1.0
    assert found(model) == []


def test_a_shortcut_around_it_and_a_frozen_layer_are_excused() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = nn.Linear(6, 64), nn.Linear(64, 64), nn.Linear(64, 3)
            nn.init.constant_(self.two.bias, -100.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.two(self.one(x))
            return self.head(torch.relu(h) + 0.01 * h)

    assert found(Around()) == []
    frozen = network()
    frozen[2].requires_grad_(False)
    assert found(frozen) == []


def test_channels_of_a_convolution_are_its_units() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 40, 3), nn.ReLU(), nn.Flatten(), nn.Linear(640, 3))
    nn.init.constant_(model[0].bias, -100.0)
    batch = torch.randn(16, 1, 6, 6), torch.arange(16) % 3
    (told,) = [one for one in inspect(model, batch, F.cross_entropy).findings if one.rule == "dead-units"]
    assert "All 40 units" in told.message
    assert told.severity == "warning"
