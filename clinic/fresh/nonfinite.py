"""Where NaN and infinity arise: data, forward, backward, loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.fresh._plain import bundled, fell, finite, pictures, scaled

# ---- nonfinite-origin


class Unit(nn.Module):
    def __init__(self, least: float) -> None:
        super().__init__()
        self.least = least

    def forward(self, x: Tensor) -> Tensor:
        return x / x.norm(dim=1, keepdim=True).clamp(min=self.least)


class Documents(nn.Module):
    def __init__(self, least: float) -> None:
        super().__init__()
        self.project = nn.Linear(50, 12, bias=False)
        self.unit = Unit(least)
        self.classify = nn.Linear(12, 3)

    def forward(self, counts: Tensor) -> Tensor:
        return self.classify(4 * self.unit(self.project(counts)))


@faulty(
    "nonfinite-origin",
    places=("unit",),
    kind="bag of words",
    source="Kaggle, text similarity: a document of stop words only has a vector of zero, dividing by its length gives NaN",
    steps=40,
)
def empty_document(case: Case) -> None:
    topics = torch.rand(3, 50) ** 4
    y = torch.randint(0, 3, (300,))
    x = torch.poisson(2 * topics[y])
    x[torch.randint(0, 300, (3,))] = 0.0
    net = Documents(0.0 if case.ill else 0.1)
    opt = torch.optim.SGD(net.parameters(), lr=0.3)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 300, (20,))
            loss = F.cross_entropy(net(x[rows]), y[rows])
            opt.zero_grad()
            loss.backward()
            case.truth(lambda rows=rows: case.ill and bool((x[rows].sum(1) == 0).any()))
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


class GeM(nn.Module):
    """Generalised mean pooling."""

    def __init__(self, power: float = 3.0, least: float = 1e-6) -> None:
        super().__init__()
        self.power, self.least = power, least

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=self.least).pow(self.power).mean((2, 3)).pow(1 / self.power)


class Retrieval(nn.Module):
    def __init__(self, least: float) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Dropout2d(0.1))
        self.pool, self.fc = GeM(least=least), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.conv(x)))


@faulty(
    "nonfinite-origin",
    places=("pool",),
    kind="CNN",
    source="Radenovic et al. 2018, GeM pooling on Kaggle: no clamp(eps), the root of a silenced map has gradient 0 * inf",
    steps=40,
    data="digits",
)
def pooled_silence(case: Case) -> None:
    x, y = pictures()
    model = Retrieval(0.0 if case.ill else 1e-6)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            rows = torch.randint(0, len(x), (24,))
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            case.truth(lambda: not finite(model))
            optimizer.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


class MixtureDensity(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(1, 20), nn.Tanh())
        self.pi, self.mu, self.sigma = nn.Linear(20, 4), nn.Linear(20, 4), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.trunk(x)
        return self.pi(h).log_softmax(1), self.mu(h), self.sigma(h).exp()


@faulty(
    "nonfinite-origin",
    places=("", "loss", "pi", "mu", "sigma"),
    kind="mixture density network",
    source="Bishop 1994; blog 'Mixture Density Networks with PyTorch': log of a sum of exp underflows far from all components",
    steps=80,
)
def likelihood_underflows(case: Case) -> None:
    y = torch.rand(400, 1) * 20 - 10
    x = torch.sin(0.75 * y) * 7 + y * 0.5 + torch.randn(400, 1)
    x, y = scaled(x), y / 5
    y[7] = 60.0  # one typing error
    net = MixtureDensity()
    opt = torch.optim.Adam(net.parameters(), lr=5e-3)
    losses: list[float] = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 400, (40,))
            log_pi, mu, sigma = net(x[rows])
            parts = log_pi - sigma.log() - 0.5 * math.log(2 * math.pi) - 0.5 * ((y[rows] - mu) / sigma) ** 2
            loss = -(parts.exp().sum(1).log() if case.ill else parts.logsumexp(1).clamp(min=-50)).mean()
            opt.zero_grad()
            loss.backward()
            losses.append(loss.item())
            case.truth(lambda: not math.isfinite(losses[-1]))
            opt.step()
    case.proof(lambda: sorted(losses)[40] < losses[0] and all(map(math.isfinite, losses)))


@faulty(
    "nonfinite-origin",
    places=("input",),
    kind="MLP",
    source="Kaggle house prices: np.log of a skewed column that holds zeros, log1p was meant",
    steps=50,
    data="breast_cancer",
)
def log_of_a_column_with_zeros(case: Case) -> None:
    x, y = bundled("breast_cancer")
    concave = x[:, 7]  # mean concave points: 13 of 569 are zero
    column = concave.log() if case.ill else (concave + 0.01).log()
    x = torch.cat([scaled(x), (column[:, None] + 3.5)], 1)
    net = nn.Sequential(nn.Linear(31, 16), nn.ELU(), nn.Linear(16, 2))
    opt = torch.optim.SGD(net.parameters(), lr=0.05)
    losses = []
    with case.watch(net):
        for batch in torch.randint(0, 569, (case.steps, 8)):
            opt.zero_grad()
            loss = F.cross_entropy(net(x[batch]), y[batch])
            loss.backward()
            case.truth(lambda batch=batch: not torch.isfinite(x[batch]).all())
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))
