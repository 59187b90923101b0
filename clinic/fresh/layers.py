"""Activations that are missing, biases too many."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.fresh._plain import bundled, fell, root, scaled

# ---- missing-activation


def is_affine(part: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    """f(a) + f(b) = f(a + b) + f(0), in double precision."""
    a, b = x[: len(x) // 2], x[len(x) // 2 : len(x) // 2 * 2]
    zero = torch.zeros_like(a)
    gap = part(a) + part(b) - part(a + b) - part(zero)
    return root(gap) < 1e-9 * root(part(a))


class Entities(nn.Module):
    """A tabular net; its ReLU is made and not called."""

    def __init__(self, called: bool) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(10, 64), nn.Linear(64, 64), nn.Linear(64, 1)
        self.relu, self.dropout = nn.ReLU(), nn.Dropout(0.1)
        self.called = called

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        if self.called:
            x = self.relu(x)
        x = self.dropout(x)
        return self.fc3(self.relu(self.fc2(x)))


@faulty(
    "missing-activation",
    places=("fc1", "fc2"),
    kind="MLP",
    source="code review of a Kaggle tabular net: self.relu is defined, and forward forgets it after fc1 (dropout stands there)",
    steps=60,
    data="diabetes",
)
def relu_made_and_not_called(case: Case) -> None:
    x, y = bundled("diabetes")
    x, y = scaled(x), scaled(y)
    net = Entities(called=not case.ill)
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    losses = []

    def between() -> bool:
        exact = copy.deepcopy(net).double()
        first = lambda t: exact.fc2(exact.relu(exact.fc1(t)) if exact.called else exact.fc1(t))
        return is_affine(first, x.double())

    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, len(x), (64,))
            loss = F.mse_loss(net(x[rows]), y[rows])
            opt.zero_grad()
            loss.backward()
            case.truth(between)
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses, 0.95))


class Caption(nn.Module):
    def __init__(self, act: bool) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(18, 16), nn.LSTM(16, 20, batch_first=True)
        self.fc = nn.Linear(20, 40)
        self.act = nn.GELU() if act else nn.Identity()
        self.out = nn.Linear(40, 18)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.act(self.fc(self.lstm(self.embed(tokens))[0])))


@faulty(
    "missing-activation",
    places=("fc", "out", "act"),
    kind="LSTM",
    source="GitHub, image captioning: nn.Identity left where the activation of the head was switched off for a test",
    steps=60,
)
def identity_left_behind(case: Case) -> None:
    tokens = (torch.randint(0, 18, (256, 1)) * torch.tensor([1, 5, 7, 11, 13, 17, 1, 5, 7, 11])) % 18
    net = Caption(act=not case.ill)
    opt = torch.optim.Adam(net.parameters(), lr=5e-3)
    losses = []

    def head() -> bool:
        exact = copy.deepcopy(net).double()
        return is_affine(lambda h: exact.out(exact.act(exact.fc(h))), torch.randn(64, 20, dtype=torch.double))

    with case.watch(net):
        for _ in range(case.steps):
            t = tokens[torch.randint(0, 256, (32,))]
            loss = F.cross_entropy(net(t[:, :-1]).transpose(1, 2), t[:, 1:])
            opt.zero_grad()
            loss.backward()
            case.truth(head)
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


# ---- redundant-bias


class Generator(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(10, 16, 2, bias=bias),
            nn.BatchNorm2d(16),
            nn.ReLU(True),
            nn.ConvTranspose2d(16, 8, 2, 2, bias=bias),
            nn.BatchNorm2d(8),
            nn.ReLU(True),
            nn.ConvTranspose2d(8, 1, 2, 2),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.main(z[:, :, None, None])


def changes_nothing(net: Generator, z: Tensor) -> bool:
    """Other biases, the same pictures."""
    one = copy.deepcopy(net).double()
    if one.main[0].bias is None:
        return False
    other = copy.deepcopy(one)
    with torch.no_grad():
        for i in (0, 3):
            other.main[i].bias.add_(torch.randn_like(other.main[i].bias))
    return root(one(z.double()) - other(z.double())) < 1e-9


@faulty(
    "redundant-bias",
    places=("main.0", "main.0.bias", "main.3", "main.3.bias"),
    kind="DCGAN",
    source="PyTorch's DCGAN tutorial with bias=False forgotten: the generator's transposed convolutions",
    steps=60,
    data="digits",
)
def transposed_convolutions_with_bias(case: Case) -> None:
    real = bundled("digits")[0].reshape(-1, 1, 8, 8) / 8 - 1
    net = nn.ModuleDict(
        {
            "G": Generator(case.ill),
            "D": nn.Sequential(nn.Conv2d(1, 12, 4, 2, 1), nn.LeakyReLU(0.2, True), nn.Flatten(), nn.Linear(192, 1)),
        }
    )
    G, D = net["G"], net["D"]
    opt_d, opt_g = (torch.optim.Adam(m.parameters(), lr=2e-3, betas=(0.5, 0.999)) for m in (D, G))
    bce, first, last = nn.BCEWithLogitsLoss(), 0.0, 0.0
    with case.watch(G):
        for step in range(case.steps):
            fake = G(torch.randn(32, 10))
            opt_d.zero_grad()
            images = real[torch.randint(0, 1797, (32,))]
            (bce(D(images), torch.ones(32, 1)) + bce(D(fake.detach()), torch.zeros(32, 1))).backward()
            opt_d.step()
            opt_g.zero_grad()
            bce(D(fake), torch.ones(32, 1)).backward()
            case.truth(lambda: changes_nothing(G, torch.randn(16, 10)))
            opt_g.step()
            off = (fake.detach().mean(0) - real.mean(0)).abs().mean().item()
            first, last = (off if step == 0 else first), off
    case.proof(lambda: last < first)


class Spectral(nn.Module):
    """Keyword spotting in one dimension, functional batch norm."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.conv_a, self.conv_b = nn.Conv1d(1, 12, 5, 2, bias=bias), nn.Conv1d(12, 16, 3, 2, bias=bias)
        self.norm_a, self.norm_b = nn.BatchNorm1d(12), nn.BatchNorm1d(16)
        self.classify = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm_a(self.conv_a(x)))
        return self.classify(F.relu(self.norm_b(self.conv_b(x))).mean(-1))


@faulty(
    "redundant-bias",
    places=("conv_a", "conv_a.bias", "conv_b", "conv_b.bias"),
    kind="1D CNN",
    source="torchaudio speech command tutorial (M5): Conv1d keeps its bias in front of BatchNorm1d",
    steps=60,
)
def m5_with_biases(case: Case) -> None:
    y = torch.randint(0, 4, (400,))
    t = torch.arange(48)
    x = torch.sin(t * (0.3 + 0.35 * y[:, None]) + 6 * torch.rand(400, 1))[:, None] + 0.3 * torch.randn(400, 1, 48)
    net = Spectral(bias=case.ill)
    opt = torch.optim.AdamW(net.parameters(), lr=5e-3)

    def idle() -> bool:
        if net.conv_b.bias is None:
            return False
        one = copy.deepcopy(net).double()
        before = one(x[:32].double())
        with torch.no_grad():
            one.conv_b.bias.add_(1.0)
        return root(one(x[:32].double()) - before) < 1e-9

    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 400, (40,))
            loss = F.nll_loss(F.log_softmax(net(x[rows]), 1), y[rows])
            opt.zero_grad()
            loss.backward()
            case.truth(idle)
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))
