"""Gradients that vanish or explode on their way back."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.measured._data import images, marked, pick, standard, table, waves
from clinic.measured._loop import ALL, fit, on_batches, rms
from clinic.measured._models import (
    Recurrent,
    mlp,
)

# ---- vanishing-gradient


@faulty(
    "vanishing-gradient",
    places=ALL,
    kind="MLP",
    source="Nielsen, Neural Networks and Deep Learning, chapter 5: ten layers of sigmoids",
    steps=60,
    data="digits",
)
def ten_layers_of_sigmoids(case: Case) -> None:
    x, y = table("digits")
    model = mlp(64, *[32] * 10, 10, act=nn.Sigmoid) if case.ill else mlp(64, *[32] * 3, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    fit(case, model, optimizer, on_batches(model, x, y), lambda: rms(model[0].weight.grad) < 1e-4 * rms(model[-1].weight.grad))


@faulty(
    "vanishing-gradient",
    places=ALL,
    kind="RNN",
    source="Bengio, Simard & Frasconi 1994: long-term dependencies, the first input decides after 60 steps",
    steps=60,
)
def rnn_over_sixty_steps(case: Case) -> None:
    x, y = marked(length=60 if case.ill else 5)
    cell = nn.RNN(3, 16, batch_first=True)
    model = Recurrent(cell, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    loss = on_batches(model, x, y, size=64)

    def truth() -> bool:
        """The gradient of the loss by the first input against that by the last one."""
        inputs = x[:64].clone().requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(model(inputs), y[:64]), inputs)
        return rms(g[:, 0]) < 1e-4 * rms(g[:, -1])

    fit(case, model, optimizer, loss, truth, learns=0.97)


@faulty(
    "vanishing-gradient",
    places=ALL,
    kind="CNN",
    source="He et al. 2015, the case for residuals: a plain deep tower of tanh convolutions, no norm",
    steps=40,
    data="digits",
)
def plain_tower_of_convolutions(case: Case) -> None:
    x, y = images()
    layers: list[nn.Module] = [nn.Conv2d(1, 8, 3, padding=1), nn.Tanh()]
    for _ in range(14 if case.ill else 2):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.Sigmoid() if case.ill else nn.Tanh()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    loss = on_batches(model, x, y, size=24)
    fit(case, model, optimizer, loss, lambda: rms(model[0].weight.grad) < 1e-4 * rms(model[-1].weight.grad))


# ---- exploding-gradient


@faulty(
    "exploding-gradient",
    places=ALL,
    kind="RNN",
    source="Pascanu, Mikolov & Bengio 2013: recurrent weights of spectral radius above one",
    steps=40,
    also=("wrong-initial-scale",),
)
def recurrent_radius_above_one(case: Case) -> None:
    x = waves(length=50)
    cell = nn.RNN(1, 32, nonlinearity="tanh", batch_first=True)
    nn.init.normal_(cell.weight_ih_l0, std=0.02)
    if case.ill:
        nn.init.orthogonal_(cell.weight_hh_l0, gain=1.8)
    model = Recurrent(cell, 1)
    target = x[:, -1] * 1.0
    inputs = x[:, :-1] * (1e-3 if case.ill else 1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.mse_loss(model(inputs[rows]), target[rows])

    def truth() -> bool:
        rows = inputs[:32].clone().requires_grad_()
        (g,) = torch.autograd.grad(F.mse_loss(model(rows), target[:32]), rows)
        return rms(g[:, 0]) > 1e3 * rms(g[:, -1])

    fit(case, model, optimizer, loss, truth, learns=0.97)


class _Euler(nn.Module):
    """A learnt flow, integrated by Euler's method; the step size is part of it."""

    def __init__(self, steps: int, size: float) -> None:
        super().__init__()
        self.field, self.readout, self.steps, self.size = mlp(4, 24, 4, act=nn.Tanh), nn.Linear(4, 1), steps, size
        self.drift = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.steps):
            x = x + self.size * (self.field(x) + self.drift(x))
        return self.readout(x)


@faulty(
    "exploding-activation",
    places=ALL,
    kind="neural ODE",
    source="torchdiffeq issue: 80 Euler steps of size one of a field that is not bounded",
    steps=40,
    also=("exploding-gradient", "high-initial-loss"),
)
def euler_steps_of_size_one(case: Case) -> None:
    x, y = table("iris")
    target = standard(y.float()[:, None])
    model = _Euler(80 if case.ill else 8, 0.5 if case.ill else 0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2 if not case.ill else 1e-12)

    fit(case, model, optimizer, on_batches(model, x, target, F.mse_loss), lambda: rms(model(x)) > 1e4 * rms(x))


@faulty(
    "exploding-gradient",
    places=ALL,
    kind="MLP",
    source="Hanin 2018, which architectures give rise to exploding gradients: batch norm in a deep plain net",
    steps=30,
    data="digits",
)
def forty_batch_norms_without_residuals(case: Case) -> None:
    x, y = table("digits")
    layers: list[nn.Module] = [nn.Linear(64, 32)]
    for _ in range(40 if case.ill else 2):
        layers += [nn.ReLU(), nn.Linear(32, 32, bias=False), nn.BatchNorm1d(32)]
    model = nn.Sequential(*layers, nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3 if case.ill else 0.05)

    loss = on_batches(model, x, y, size=64)
    fit(case, model, optimizer, loss, lambda: rms(model[0].weight.grad) > 300 * rms(model[-1].weight.grad))
