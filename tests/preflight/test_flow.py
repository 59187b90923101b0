"""Which biases the loss does not depend on. Oracle: the loss in float64 before and after the bias is changed by a lot."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.preflight.healthy import HEALTHY
from weighbridge.diagnosis.flow import reshaped
from weighbridge.diagnosis.redundant import redundant_biases
from weighbridge.preflight.signal import try_out


def proved(model: nn.Module, batch: Any, loss_fn: Any) -> set[str]:
    trial = try_out(model, batch, loss_fn)
    return {one.parameter.name for one in redundant_biases(trial.first.graph, trial.first.parameters)}


def really(model: nn.Module, batch: Any, loss_fn: Any) -> set[str]:
    """By trying: the biases of affine layers that can be changed by a random vector without a change of the loss."""
    from weighbridge.preflight.calling import loss_of
    from weighbridge.preflight.copying import detached

    batch = double(batch)

    def loss(change: str | None = None) -> float:
        twin = copy.deepcopy(model).double()
        if change:
            torch.manual_seed(3)
            with torch.no_grad():
                twin.get_parameter(change).add_(torch.randn_like(twin.get_parameter(change)))
        torch.manual_seed(5)
        return float(loss_of(twin, detached(batch), loss_fn).detach())

    base = loss()
    names = [
        n for n, p in model.named_parameters() if n.endswith("bias") and p.ndim == 1 and isinstance(owner(model, n), LAYERS)
    ]
    return {name for name in names if abs(loss(name) - base) < 1e-9 * max(abs(base), 1)}


LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


def owner(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def double(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {k: double(v) for k, v in value.items()}
    return type(value)(double(v) for v in value) if isinstance(value, (tuple, list)) else value


def images(*layers: nn.Module) -> tuple[nn.Module, Any, Any]:
    model = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3))
    x = torch.randn(6, 3, 9, 9)
    model(x)
    return model, (x, torch.arange(6) % 3), F.cross_entropy


class Fork(nn.Module):
    """The value before the norm is used a second time: the bias matters."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.head = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.one(x)
        return self.head(torch.relu(self.norm(h)) + 0.1 * h)


class Dense(nn.Module):
    """A convolution whose output is put beside others, scaled, shifted, and normed twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.both, self.head = nn.BatchNorm2d(4), nn.BatchNorm2d(8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.one(x) * 0.5 + 1
        g = self.two(torch.relu(self.norm(h)))
        return self.head(torch.relu(self.both(torch.cat([h, g], 1))).mean((2, 3)))


class Scores(nn.Module):
    """Attention by hand; keys are turned by their position where asked for."""

    def __init__(self, is_rotary: bool = False) -> None:
        super().__init__()
        self.q, self.k, self.v, self.head = (nn.Linear(8, 8) for _ in range(4))
        self.is_rotary = is_rotary

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (f(x).view(len(x), -1, 2, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.is_rotary:
            angle = torch.arange(x.shape[1], dtype=x.dtype)[:, None] * torch.tensor([1.0, 0.1, 1.0, 0.1], dtype=x.dtype)
            turn = lambda t: t * angle.cos() + torch.cat([-t[..., 2:], t[..., :2]], -1) * angle.sin()
            q, k = turn(q), turn(k)
        weights = (q @ k.transpose(-1, -2) / 2).softmax(-1)
        return self.head((weights @ v).transpose(1, 2).flatten(2)).mean(1)


def pictures(model: nn.Module) -> tuple[nn.Module, Any, Any]:
    return model, (torch.randn(6, 3, 9, 9), torch.arange(6) % 3), F.cross_entropy


def vectors(model: nn.Module) -> tuple[nn.Module, Any, Any]:
    return model, (torch.randn(12, 5), torch.arange(12) % 3), F.cross_entropy


def sequences(model: nn.Module) -> tuple[nn.Module, Any, Any]:
    return model, (torch.randn(6, 7, 8), torch.arange(6) % 8), F.cross_entropy


CASES: dict[str, tuple[Callable[[], Any], set[str]]] = {
    "conv, batch norm": (lambda: images(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), {"0.bias"}),
    "conv, batch norm in evaluation": (lambda: images(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4).eval(), nn.ReLU()), set()),
    "conv, instance norm": (lambda: images(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4), nn.ReLU()), {"0.bias"}),
    "conv, group norm of 2": (lambda: images(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU()), set()),
    "conv, relu, batch norm": (lambda: images(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)), set()),
    "conv, max pool, batch norm": (lambda: images(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.BatchNorm2d(4)), {"0.bias"}),
    "conv, average pool, batch norm": (lambda: images(nn.Conv2d(3, 4, 3), nn.AvgPool2d(2), nn.BatchNorm2d(4)), {"0.bias"}),
    "conv, padded average pool": (lambda: images(nn.Conv2d(3, 4, 3), nn.AvgPool2d(2, padding=1), nn.BatchNorm2d(4)), set()),
    "conv, conv, batch norm": (
        lambda: images(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), {"0.bias", "1.bias"},
    ),
    "conv, padded conv, batch norm": (
        lambda: images(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()), {"1.bias"},
    ),
    "conv, transposed conv": (lambda: images(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 4, 3), nn.BatchNorm2d(4)), {"1.bias"}),
    "conv, dropout, batch norm": (lambda: images(nn.Conv2d(3, 4, 3), nn.Dropout(0.5), nn.BatchNorm2d(4), nn.ReLU()), set()),
    "linear, batch norm": (lambda: vectors(nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))), {"0.bias"}),
    "linear, layer norm": (lambda: vectors(nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3))), set()),
    "flatten, batch norm": (
        lambda: images(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.BatchNorm1d(196), nn.ReLU()), {"0.bias"},
    ),
    "used twice": (lambda: vectors(Fork()), set()),
    "put beside others": (lambda: pictures(Dense()), {"one.bias", "two.bias"}),
    "attention by hand": (lambda: sequences(Scores()), {"k.bias"}),
    "rotary attention": (lambda: sequences(Scores(is_rotary=True)), set()),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize("case", CASES)
def test_a_bias_is_proved_redundant_exactly_where_changing_it_changes_nothing(case: str) -> None:
    torch.manual_seed(0)
    make, expected = CASES[case]
    model, batch, loss_fn = make()
    assert really(model, batch, loss_fn) == expected, "the case is not what its name says"
    assert proved(model, batch, loss_fn) == expected


@pytest.mark.parametrize(
    "name", ["bert_masked", "vit", "transformer", "llama", "resnet", "unet", "separable", "mlp_layer_norm"]
)
def test_on_whole_networks_no_bias_is_called_redundant_that_is_not(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model, batch, loss_fn = HEALTHY[name]()
        assert proved(model, batch, loss_fn) <= really(model, batch, loss_fn)


def test_axes_through_a_reshape_hold_whatever_numpy_says_they_hold() -> None:
    shapes = [
        ((2, 3, 4), (6, 4)),
        ((6, 4), (2, 3, 2, 2)),
        ((2, 3, 4, 1), (1, 6, 2, 2)),
        ((2, 6), (2, 3, 1, 2)),
        ((4, 3), (3, 4)),
    ]
    for before, after in shapes:
        for axis in range(len(before)):
            labels = torch.arange(before[axis]).view([-1 if i == axis else 1 for i in range(len(before))]).expand(before)
            made = labels.reshape(after)
            varies = {i for i in range(len(after)) if (made != made.select(i, 0).unsqueeze(i)).any()}
            assert varies <= reshaped(before, after, frozenset({axis})), (before, after, axis)
