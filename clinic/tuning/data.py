"""Data that say nothing, losses with the wrong sign; and tasks that are only hard."""

from __future__ import annotations

import math

import torch
from sklearn.datasets import load_breast_cancer, load_diabetes
from torch import nn
from torch.nn import functional as F

from clinic.frame import Case, faulty, healthy
from clinic.tuning._data import diabetes, digits, standard, table
from clinic.tuning._loop import accuracy, cross_entropy, squares, train


def _knn(x: torch.Tensor, y: torch.Tensor) -> float:
    """Share of samples whose nearest other sample has the same label."""
    apart = torch.cdist(x.flatten(1), x.flatten(1)).fill_diagonal_(math.inf)
    return float((y[apart.argmin(1)] == y).float().mean())


@faulty(
    "uninformative-data",
    places=("input", ""),
    kind="MLP",
    source="Karpathy 2019, A Recipe for Training Neural Networks: the labels were shuffled apart from the images",
    data="digits",
    steps=60,
)
def labels_shuffled_apart(case: Case) -> None:
    x, y = digits(middle=0.3)
    order = torch.randperm(len(y))
    y = y[order] if case.ill else y
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    train(case, model, optimizer, (x, y), cross_entropy, lambda *_: _knn(x[:600], y[:600]) < 0.2)
    case.proof(lambda: accuracy(model, x, y) > 0.5)


@faulty(
    "uninformative-data",
    places=("input", ""),
    kind="CNN",
    source="an augmentation that returns zeros (integer division by 255 before the cast), a forum classic",
    data="digits",
    steps=60,
    also=("raw-input-scale", "collapsed-output", "rank-collapse", "vanishing-gradient", "starved-batch-norm"),
)
def images_divided_to_zero(case: Case) -> None:
    x, y = digits(middle=0.3)
    x = x.view(-1, 1, 8, 8)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with case.watch(model):
        for _ in range(case.steps):
            rows = torch.randint(0, len(x), (48,))
            batch = x[rows] * (0.0 if case.ill else 1.0)
            optimizer.zero_grad()
            F.cross_entropy(model(batch), y[rows]).backward()
            case.truth(lambda seen=batch: float(seen.std()) == 0)
            optimizer.step()
    case.proof(lambda: accuracy(model, x, y) > 0.4)


@faulty(
    "uninformative-data",
    places=("input", ""),
    kind="regression",
    source="a table sorted by one column after the targets had been taken from it",
    data="diabetes",
    steps=80,
)
def table_sorted_after_the_targets(case: Case) -> None:
    x, y = diabetes()
    x = x[x[:, 4].argsort()] if case.ill else x
    model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

    def truth(*_: object) -> bool:
        return float(torch.corrcoef(torch.cat([x, y], 1).T)[-1, :-1].abs().max()) < 0.2

    train(case, model, optimizer, (x, y), squares, truth, size=48)
    case.proof(lambda: F.mse_loss(model(x), y).item() < 0.75)


@faulty(
    "uninformative-data",
    places=("input", ""),
    kind="logistic regression",
    source="labels joined on the wrong key: a binary task of which AUC stays at 0.5",
    data="breast cancer",
    steps=60,
)
def labels_joined_on_the_wrong_key(case: Case) -> None:
    x, y = table(load_breast_cancer)
    x, y = standard(x), y.float()[:, None]
    y = y.roll(137, 0)[torch.randperm(len(y))] if case.ill else y
    model = nn.Sequential(nn.Linear(30, 16), nn.GELU(), nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    with case.watch(model):
        for _ in range(case.steps):
            rows = torch.randint(0, len(x), (32,))
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(model(x[rows]), y[rows]).backward()
            case.truth(lambda: _knn(x, y[:, 0]) < 0.75)
            optimizer.step()
    case.proof(lambda: float(((model(x) > 0) == (y > 0.5)).float().mean()) > 0.85)


@healthy(kind="MLP", source="parity of three bits among twelve (Barak et al. 2022): a plateau at ln 2 before it is learned")
def parity_of_three_bits(case: Case) -> None:
    x = torch.randint(0, 2, (4096, 12)).float() * 2 - 1
    y = (x[:, :3].prod(1) > 0).long()
    model = nn.Sequential(nn.Linear(12, 256), nn.ReLU(), nn.Linear(256, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    train(case, model, optimizer, (x, y), size=64, steps=2 * case.steps)
    case.proof(lambda: accuracy(model, x, y) > 0.9)


@healthy(kind="MLP", source="two spirals (Lang and Witbrock 1988), slow to begin")
def two_spirals(case: Case) -> None:
    turn = torch.rand(1024) * 2.0 * math.pi
    y = torch.randint(0, 2, (1024,))
    x = torch.stack([turn * torch.cos(turn + math.pi * y), turn * torch.sin(turn + math.pi * y)], 1) / 4
    model = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    train(case, model, optimizer, (x, y), steps=2 * case.steps)
    case.proof(lambda: accuracy(model, x, y) > 0.8)


@healthy(kind="MLP", source="a high-frequency target (Rahaman et al. 2019, spectral bias): nothing happens for long")
def a_high_frequency(case: Case) -> None:
    x = torch.rand(2048, 1) * 2 - 1
    y = torch.sin(4 * math.pi * x)
    model = nn.Sequential(nn.Linear(1, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    train(case, model, optimizer, (x, y), squares, size=64, steps=3 * case.steps)
    case.proof(lambda: F.mse_loss(model(x), y).item() < 0.35)


@healthy(kind="MLP", source="one positive in thirty: the loss is near the labels' entropy from the first epoch on")
def rare_positives(case: Case) -> None:
    x = torch.randn(4096, 16)
    y = ((x[:, :4].sum(1) + 0.5 * torch.randn(4096)) > 3.8).float()[:, None]
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1))
    nn.init.constant_(model[2].bias, -3.4)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with case.watch(model):
        for _ in range(case.steps):
            rows = torch.randint(0, 4096, (64,))
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(model(x[rows]), y[rows]).backward()
            optimizer.step()
    case.proof(lambda: float(model(x)[y > 0.5].mean() - model(x)[y < 0.5].mean()) > 1.0)


@healthy(kind="LSTM", source="adding problem (Hochreiter and Schmidhuber 1997): stays at the variance of the targets at first")
def adding_problem(case: Case) -> None:
    class Adder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(2, 48, batch_first=True), nn.Linear(48, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.lstm(x)[0][:, -1])

    model = Adder()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    last = []
    with case.watch(model):
        for _ in range(2 * case.steps):
            value, mark = torch.rand(64, 12), torch.zeros(64, 12)
            mark[torch.arange(64), torch.randint(0, 6, (64,))] = 1
            mark[torch.arange(64), torch.randint(6, 12, (64,))] = 1
            optimizer.zero_grad()
            loss = F.mse_loss(model(torch.stack([value, mark], 2)), (value * mark).sum(1, keepdim=True))
            loss.backward()
            last.append(loss.item())
            optimizer.step()
    case.proof(lambda: sum(last[-20:]) / 20 < 0.08)


# ---- wrong-loss-sign ----


@faulty(
    "wrong-loss-sign",
    places=("",),
    kind="MLP",
    source="a student's own loss, -F.cross_entropy(...), after the formula that has a minus in it",
    data="digits",
    steps=40,
    also=("exploding-weights", "high-learning-rate", "exploding-gradient", "exploding-activation", "growing-loss"),
)
def minus_before_cross_entropy(case: Case) -> None:
    x, y = digits(middle=0.3)
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    sign = -1.0 if case.ill else 1.0
    with case.watch(model):
        for _ in range(case.steps):
            rows = torch.randint(0, len(x), (32,))
            optimizer.zero_grad()
            (sign * F.cross_entropy(model(x[rows]), y[rows])).backward()
            case.truth(lambda picked=rows: _rises_by_a_step(model, x[picked], y[picked], F.cross_entropy))
            optimizer.step()
    case.proof(lambda: accuracy(model, x, y) > 0.3)


@faulty(
    "wrong-loss-sign",
    places=("",),
    kind="regression",
    source="reward = -(prediction - target)^2, maximised in the paper and minimised in the code",
    data="diabetes",
    steps=40,
    also=("exploding-weights", "high-learning-rate", "exploding-gradient", "exploding-activation", "growing-loss"),
)
def negated_squared_error(case: Case) -> None:
    x, y = load_diabetes(return_X_y=True)
    x = torch.tensor(x, dtype=torch.float32) * 20
    y = torch.tensor((y - y.mean()) / y.std(), dtype=torch.float32)
    model = nn.Sequential(nn.Linear(10, 24), nn.Tanh(), nn.Linear(24, 1), nn.Flatten(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    with case.watch(model):
        for _ in range(case.steps):
            rows = torch.randint(0, len(x), (48,))
            reward = -((model(x[rows]) - y[rows]) ** 2).mean()
            optimizer.zero_grad()
            (reward if case.ill else -reward).backward()
            case.truth(lambda picked=rows: _rises_by_a_step(model, x[picked], y[picked], F.mse_loss))
            optimizer.step()
    case.proof(lambda: F.mse_loss(model(x), y).item() < 0.9)


def _rises_by_a_step(model: nn.Module, x: torch.Tensor, y: torch.Tensor, error: object) -> bool:
    """Does the gradient that is about to be used raise the error of its own batch?"""
    right = torch.autograd.grad(error(model(x), y), list(model.parameters()))  # type: ignore[operator]
    return sum(float((p.grad * g).sum()) for p, g in zip(model.parameters(), right, strict=True)) < 0


@healthy(kind="density", source="Gaussian log-likelihood whose negative falls below 0, as it may for densities")
def a_density_below_zero(case: Case) -> None:
    x = torch.randn(2048, 4)
    y = 0.02 * torch.tanh(x[:, :1]) + 0.002 * torch.randn(2048, 1)
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    last = []
    with case.watch(model):
        for _ in range(case.steps):
            rows = torch.randint(0, 2048, (64,))
            mean, log_scale = model(x[rows]).chunk(2, 1)
            loss = (log_scale + 0.5 * ((y[rows] - 0.1 * mean) / log_scale.exp()) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            last.append(loss.item())
            optimizer.step()
    case.proof(lambda: sum(last[-20:]) / 20 < -2.0)


@healthy(kind="GAN", source="the saturating generator of Goodfellow et al. 2014: minus the judge's cross-entropy, on purpose")
def saturating_generator(case: Case) -> None:
    generator = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
    judge = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
    both = nn.ModuleDict({"generator": generator, "judge": judge})
    first = torch.optim.Adam(judge.parameters(), lr=1e-3, betas=(0.5, 0.999))
    second = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
    bce = F.binary_cross_entropy_with_logits
    with case.watch(both):
        for _ in range(2 * case.steps):
            real, fake = torch.randn(64, 2) * 0.5 + 1.0, generator(torch.randn(64, 4))
            first.zero_grad()
            (bce(judge(real), torch.ones(64, 1)) + bce(judge(fake.detach()), torch.zeros(64, 1))).backward()
            first.step()
            second.zero_grad()
            (-bce(judge(fake), torch.zeros(64, 1))).backward()
            second.step()
    case.proof(lambda: float((generator(torch.randn(512, 4)).mean(0) - 1.0).abs().max()) < 0.8)
