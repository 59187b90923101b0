"""Biases that do nothing, and ones that are missing."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.measured._data import friedman, images, pick, raw, standard, table
from clinic.measured._loop import ALL, fit, on_batches
from clinic.measured._models import (
    UNet,
)

# ---- redundant-bias


def _moves_nothing(model: nn.Module, bias: Tensor, loss: object) -> bool:
    """Random numbers added to the bias leave the loss as it is, in training mode."""
    with torch.no_grad():
        before = loss().item()  # type: ignore[operator]
        bias.add_(shift := torch.randn_like(bias))
        after = loss().item()  # type: ignore[operator]
        bias.sub_(shift)
    return abs(after - before) < 1e-4 * max(1.0, abs(before))


class _Normed(nn.Module):
    """Convolutions in front of norms, with or without biases."""

    def __init__(self, bias: bool, norm: type[nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.stem, self.norm1 = nn.Conv2d(1, 8, 3, padding=1, bias=bias), norm(8)
        self.conv, self.norm2 = nn.Conv2d(8, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.stem(x)))
        return self.fc(F.relu(self.norm2(self.conv(x))).mean((2, 3)))


@faulty(
    "redundant-bias",
    places=("stem", "stem.bias"),
    kind="CNN",
    source="PyTorch performance tuning guide: disable bias for convolutions directly followed by a batch norm",
    steps=60,
    data="digits",
)
def convolution_before_batch_norm(case: Case) -> None:
    x, y = images()
    model = _Normed(case.ill)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def truth() -> bool:
        m = copy.deepcopy(model)
        return m.stem.bias is not None and _moves_nothing(m, m.stem.bias, lambda: F.cross_entropy(m(x[:64]), y[:64]))

    fit(case, model, optimizer, on_batches(model, x, y), truth)


@faulty(
    "redundant-bias",
    places=("0", "0.bias", "4", "4.bias"),
    kind="MLP",
    source="Ioffe & Szegedy 2015, section 3.2: the bias is subsumed by beta",
    steps=60,
    data="digits",
)
def linear_before_batch_norm(case: Case) -> None:
    x, y = table("digits")
    model = nn.Sequential(
        nn.Linear(64, 32, bias=case.ill),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(32, 32, bias=False),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def truth() -> bool:
        m = copy.deepcopy(model)
        m[3].p = 0.0
        return m[0].bias is not None and _moves_nothing(m, m[0].bias, lambda: F.cross_entropy(m(x[:64]), y[:64]))

    fit(case, model, optimizer, on_batches(model, x, y), truth)


@faulty(
    "redundant-bias",
    places=("down.0", "down.0.bias", "down"),
    kind="U-Net",
    source="style-transfer code: convolutions with bias in front of instance norm",
    steps=60,
    data="digits",
)
def convolution_before_instance_norm(case: Case) -> None:
    x, _ = images()
    model = UNet(norm=lambda w: nn.InstanceNorm2d(w, affine=True))
    if case.ill:
        model.down[0] = nn.Conv2d(1, 8, 3, padding=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def truth() -> bool:
        m = copy.deepcopy(model)
        return m.down[0].bias is not None and _moves_nothing(m, m.down[0].bias, lambda: F.mse_loss(m(x[:16]), x[:16]))

    def loss() -> Tensor:
        r = pick(400)
        return F.mse_loss(model(x[r] + 0.3 * torch.randn(32, 1, 8, 8)), x[r])

    fit(case, model, optimizer, loss, truth)


# ---- missing-bias


def _one_constant_helps(out: Tensor, y: Tensor) -> bool:
    """The best constant added to the outputs would halve the squared error."""
    rest = (y - out).detach()
    return bool((rest - rest.mean(0)).square().mean() < 0.5 * rest.square().mean())


@faulty(
    "missing-bias",
    places=ALL,
    kind="linear regression",
    source="scikit-learn's fit_intercept=False rebuilt by accident: Linear(bias=False) on blood values around 150",
    steps=150,
    data="diabetes",
    also=("high-initial-loss", "stalled-loss", "unfit-output-activation"),
)
def regression_through_the_origin(case: Case) -> None:
    x, y = raw("diabetes")
    x, y = standard(x), y / y.std()
    model = nn.Linear(10, 1, bias=not case.ill)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)

    fit(case, model, optimizer, on_batches(model, x, y, F.mse_loss), lambda: case.ill and _one_constant_helps(model(x), y))


@faulty(
    "missing-bias",
    places=ALL,
    kind="MLP",
    source="bias=False everywhere 'as in LLaMA', for a regression whose targets are not centred",
    steps=150,
    also=("high-initial-loss",),
)
def no_bias_anywhere(case: Case) -> None:
    x, y = friedman()
    y = y + 5.0
    model = nn.Sequential(nn.Linear(10, 16, bias=False), nn.Tanh(), nn.Linear(16, 1, bias=not case.ill))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)

    fit(case, model, optimizer, on_batches(model, x, y, F.mse_loss), lambda: case.ill and _one_constant_helps(model(x), y))
