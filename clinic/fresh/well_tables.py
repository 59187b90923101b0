"""Healthy: tables that scikit-learn bundles, in the manner of scripts found on the web."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, healthy
from clinic.fresh._plain import bundled, descend, fell, scaled


@healthy(kind="MLP", source="Klambauer et al. 2017, self-normalising networks: SELU, LeCun normal, alpha dropout", data="wine")
def self_normalising(case: Case) -> None:
    x, y = bundled("wine")
    x = scaled(x)
    layers: list[nn.Module] = []
    for a, b in ((13, 32), (32, 32), (32, 32), (32, 32)):
        layers += [nn.Linear(a, b), nn.SELU(), nn.AlphaDropout(0.05)]
        nn.init.normal_(layers[-3].weight, std=a**-0.5)
        nn.init.zeros_(layers[-3].bias)
    net = nn.Sequential(*layers, nn.Linear(32, 3))
    opt = torch.optim.SGD(net.parameters(), lr=0.02)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 178, (32,))
            loss = F.cross_entropy(net(x[rows]), y[rows])
            losses.append(descend(opt, loss))
    case.proof(lambda: fell(losses, 0.5))


@healthy(
    kind="MLP",
    source="Lin et al. 2017, focal loss with the prior in the last bias: the loss begins near zero",
    data="breast_cancer",
)
def focal_loss_with_a_prior(case: Case) -> None:
    x, y = bundled("breast_cancer")
    keep = torch.cat([(y == 1).nonzero()[:, 0], (y == 0).nonzero()[:20, 0]])  # one in twenty is malignant
    x, rare = scaled(x)[keep], (y[keep] == 0).float()
    net = nn.Sequential(nn.Linear(30, 24), nn.ReLU(), nn.Linear(24, 1))
    nn.init.constant_(net[2].bias, -2.9)
    opt = torch.optim.Adam(net.parameters(), lr=3e-3)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, len(x), (64,))
            ce = F.binary_cross_entropy_with_logits(net(x[rows])[:, 0], rare[rows], reduction="none")
            loss = ((1 - torch.exp(-ce)) ** 2 * ce).mean()
            losses.append(descend(opt, loss))
    case.proof(lambda: fell(losses, 0.5))


class MeanAndVariance(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.mean, self.var = nn.Linear(10, 24), nn.Linear(24, 1), nn.Linear(24, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.trunk(x))
        return self.mean(h), F.softplus(self.var(h)) + 1e-3


@healthy(
    kind="probabilistic regression",
    source="Nix & Weigend 1994, nn.GaussianNLLLoss: mean and variance, the loss may be below zero",
    data="diabetes",
)
def mean_and_variance(case: Case) -> None:
    x, y = bundled("diabetes")
    x, y = scaled(x), scaled(y)
    net, criterion = MeanAndVariance(), nn.GaussianNLLLoss()
    opt = torch.optim.Adam(net.parameters(), lr=3e-3)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 442, (64,))
            mean, var = net(x[rows])
            loss = criterion(mean, y[rows], var)
            losses.append(descend(opt, loss))
    case.proof(lambda: fell(losses, 0.9))


@healthy(
    kind="quantile regression",
    source="Koenker & Bassett 1978; Keras example on quantiles: pinball loss for three quantiles",
    data="diabetes",
)
def three_quantiles(case: Case) -> None:
    x, y = bundled("diabetes")
    x, y = scaled(x), scaled(y)
    net = nn.Sequential(nn.Linear(10, 32), nn.LeakyReLU(), nn.Linear(32, 3))
    q = torch.tensor([0.1, 0.5, 0.9])
    opt = torch.optim.RMSprop(net.parameters(), lr=2e-3)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 442, (48,))
            gap = y[rows] - net(x[rows])
            loss = torch.maximum(q * gap, (q - 1) * gap).mean()
            losses.append(descend(opt, loss))
    case.proof(lambda: fell(losses, 0.85))


@healthy(
    kind="MLP",
    source="d2l.ai, 'from scratch': gradient descent written by hand over a list of tensors, no torch.optim",
    data="iris",
)
def descent_by_hand(case: Case) -> None:
    x, y = bundled("iris")
    x = scaled(x)
    net = nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 3))
    losses = []

    def sgd(lr: float) -> None:
        with torch.no_grad():
            for p in net.parameters():
                p -= lr * p.grad
                p.grad.zero_()

    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 150, (30,))
            loss = F.cross_entropy(net(x[rows]), y[rows])
            loss.backward()
            sgd(0.1)
            losses.append(loss.item())
    case.proof(lambda: fell(losses, 0.5))


class FeatureTokens(nn.Module):
    """FT-Transformer: every number becomes a token."""

    def __init__(self, features: int, width: int, classes: int) -> None:
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.randn(features, width) / width**0.5),
            nn.Parameter(torch.zeros(features, width)),
        )
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, 0.1, batch_first=True, norm_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x[..., None] * self.weight + self.bias
        return self.head(self.encoder(torch.cat([self.cls.expand(len(x), 1, -1), tokens], 1))[:, 0])


@healthy(kind="FT-Transformer", source="Gorishniy et al. 2021, revisiting deep learning for tabular data", data="wine")
def numbers_as_tokens(case: Case) -> None:
    x, y = bundled("wine")
    x = scaled(x)
    net = FeatureTokens(13, 16, 3)
    opt = torch.optim.AdamW(net.parameters(), lr=1e-3)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 178, (24,))
            loss = F.cross_entropy(net(x[rows]), y[rows])
            losses.append(descend(opt, loss))
    case.proof(lambda: fell(losses, 0.4))
