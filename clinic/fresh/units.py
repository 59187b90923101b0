"""Units that are dead or saturated."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.fresh._plain import bundled, fell, pictures, scaled

# ---- dead-units


def silent(h: Tensor) -> float:
    """Share of the channels that are 0 for every sample and place."""
    return h.detach().transpose(0, 1).flatten(1).amax(1).le(0).double().mean().item()


class Pyramid(nn.Module):
    """A detector's head: one shared tower, classes for each place."""

    def __init__(self, prior: float, everywhere: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 12, 3, padding=1)
        self.tower = nn.Conv2d(12, 12, 3, padding=1)
        self.classes = nn.Conv2d(12, 1, 3, padding=1)
        prior_bias = -math.log((1 - prior) / prior)
        for m in (self.tower, self.classes) if everywhere else (self.classes,):
            nn.init.normal_(m.weight, std=0.05)
            nn.init.constant_(m.bias, prior_bias)

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.tower(F.relu(self.stem(x))))

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(self.features(x))


@faulty(
    "dead-units",
    places=("tower", "tower.*", "classes", "*"),
    kind="detector",
    source="Lin et al. 2017, RetinaNet's prior bias set in a loop over all convolutions of the head and not only the last",
    steps=60,
    data="digits",
    also=("collapsed-output", "parameter-without-gradient", "stalled-loss", "uninformative-data"),
)
def prior_bias_in_the_tower(case: Case) -> None:
    x, _ = pictures()
    bright = (x > 1.2).float()
    net = Pyramid(0.01, everywhere=case.ill)
    opt = torch.optim.SGD(net.parameters(), lr=0.5)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 1797, (16,))
            p = net(x[rows])
            ce = F.binary_cross_entropy_with_logits(p, bright[rows], reduction="none")
            loss = ((1 - (-ce).exp()) ** 2 * ce).mean()
            opt.zero_grad()
            loss.backward()
            case.truth(lambda: silent(net.features(x[:400])) > 0.9)
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


class ResidualUnit(nn.Module):
    def __init__(self, width: int, shift: float) -> None:
        super().__init__()
        self.fc, self.bn = nn.Linear(width, width, bias=False), nn.BatchNorm1d(width)
        nn.init.constant_(self.bn.bias, shift)

    def branch(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.fc(x)))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


@faulty(
    "dead-units",
    places=("units.*", "*units*", "*"),
    kind="ResNet",
    source="forum: 'sparsity by initialisation', beta of every batch norm begun at -6, no unit fires again",
    steps=60,
    data="breast_cancer",
)
def beta_begun_far_below(case: Case) -> None:
    x, y = bundled("breast_cancer")
    x = scaled(x)
    net = nn.ModuleDict(
        {
            "inlet": nn.Linear(30, 24),
            "units": nn.ModuleList([ResidualUnit(24, -6.0 if case.ill else 0.0) for _ in range(3)]),
            "outlet": nn.Linear(24, 2),
        }
    )

    def forward(batch: Tensor) -> Tensor:
        h = F.relu(net["inlet"](batch))
        for unit in net["units"]:
            h = unit(h)
        return net["outlet"](h)

    def dead() -> bool:
        h = F.relu(net["inlet"](x))
        return all(silent(unit.branch(h)) > 0.6 for unit in net["units"])

    opt = torch.optim.AdamW(net.parameters(), lr=2e-3)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randperm(569)[:64]
            loss = F.cross_entropy(forward(x[rows]), y[rows])
            opt.zero_grad()
            loss.backward()
            case.truth(dead)
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


# ---- saturated-units


class Hash(nn.Module):
    """tanh(beta x); beta is raised during training so that codes become binary."""

    def __init__(self) -> None:
        super().__init__()
        self.beta = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.beta * x)


@faulty(
    "saturated-units",
    places=("hash", "code", "code.*", "*"),
    kind="deep hashing",
    source="Cao et al. 2017, HashNet: tanh(beta x) by continuation; beta raised to 1000 after the first epoch",
    steps=80,
    data="digits",
    also=("vanishing-gradient", "parameter-without-gradient"),
)
def continuation_too_fast(case: Case) -> None:
    x, y = bundled("digits")
    x = scaled(x)
    net = nn.Sequential()
    net.add_module("body", nn.Sequential(nn.Linear(64, 48), nn.ReLU()))
    net.add_module("code", nn.Linear(48, 16))
    net.add_module("hash", Hash())
    net.add_module("classify", nn.Linear(16, 10))
    opt = torch.optim.Adam(net.parameters(), lr=3e-3)
    losses = []
    with case.watch(net):
        for step in range(case.steps):
            if step == 30 and case.ill:
                net.hash.beta = 1000.0
            rows = torch.randint(0, 1797, (64,))
            loss = F.cross_entropy(net(x[rows]), y[rows])
            opt.zero_grad()
            loss.backward()
            case.truth(lambda: net[:3](x).abs().gt(0.995).double().mean().item() > 0.9)
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


class LogisticNet(nn.Module):
    """As in a first course: sigmoids by hand, weights from randn."""

    def __init__(self, width: float) -> None:
        super().__init__()
        self.theta1, self.theta2 = nn.Linear(64, 25), nn.Linear(25, 10)
        self.squash = nn.Sigmoid()
        nn.init.normal_(self.theta1.weight, std=width)

    def forward(self, x: Tensor) -> Tensor:
        return self.theta2(self.squash(self.theta1(x)))


@faulty(
    "saturated-units",
    places=("squash", "theta1", "theta1.*", "*"),
    kind="MLP",
    source="Ng's course, exercise 4 in PyTorch: rand_initialize_weights with epsilon 12 in place of 0.12",
    steps=60,
    data="digits",
    also=("wrong-initial-scale", "vanishing-gradient"),
)
def epsilon_of_twelve(case: Case) -> None:
    x, y = bundled("digits")
    net = LogisticNet(7.0 if case.ill else 0.07)
    x = scaled(x)
    opt = torch.optim.SGD(net.parameters(), lr=0.5)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 1797, (64,))
            loss = F.cross_entropy(net(x[rows]), y[rows])
            opt.zero_grad()
            loss.backward()
            case.truth(lambda: (net.squash(net.theta1(x)) - 0.5).abs().gt(0.49).double().mean().item() > 0.85)
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))
