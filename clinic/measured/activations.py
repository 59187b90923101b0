"""Activations that are missing, doubled, or of another kind than the targets need."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.measured._data import images, pick, sentences, table
from clinic.measured._loop import ALL, fit, on_batches
from clinic.measured._models import (
    GPT,
    Autoencoder,
    Recurrent,
    mlp,
)

# ---- missing-activation


def _is_affine(part: nn.Module, x: Tensor) -> bool:
    """f((a + b) / 2) == (f(a) + f(b)) / 2 in float64."""
    f, x = copy.deepcopy(part).double().eval(), x.double()
    a, b = x, x.flip(0)
    return torch.allclose(f((a + b) / 2), (f(a) + f(b)) / 2, rtol=1e-9, atol=1e-9)


@faulty(
    "missing-activation",
    places=("0", "1", "2"),
    kind="MLP",
    source="first torch net of a course: three Linear in a row, and why is it no better than logistic regression",
    steps=60,
    data="wine",
)
def three_linears_in_a_row(case: Case) -> None:
    x, y = table("wine")
    model = nn.Sequential(nn.Linear(13, 32), nn.Linear(32, 32), nn.Linear(32, 3)) if case.ill else mlp(13, 32, 32, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    fit(case, model, optimizer, on_batches(model, x, y), lambda: _is_affine(model, x))


class _TwoConvs(nn.Module):
    def __init__(self, ill: bool) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc, self.ill = nn.Conv2d(1, 12, 3), nn.Conv2d(12, 12, 3), nn.Linear(192, 10), ill

    def body(self, x: Tensor) -> Tensor:
        h = self.conv1(x)
        return self.conv2(h if self.ill else F.relu(h))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.body(x)).flatten(1))


@faulty(
    "missing-activation",
    places=("conv1", "conv2"),
    kind="CNN",
    source="code review of a student's VGG: F.relu written once per pair of convolutions",
    steps=60,
    data="digits",
)
def relu_once_per_pair(case: Case) -> None:
    x, y = images()
    model = _TwoConvs(case.ill)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

    def affine() -> bool:
        m = copy.deepcopy(model).double()
        a, b = x[:8].double(), x[8:16].double()
        return torch.allclose(m.body((a + b) / 2), (m.body(a) + m.body(b)) / 2, rtol=1e-9, atol=1e-9)

    fit(case, model, optimizer, on_batches(model, x, y), affine)


@faulty(
    "missing-activation",
    places=("encoder*", "decoder*"),
    kind="autoencoder",
    source="Stack Overflow: my deep autoencoder is no better than PCA",
    steps=100,
    data="digits",
)
def deep_autoencoder_without_any(case: Case) -> None:
    x, _ = table("digits")
    model = Autoencoder(act=nn.Identity if case.ill else nn.GELU)
    if case.ill:  # widths that do not shrink: no bottleneck excuses it
        model.encoder, model.decoder = (
            nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)),
            nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)),
        )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.mse_loss(model(x[rows] + 0.5 * torch.randn(32, 64)), x[rows])

    fit(case, model, optimizer, loss, lambda: _is_affine(model, x))


# ---- doubled-output-activation


@faulty(
    "doubled-output-activation",
    places=ALL,
    kind="CNN",
    source="PyTorch forum, many threads: nn.Softmax at the end and nn.CrossEntropyLoss",
    steps=60,
    data="digits",
)
def softmax_before_cross_entropy(case: Case) -> None:
    x, y = images()
    layers = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)]
    model = nn.Sequential(*layers, *([nn.Softmax(dim=1)] if case.ill else []))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    criterion = nn.CrossEntropyLoss()

    def loss() -> Tensor:
        rows = pick(len(x))
        return criterion(model(x[rows]), y[rows])

    fit(
        case,
        model,
        optimizer,
        loss,
        lambda: torch.allclose(model(x[:50]).sum(1), torch.ones(50)) and bool(model(x[:50]).min() >= 0),
    )


@faulty(
    "doubled-output-activation",
    places=ALL,
    kind="LSTM",
    source="Stack Overflow: torch.sigmoid in forward, BCEWithLogitsLoss as the criterion",
    steps=60,
)
def sigmoid_twice(case: Case) -> None:
    x = torch.randn(256, 8, 3)
    y = (x[..., 0].sum(1) > 0).float()
    model = Recurrent(nn.LSTM(3, 16, batch_first=True), 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def out(rows: Tensor) -> Tensor:
        z = model(x[rows])[:, 0]
        return torch.sigmoid(z) if case.ill else z

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.binary_cross_entropy_with_logits(out(rows), y[rows])

    fit(case, model, optimizer, loss, lambda: bool(((z := out(pick(256, 256))) >= 0).all() and (z <= 1).all()))


@faulty(
    "doubled-output-activation",
    places=ALL,
    kind="Transformer decoder",
    source="issue: generate() needed probabilities, so softmax went into forward, and the loss still gets its outputs",
    steps=60,
)
def decoder_gives_probabilities(case: Case) -> None:
    tokens = sentences()
    model = GPT(tied=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def out(t: Tensor) -> Tensor:
        z = model(t)
        return z.softmax(-1) if case.ill else z

    def loss() -> Tensor:
        t = tokens[pick(len(tokens))]
        return F.cross_entropy(out(t[:, :-1]).flatten(0, 1), t[:, 1:].flatten())

    fit(
        case,
        model,
        optimizer,
        loss,
        lambda: torch.allclose((z := out(tokens[:8])).sum(-1), torch.ones(z.shape[:-1]), atol=1e-4),
    )


# ---- unfit-output-activation


@faulty(
    "unfit-output-activation",
    places=ALL,
    kind="MLP",
    source="Stack Overflow: my regression never predicts negative values (ReLU after the last layer)",
    steps=80,
    data="diabetes",
    also=("dead-units", "collapsed-output"),
)
def relu_on_signed_targets(case: Case) -> None:
    x, y = table("diabetes")
    layers = [nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1)]
    model = nn.Sequential(*layers, *([nn.ReLU()] if case.ill else []))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    loss = on_batches(model, x, y, F.mse_loss)
    fit(case, model, optimizer, loss, lambda: bool((model(x) >= 0).all() and (y < 0).double().mean() > 0.2))


@faulty(
    "unfit-output-activation",
    places=ALL,
    kind="autoencoder",
    source="DCGAN generators' Sigmoid kept for images that are standardised to mean 0 and variance 1",
    steps=80,
    data="digits",
)
def sigmoid_for_standardised_images(case: Case) -> None:
    x, _ = table("digits")
    model = Autoencoder()
    if case.ill:
        model.decoder.append(nn.Sigmoid())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    loss = on_batches(model, x, x, F.mse_loss)
    fit(case, model, optimizer, loss, lambda: bool((model(x) >= 0).all()) and (x < -0.1).double().mean().item() > 0.3)


@faulty(
    "unfit-output-activation",
    places=ALL,
    kind="GRU",
    source="forum: tanh at the end of a forecaster of values between 0 and 50",
    steps=80,
    also=("high-initial-loss", "saturated-units", "missing-bias"),
)
def tanh_for_values_up_to_fifty(case: Case) -> None:
    x = torch.randn(256, 8, 2)
    y = 25 + 8 * x[..., 0].mean(1, keepdim=True) * 3
    model = Recurrent(nn.GRU(2, 16, batch_first=True), 1)
    if not case.ill:
        y = (y - y.mean()) / y.std()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def out(rows: Tensor) -> Tensor:
        return torch.tanh(model(x[rows])) if case.ill else model(x[rows])

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.mse_loss(out(rows), y[rows])

    fit(case, model, optimizer, loss, lambda: bool((out(torch.arange(256)).abs() <= 1).all() and (y > 1).double().mean() > 0.5))
