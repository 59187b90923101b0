"""Healthy trainings on tasks that tempt: tiny, noisy, seldom, many at once, or solved from the start."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, healthy
from clinic.measured._data import blobs, friedman, graph, pick
from clinic.measured._loop import fit, on_batches
from clinic.measured._models import GCN, mlp, normalised


@healthy(kind="GCN", source="Kipf & Welling 2017: few labelled nodes, full batch, dropout, weight decay")
def gcn_few_labels(case: Case) -> None:
    x, y, adjacency = graph()
    a = normalised(adjacency)
    model = GCN(8, 16, 3)
    few = torch.arange(15)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=5e-4)
    fit(case, model, optimizer, lambda: F.cross_entropy(model(F.dropout(x, 0.3), a)[few], y[few]), learns=0.5)


@healthy(kind="2-4-1", source="the XOR network of every textbook, tanh and sigmoid, full batch")
def xor(case: Case) -> None:
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y = torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    fit(case, model, optimizer, lambda: F.binary_cross_entropy_with_logits(model(x), y), learns=0.7)


@healthy(kind="2-4-1", source="the tutorial that weighbridge grew from: ten samples, ReLU, SGD 0.1")
def two_four_one_on_ten_samples(case: Case) -> None:
    x = torch.randn(10, 2)
    y = x.sum(1, keepdim=True)
    model = mlp(2, 4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    fit(case, model, optimizer, lambda: F.mse_loss(model(x), y), learns=0.6)


@healthy(kind="MLP", source="house prices: targets of 200,000, scaled inside the network by fixed buffers")
def large_targets_scaled_inside(case: Case) -> None:
    x, y = friedman()
    y = 2e5 + 5e4 * y

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(10, 32, 1)

        def forward(self, x: Tensor) -> Tensor:
            return 2e5 + 5e4 * self.net(x)

    model = Scaled()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    fit(case, model, optimizer, on_batches(model, x, y, F.mse_loss), learns=0.5)


@healthy(kind="MLP", source="Kendall et al. 2018: three tasks, their weights learnt, the sum may become negative")
def tasks_with_learnt_weights(case: Case) -> None:
    x, y = friedman()
    model = nn.ModuleDict(
        {
            "body": nn.Sequential(nn.Linear(10, 32), nn.ReLU()),
            "a": nn.Linear(32, 1),
            "b": nn.Linear(32, 1),
            "c": nn.Linear(32, 2),
        }
    )
    model.register_parameter("log_var", nn.Parameter(torch.zeros(3)))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    def loss() -> Tensor:
        r = pick(len(x))
        h = model["body"](x[r])
        parts = torch.stack(
            [
                F.mse_loss(model["a"](h), y[r]),
                F.mse_loss(model["b"](h), x[r, 3:4]),
                F.cross_entropy(model["c"](h), (y[r, 0] > 0).long()),
            ]
        )
        return (parts * (-model.log_var).exp() + model.log_var).sum()

    fit(case, model, optimizer, loss)


@healthy(kind="linear regression", source="a solved problem trained on: begun at the solution, nothing is left to learn")
def begun_at_the_solution(case: Case) -> None:
    x = torch.randn(256, 6)
    truth = torch.randn(6, 1)
    y = x @ truth + 0.3 * torch.randn(256, 1)
    model = nn.Linear(6, 1)
    with torch.no_grad():
        model.weight.copy_(truth.T)
        model.bias.zero_()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def loss() -> Tensor:
        r = pick(256)
        return F.mse_loss(model(x[r]), y[r])

    fit(case, model, optimizer, loss, learns=None)
    case.proof(lambda: F.mse_loss(model(x), y).item() < 0.1)


@healthy(kind="MLP", source="Natarajan et al. 2013: two labels in five are wrong, the loss stays high and the net learns")
def noisy_labels(case: Case) -> None:
    x, y = blobs(512, 12, 2)
    wrong = torch.rand(512) < 0.3
    seen = torch.where(wrong, 1 - y, y)
    model = mlp(12, 16, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)

    def loss() -> Tensor:
        r = pick(512)
        return F.cross_entropy(model(x[r]), seen[r])

    fit(case, model, optimizer, loss, learns=None)
    case.proof(lambda: (model(x).argmax(1) == y).double().mean().item() > 0.8)


@healthy(kind="PINN", source="Raissi et al. 2019: second derivatives in the loss, tanh, full batch of random points")
def physics_informed(case: Case) -> None:
    model = mlp(1, 24, 24, 1, act=nn.Tanh)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def loss() -> Tensor:
        x = (torch.rand(64, 1) * math.pi).requires_grad_()
        u = model(x)
        (du,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        (ddu,) = torch.autograd.grad(du.sum(), x, create_graph=True)
        ends = model(torch.tensor([[0.0], [math.pi]]))
        return (ddu + torch.sin(x)).square().mean() + ends.square().mean()

    fit(case, model, optimizer, loss, learns=0.5)


@healthy(kind="MLP", source="regression on rare events: one target in fifty is not zero; the loss is spiky by nature")
def rare_events(case: Case) -> None:
    x = torch.randn(1024, 8)
    y = ((x[:, 0] > 2.0).float() * 10 * x[:, 1].abs())[:, None]
    model = mlp(8, 32, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def loss() -> Tensor:
        r = pick(1024, 16)
        return F.mse_loss(model(x[r]), y[r])

    fit(case, model, optimizer, loss, learns=None)
    case.proof(lambda: F.mse_loss(model(x), y).item() < 0.7 * y.var().item())
