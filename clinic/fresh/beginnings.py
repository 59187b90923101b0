"""Begun at the wrong scale, too sure, or alike."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.fresh._plain import EVERYWHERE, bundled, fell, pictures, root, scaled

# ---- wrong-initial-scale


def scores(net: nn.Sequential, x: Tensor) -> float:
    """Size of what comes out against what goes in."""
    return root(net(x[:128])) / root(x[:128])


@faulty(
    "wrong-initial-scale",
    places=EVERYWHERE,
    kind="CNN",
    source="Stack Overflow, 'How do I initialize weights in PyTorch': nn.init.uniform_(m.weight), which is 0 to 1",
    steps=40,
    data="digits",
    also=("high-initial-loss", "exploding-activation", "exploding-gradient", "dead-units", "high-learning-rate"),
)
def uniform_from_zero_to_one(case: Case) -> None:
    x, y = pictures()
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )

    def init_weights(m: nn.Module) -> None:
        if isinstance(m, nn.Linear | nn.Conv2d):
            nn.init.uniform_(m.weight) if case.ill else nn.init.xavier_uniform_(m.weight)
            m.bias.data.fill_(0.01)

    net.apply(init_weights)
    first = scores(net, x)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 1797, (32,))
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x[rows]), y[rows])
            loss.backward()
            case.truth(lambda: first > 1e3)
            optimizer.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


@faulty(
    "wrong-initial-scale",
    places=EVERYWHERE,
    kind="VGG",
    source="caffe's cifar10_quick carried over: gaussian filler with std 0.0001, for all layers in place of the first",
    steps=60,
    data="digits",
    also=("vanishing-gradient", "collapsed-output", "stalled-loss"),
)
def gaussian_of_a_ten_thousandth(case: Case) -> None:
    x, y = pictures()
    blocks: list[nn.Module] = []
    for a, b in ((1, 8), (8, 8), (8, 16), (16, 16)):
        blocks += [nn.Conv2d(a, b, 3, padding=1), nn.LeakyReLU(0.1)]
    net = nn.Sequential(*blocks, nn.MaxPool2d(4), nn.Flatten(), nn.Linear(64, 10))
    for m in net:
        if isinstance(m, nn.Conv2d | nn.Linear):
            nn.init.normal_(m.weight, std=1e-4) if case.ill else nn.init.kaiming_normal_(m.weight, 0.1)
            nn.init.zeros_(m.bias)
    first = scores(net, x)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 1797, (32,))
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x[rows]), y[rows])
            loss.backward()
            case.truth(lambda: first < 1e-6)
            optimizer.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


# ---- high-initial-loss


class Makemore(nn.Module):
    """Tables and matrices by hand, as in the lecture."""

    def __init__(self, calm: bool) -> None:
        super().__init__()
        self.C = nn.Parameter(torch.randn(27, 8))
        self.W1 = nn.Parameter(torch.randn(24, 100) * (5 / 3) / 24**0.5)
        self.b1 = nn.Parameter(torch.randn(100) * 0.01)
        self.W2 = nn.Parameter(torch.randn(100, 27) * (0.01 if calm else 1.0))
        self.b2 = nn.Parameter(torch.randn(27) * (0.0 if calm else 1.0))

    def forward(self, context: Tensor) -> Tensor:
        return torch.tanh(self.C[context].flatten(1) @ self.W1 + self.b1) @ self.W2 + self.b2


@faulty(
    "high-initial-loss",
    places=EVERYWHERE,
    kind="character MLP",
    source="Karpathy, makemore part 3, the first cell: W2 = torch.randn, 'the hockey stick', with tensors by hand",
    steps=60,
    also=("wrong-initial-scale",),
)
def hockey_stick(case: Case) -> None:
    context = torch.randint(0, 27, (1000, 3))
    following = (context[:, 2] * 7 + context[:, 1] // 14) % 27
    model = Makemore(calm=not case.ill)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            ix = torch.randint(0, 1000, (32,))
            loss = F.cross_entropy(model(context[ix]), following[ix])
            optimizer.zero_grad()
            loss.backward()
            losses.append(loss.item())
            case.truth(lambda: losses[0] > 2 * torch.tensor(27.0).log().item())
            optimizer.step()
    case.proof(lambda: fell(losses, 0.97))


# ---- symmetric-initialisation


class Factors(nn.Module):
    def __init__(self, users: int, items: int, rank: int, alike: bool) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(users, rank), nn.Embedding(items, rank)
        for table in (self.user, self.item):
            nn.init.constant_(table.weight, 0.3) if alike else nn.init.normal_(table.weight, std=0.3)

    def forward(self, u: Tensor, i: Tensor) -> Tensor:
        return (self.user(u) * self.item(i)).sum(1)


@faulty(
    "symmetric-initialisation",
    places=("user", "item", "user.*", "item.*", ""),
    kind="matrix factorisation",
    source="Funk 2006, the Netflix prize blog: every feature begun at the same value; a port trains all at once",
    steps=60,
    also=("rank-collapse",),
)
def all_features_begun_alike(case: Case) -> None:
    taste, kinds = torch.randn(30, 3), torch.randn(40, 3)
    ratings = taste @ kinds.T / 2
    model = Factors(30, 40, 6, case.ill)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            u, i = torch.randint(0, 30, (128,)), torch.randint(0, 40, (128,))
            loss = F.mse_loss(model(u, i), ratings[u, i])
            optimizer.zero_grad()
            loss.backward()
            case.truth(lambda: bool((model.item.weight == model.item.weight[:, :1]).all()))
            optimizer.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


class TwoBranches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(10, 20), nn.Linear(20, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.hidden(x)))


@faulty(
    "symmetric-initialisation",
    places=EVERYWHERE,
    kind="MLP",
    source="PyTorch forum, 'reproducible initialisation': for p in model.parameters(): torch.nn.init.constant_(p, 0.1)",
    steps=60,
    data="diabetes",
    also=("rank-collapse",),
)
def made_reproducible_by_a_constant(case: Case) -> None:
    x, y = bundled("diabetes")
    x, y = scaled(x), scaled(y)
    net = TwoBranches()
    if case.ill:
        for p in net.parameters():
            nn.init.constant_(p, 0.1)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, len(x), (64,))
            loss = F.mse_loss(net(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            case.truth(lambda: bool((net.hidden.weight == net.hidden.weight[:1]).all()))
            optimizer.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))
