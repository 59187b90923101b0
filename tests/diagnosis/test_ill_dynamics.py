"""Real trainings whose gradients, activations, weights or learning rate are ill: the rule, the place, when it was told.

Each has its healthy twin, in which no rule says a word. Oracle: what the test itself did to the training.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weighbridge
from tests.diagnosis.trainings import Training, batches, data, mlp, seeded, train
from weighbridge.diagnosis import Diagnosis

Make = Callable[[bool], Training]


def diagnosed(make: Make, ill: bool, where: Path, steps: int = 60) -> Diagnosis:
    return weighbridge.diagnose(train(seeded(lambda: make(ill)), where, steps))


def _digits(model: nn.Module, optimizer: torch.optim.Optimizer) -> Training:
    return Training(model, [optimizer], lambda b: F.cross_entropy(model(b[0]), b[1]), batches(*data("digits")))


def deep(layers: int, activation: type[nn.Module], set_up: Callable[[torch.Tensor], Any] | None) -> nn.Sequential:
    modules: list[nn.Module] = [nn.Linear(64, 32), activation()]
    for _ in range(layers - 1):
        modules += [nn.Linear(32, 32), activation()]
    model = nn.Sequential(*modules, nn.Linear(32, 10))
    for module in modules[::2]:
        if set_up is not None:
            assert isinstance(module, nn.Linear)
            set_up(module.weight)
            nn.init.zeros_(module.bias)
    return model


def _he(weight: torch.Tensor) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


def deep_sigmoid(ill: bool) -> Training:
    model = deep(8, nn.Sigmoid, None) if ill else deep(8, nn.ReLU, _he)
    return _digits(model, torch.optim.Adam(model.parameters(), lr=1e-3))


class Functional(nn.Module):
    """Weights and function calls: no module gives anything but the model."""

    def __init__(self, activation: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.activation = activation
        pairs = itertools.pairwise([64, *[32] * 9, 10])
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(o, i) * (2.0 / i) ** 0.5) for i, o in pairs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for weight in self.weights[:-1]:
            x = self.activation(F.linear(x, weight))
        return F.linear(x, self.weights[-1])


def functional(ill: bool) -> Training:
    model = Functional(torch.sigmoid if ill else torch.relu)
    return _digits(model, torch.optim.Adam(model.parameters(), lr=1e-3))


class Loop(nn.Module):
    """A layer applied again and again, by hand."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.into, self.step, self.out = nn.Linear(2, 32), nn.Linear(32, 32), nn.Linear(32, 10)
        nn.init.orthogonal_(self.step.weight, gain)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.zeros(len(x), 32)
        for part in x.view(-1, 32, 2).unbind(1):
            hidden = F.leaky_relu(self.into(part) + self.step(hidden), 0.5)
        return self.out(hidden)


def recurrent(ill: bool) -> Training:
    model = Loop(2.0 if ill else 1.0)
    return _digits(model, torch.optim.Adam(model.parameters(), lr=1e-3))


def std_of_one(ill: bool) -> Training:
    model = deep(12, nn.ReLU, nn.init.normal_ if ill else _he)
    return _digits(model, torch.optim.Adam(model.parameters(), lr=1e-4))


def drifting(ill: bool) -> Training:
    model = mlp()
    training = _digits(model, torch.optim.Adam(model.parameters(), lr=1e-3))

    def also(step: int) -> None:
        if ill and step >= 10:
            with torch.no_grad():
                model[2].weight.mul_(1.1)

    training.also = also
    return training


def one_wild_layer(ill: bool) -> Training:
    model = mlp()
    if ill:
        nn.init.normal_(model[2].weight, std=10.0)
    return _digits(model, torch.optim.Adam(model.parameters(), lr=1e-3))


def all_but_zero(ill: bool) -> Training:
    model = deep(3, nn.ReLU, (lambda w: nn.init.normal_(w, std=1e-4)) if ill else _he)
    return _digits(model, torch.optim.SGD(model.parameters(), lr=0.1))


def _sgd(high: float, low: float) -> Make:
    def make(ill: bool) -> Training:
        model = mlp()
        return _digits(model, torch.optim.SGD(model.parameters(), lr=high if ill else low))

    return make


def _adam(high: float, low: float) -> Make:
    def make(ill: bool) -> Training:
        model = mlp()
        return _digits(model, torch.optim.Adam(model.parameters(), lr=high if ill else low))

    return make


def _regression(ill: bool) -> Training:
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0 if ill else 0.02)
    return Training(model, [optimizer], lambda b: F.mse_loss(model(b[0]), b[1]), batches(*data("diabetes")))


ILL: list[tuple[str, Make, tuple[str, ...], int]] = [  # rule, training, places, the latest step to tell it
    ("vanishing-gradient", deep_sigmoid, ("0",), 2),
    ("vanishing-gradient", functional, ("weights.0",), 2),
    ("exploding-gradient", recurrent, ("step",), 2),
    ("exploding-activation", std_of_one, ("0",), 2),
    ("exploding-weights", drifting, ("2.weight",), 45),
    ("wrong-initial-scale", one_wild_layer, ("2",), 0),
    ("wrong-initial-scale", all_but_zero, ("0",), 0),
    ("high-learning-rate", _sgd(30.0, 0.1), ("",), 3),
    ("high-learning-rate", _sgd(3.0, 0.1), ("",), 22),
    ("high-learning-rate", _adam(1.0, 1e-3), ("",), 3),
    ("high-learning-rate", _adam(0.1, 1e-3), ("",), 22),
    ("high-learning-rate", _regression, ("",), 3),
    ("low-learning-rate", _sgd(1e-4, 0.1), ("",), 20),
    ("low-learning-rate", _adam(1e-6, 1e-3), ("",), 20),
]
NAMES = [f"{rule}-{i}" for i, (rule, *_) in enumerate(ILL)]


@pytest.mark.parametrize(("rule", "make", "places", "latest"), ILL, ids=NAMES)
def test_an_ill_training_is_named_in_its_place_and_in_time(
    rule: str, make: Make, places: tuple[str, ...], latest: int, tmp_path: Path
) -> None:
    diagnosis = diagnosed(make, True, tmp_path)
    told = [f for f in diagnosis if f.rule == rule]
    assert told, str(diagnosis)
    assert told[0].place in places
    assert told[0].told_step <= latest
    assert told[0].severity != "note"


@pytest.mark.parametrize("make", [make for _, make, *_ in ILL], ids=NAMES)
def test_its_healthy_twin_is_left_alone(make: Make, tmp_path: Path) -> None:
    assert str(diagnosed(make, False, tmp_path)).endswith("nothing found")


def test_a_rate_that_is_too_high_is_the_cause_of_what_it_breaks(tmp_path: Path) -> None:
    """NaN in three steps, weights and gradients and outputs beyond all bounds: one cause."""
    diagnosis = diagnosed(_regression, True, tmp_path)
    assert {"nonfinite-origin", "exploding-weights"} <= {f.rule for f in diagnosis}
    assert diagnosis.causes[0].rule == "high-learning-rate"
    assert any(key.startswith("nonfinite-origin") for key in diagnosis.causes[0].explains)


def test_a_scale_that_is_too_large_is_the_cause_of_what_it_breaks(tmp_path: Path) -> None:
    diagnosis = diagnosed(std_of_one, True, tmp_path)
    assert [f.rule for f in diagnosis.causes] == ["wrong-initial-scale"]
