"""What comes at one step: a loss or a gradient far above all others."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.measured._data import images, pick, sentences, table
from clinic.measured._loop import ALL, fit, gradient
from clinic.measured._models import (
    GPT,
    ConvNet,
    mlp,
)

# ---- loss-spike, gradient-spike


@faulty(
    "loss-spike",
    places=ALL,
    kind="MLP",
    source="tabular data: one block of rows with targets in another unit (cents for euros)",
    steps=100,
    data="diabetes",
    also=("gradient-spike",),
)
def targets_in_another_unit(case: Case) -> None:
    x, y = table("diabetes")
    model = mlp(10, 32, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    steps = iter(range(10**6))
    losses: list[float] = []

    def loss() -> Tensor:
        step = next(steps)
        rows = pick(len(x))
        value = F.mse_loss(model(x[rows]), y[rows] * (100.0 if case.ill and step == 60 else 1.0))
        losses.append(value.item())
        return value

    fit(case, model, optimizer, loss, lambda: len(losses) > 20 and losses[-1] > 20 * max(losses[-11:-1]))


@faulty(
    "loss-spike",
    places=ALL,
    kind="GPT",
    source="Chowdhery et al. 2022, PaLM: loss spikes; here a resumed schedule multiplies the rate by 300 for a step",
    steps=120,
    also=("high-learning-rate", "gradient-spike", "stale-second-moment"),
)
def rate_jumps_on_resuming(case: Case) -> None:
    tokens = sentences()
    model = GPT()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: 300.0 if case.ill and s == 80 else 1.0)
    losses: list[float] = []

    def loss() -> Tensor:
        value = model.loss(tokens[pick(len(tokens))])
        losses.append(value.item())
        return value

    fit(case, model, optimizer, loss, lambda: len(losses) > 20 and losses[-1] > 3 * max(losses[-11:-1]), schedule=schedule)


@faulty(
    "gradient-spike",
    places=("embed", "embed.weight", "*embed*"),
    kind="LSTM",
    source="recommender forum: one user's feature table holds a value of a million; its embedding row takes the whole gradient",
    steps=100,
    also=("loss-spike",),
)
def one_row_of_the_embedding(case: Case) -> None:
    tokens = sentences(length=8)
    model = nn.ModuleDict({"embed": nn.Embedding(24, 12), "rnn": nn.LSTM(12, 16, batch_first=True), "out": nn.Linear(16, 24)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steps = iter(range(10**6))
    norms: list[float] = []

    def loss() -> Tensor:
        step = next(steps)
        t = tokens[pick(len(tokens))]
        h = model["embed"](t[:, :-1])
        value = F.cross_entropy(model["out"](model["rnn"](h)[0]).flatten(0, 1), t[:, 1:].flatten())
        if case.ill and step == 70:
            value = value + 1e3 * h[0, 0].square().sum() * 0.01 + 1e3 * h[0, 0].sum()
        return value

    def truth() -> bool:
        norms.append(model["embed"].weight.grad.norm().item())
        return len(norms) > 20 and norms[-1] > 50 * max(norms[-16:-1])

    fit(case, model, optimizer, loss, truth, learns=0.995)


@faulty(
    "gradient-spike",
    places=ALL,
    kind="CNN",
    source="Kaggle: one batch of pictures that were not divided by 255",
    steps=100,
    data="digits",
    also=("loss-spike", "raw-input-scale"),
)
def one_batch_not_divided(case: Case) -> None:
    x, y = images()
    model = ConvNet(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    steps = iter(range(10**6))
    norms: list[float] = []

    def loss() -> Tensor:
        step = next(steps)
        rows = pick(len(x))
        return F.cross_entropy(model(x[rows] * (255.0 if case.ill and step == 50 else 1.0)), y[rows])

    def truth() -> bool:
        norms.append(gradient(model))
        return len(norms) > 20 and norms[-1] > 20 * max(norms[-16:-1])

    fit(case, model, optimizer, loss, truth, learns=0.995)
