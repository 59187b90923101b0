"""Gains over the depth at the start. Oracles: the theory's numbers, and gradients taken by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from weighbridge.diagnosis import Finding, ValueEvidence
from weighbridge.preflight import gains
from weighbridge.preflight.inspect import inspect

WIDTH = 64


def deep(layers: int, activation: Any = nn.ReLU, init: Any = None, between: Any = None) -> nn.Sequential:
    """So many hidden layers and a head."""
    torch.manual_seed(0)
    made: list[nn.Module] = []
    for i in range(layers):
        linear = nn.Linear(WIDTH, WIDTH)
        if init is not None:
            init(linear.weight)
            nn.init.zeros_(linear.bias)
        made += [linear, *([between(WIDTH)] if between and i else []), activation()]
    return nn.Sequential(*made, nn.Linear(WIDTH, 4))


def he(weight: torch.Tensor) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


def scaled(gain: float) -> Any:
    return lambda weight: nn.init.normal_(weight, std=gain / math.sqrt(weight[0].numel()))


BATCH = torch.randn(128, WIDTH, generator=torch.Generator().manual_seed(0)), torch.arange(128) % 4


def found(model: nn.Module, batch: Any = BATCH) -> list[Finding]:
    return [one for one in inspect(model, batch, F.cross_entropy).findings if one.rule == "wrong-initial-scale"]


def value(finding: Finding, name: str) -> float:
    return next(e.value for e in finding.evidence if isinstance(e, ValueEvidence) and e.name.startswith(name))


@pytest.mark.parametrize(
    ("layers", "severity"), [(5, None), (7, "note"), (13, "warning")]
)  # a hidden layer takes 1/sqrt(6): 1/100 after 5.1, 6^-5 after 10
def test_relu_layers_as_pytorch_initialises_them_lose_a_sixth_of_the_power_each(layers: int, severity: str | None) -> None:
    told = found(deep(layers))
    assert [one.severity for one in told] == ([severity] if severity else [])
    if told:
        expected = 6 ** (-(layers - 1) / 2)
        assert value(told[0], "expected from the weights") == pytest.approx(expected, rel=0.1)
        assert value(told[0], "change over") == pytest.approx(expected, rel=0.8)
        assert told[0].place == "0"


def test_what_is_measured_is_the_ratio_of_the_norms_of_the_gradients() -> None:
    model = deep(8)
    (told,) = found(model)
    outputs, h = [], BATCH[0]
    for module in model:
        h = module(h)
        if isinstance(module, nn.Linear):
            h.retain_grad()
            outputs.append(h)
    F.cross_entropy(h, BATCH[1]).backward()
    ratio = float(outputs[0].grad.norm() / outputs[-2].grad.norm())
    assert value(told, "change over") == pytest.approx(ratio, rel=1e-4)
    weights = [model[i].weight.detach() for i in range(2, 16, 2)]
    by_hand = math.prod(float(w.square().mean().sqrt()) * math.sqrt(WIDTH) * math.sqrt(0.5) for w in weights)
    assert value(told, "expected from") == pytest.approx(by_hand, rel=1e-5)


HEALTHY: dict[str, Any] = {
    "He": lambda: deep(20, init=he),
    "orthogonal tanh": lambda: deep(20, nn.Tanh, nn.init.orthogonal_),
    "norms between": lambda: deep(20, between=nn.LayerNorm),
    "batch norms between": lambda: deep(20, between=nn.BatchNorm1d),
    "shallow": lambda: deep(3),
    "two sigmoids": lambda: deep(2, nn.Sigmoid),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_what_keeps_sizes_or_has_norms_is_not_told(name: str) -> None:
    assert found(HEALTHY[name]()) == []


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(20))
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + torch.relu(layer(x))
        return self.head(x)


def test_residuals_are_excused() -> None:
    assert found(Residual()) == []


FACTORS = {"scaled": 5.0, "damped": 0.1}


class Woven(nn.Module):
    """Small weights in a row, and something between: the weights are then not all that decides."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(8))
        self.head, self.kind = nn.Linear(WIDTH, 4), kind
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=0.3 / math.sqrt(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = []
        for layer in self.layers:
            x = torch.relu(layer(x))
            kept.append(x)
            if self.kind in FACTORS:
                x = x * FACTORS[self.kind]
            if self.kind == "normed":
                x = F.layer_norm(x, (WIDTH,))
        if self.kind == "used twice":
            x = x + 0 * sum(kept)
        return self.head(sum(kept) if self.kind == "collected" else x)


@pytest.mark.parametrize(
    ("kind", "told"), [("plain", 1), ("scaled", 0), ("damped", 0), ("normed", 0), ("collected", 0), ("used twice", 0)]
)
def test_what_stands_between_or_leads_around_ends_a_chain(kind: str, told: int) -> None:
    torch.manual_seed(0)
    assert len(found(Woven(kind))) == told


def test_what_the_weights_alone_say_is_not_enough() -> None:
    """Small weights that are all alike: taken for random they would let all fade, and what is constant comes through."""
    model = deep(9, init=lambda weight: nn.init.constant_(weight, 1 / WIDTH))
    layers = {one.module: one for one in inspect(model, BATCH, F.cross_entropy).layers}
    assert (layers["0"].gradient_rms or 0) > 0.02 * (layers["16"].gradient_rms or 0)
    assert found(model) == []


@pytest.mark.parametrize("std", [0.0, 1e-8])
def test_a_head_that_starts_small_or_at_zero_is_left_out(std: float) -> None:
    model: Any = deep(5, init=he)
    nn.init.normal_(model[-1].weight, std=std) if std else nn.init.zeros_(model[-1].weight)
    assert found(model) == []


def test_sigmoids_lose_three_quarters_and_more_each() -> None:
    (told,) = found(deep(9, nn.Sigmoid, scaled(1.0)))
    assert told.severity == "warning"
    assert value(told, "expected from") == pytest.approx(0.25**8, rel=0.5)


@pytest.mark.parametrize(("gain", "severity"), [(1.41, None), (3.0, "note"), (6.0, "warning")])
def test_weights_too_large_explode(gain: float, severity: str | None) -> None:
    told = found(deep(9, init=scaled(gain)))
    assert [one.severity for one in told] == ([severity] if severity else [])
    if told:
        assert value(told[0], "expected from") == pytest.approx((gain / math.sqrt(2)) ** 8, rel=0.5)


def test_large_weights_whose_signal_does_not_grow_are_not_told() -> None:
    model: Any = deep(9, nn.Tanh, scaled(6.0))
    with torch.no_grad():  # saturated: the weights alone would let the gradient explode
        for i in range(0, 18, 2):
            model[i].bias.fill_(100.0)
    assert found(model) == []


def test_gradients_that_saturation_takes_are_not_laid_to_the_weights() -> None:
    model: Any = deep(9, nn.Tanh, scaled(1.0))
    with torch.no_grad():
        for i in range(0, 18, 2):
            model[i].bias.fill_(3.0)
    layers = {one.module: one for one in inspect(model, BATCH, F.cross_entropy).layers}
    assert 0 < (layers["0"].gradient_rms or 0) < 1e-3 * (layers["16"].gradient_rms or 0)
    assert found(model) == []


def test_one_layer_that_does_most_of_it_is_the_place() -> None:
    model: Any = deep(6, init=he)
    with torch.no_grad():
        model[4].weight *= 1e-5
    (told,) = found(model)
    assert (told.place, told.severity) == ("4", "warning")
    assert "model[4].weight" in told.fix


def test_convolutions_count_the_inputs_of_a_patch() -> None:
    def network(init: Any) -> nn.Sequential:
        torch.manual_seed(0)
        made: list[nn.Module] = []
        for i in range(6):
            made += [nn.Conv2d(8 if i else 3, 8, 3, padding=1), nn.ReLU()]
            init(made[-2].weight)
        return nn.Sequential(*made, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 4))

    batch = torch.randn(16, 3, 8, 8), torch.arange(16) % 4
    assert found(network(he), batch) == []
    (told,) = found(network(scaled(0.3)), batch)
    assert value(told, "expected from") == pytest.approx((0.3 / math.sqrt(2)) ** 5, rel=0.3)
    assert value(told, "change over") == pytest.approx((0.3 / math.sqrt(2)) ** 5, rel=1.0)


def test_transposed_convolutions_whose_gain_is_another_are_not_judged() -> None:
    torch.manual_seed(0)
    made = [one for _ in range(5) for one in (nn.ConvTranspose2d(4, 4, 2, stride=2), nn.ReLU())]
    for module in made[::2]:
        nn.init.normal_(module.weight, std=0.05)
    model = nn.Sequential(*made, nn.Conv2d(4, 4, 32))
    batch = torch.randn(8, 4, 1, 1), torch.zeros(8, 1, 1, dtype=torch.long)
    assert found(model, batch) == []


def test_layers_that_run_twice_and_inner_products_without_a_module_are_not_followed() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(20):
                x = torch.relu(self.layer(x))
            return self.head(x)

    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.ParameterList(torch.randn(WIDTH, WIDTH) * 0.01 for _ in range(9))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for weight in self.weights:
                x = torch.relu(F.linear(x, weight))
            return x

    assert found(Shared()) == []
    assert found(Functional()) == []


def test_the_limits_lie_where_theory_has_them() -> None:
    assert pytest.approx(math.exp(math.log(100))) == gains.LIMIT
    assert pytest.approx((math.sqrt(6)) ** 10) == gains.VANISHED
    own = torch.Generator().manual_seed(0)
    z = torch.randn(1_000_000, generator=own, requires_grad=True)
    for name, function in {"Relu": F.relu, "Gelu": F.gelu, "Silu": F.silu, "Mish": F.mish, "Sigmoid": torch.sigmoid}.items():
        (slope,) = torch.autograd.grad(function(z).sum(), z)
        assert float(slope.square().mean().sqrt()) <= gains.SLOPES[name] + 1e-3, name
