"""How training begins: scale of the weights, first loss, units that are all alike."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.measured._data import blobs, friedman, images, pick, sentences, table, waves
from clinic.measured._loop import ALL, fit, on_batches, rms
from clinic.measured._models import (
    GPT,
    Mixer,
    MoE,
    Recurrent,
    ResNet,
    mlp,
)

# ---- high-initial-loss


@faulty(
    "high-initial-loss",
    places=ALL,
    kind="GPT",
    source="Karpathy, makemore part 3 and nanoGPT: tied embedding of deviation one, the first loss is 30 in place of log V",
    steps=60,
    also=("wrong-initial-scale",),
)
def confidently_wrong_at_the_start(case: Case) -> None:
    tokens = sentences()
    model = GPT(tied=True)
    if case.ill:
        nn.init.normal_(model.wte.weight, std=3.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    start = model.loss(tokens).item()
    fit(
        case,
        model,
        optimizer,
        lambda: model.loss(tokens[pick(len(tokens))]),
        lambda: start > 3 * torch.tensor(24.0).log().item(),
    )


@faulty(
    "high-initial-loss",
    places=ALL,
    kind="ResNet",
    source="Karpathy's recipe, verify the loss at init: head begun with deviation 10",
    steps=100,
    data="digits",
    also=("wrong-initial-scale",),
)
def head_begun_too_wide(case: Case) -> None:
    x, y = images()
    model = ResNet(8, 1)
    nn.init.normal_(model.fc.weight, std=20.0 if case.ill else 0.01)
    nn.init.zeros_(model.fc.bias)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with torch.no_grad():
        start = F.cross_entropy(copy.deepcopy(model)(x[:300]), y[:300]).item()

    fit(case, model, optimizer, on_batches(model, x, y), lambda: start > 3 * torch.tensor(10.0).log().item())


@faulty(
    "high-initial-loss",
    places=ALL,
    kind="MLP",
    source="Karpathy's recipe: set the final bias to the mean of the targets (house prices of 200 thousand, in thousands)",
    steps=80,
    also=("missing-bias", "stalled-loss", "low-learning-rate"),
)
def prices_far_from_zero(case: Case) -> None:
    x, y = friedman()
    y = 200.0 + 30.0 * y
    model = mlp(10, 32, 1)
    if not case.ill:
        y = (y - 200.0) / 30.0
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    start = F.mse_loss(model(x), y).item()

    fit(case, model, optimizer, on_batches(model, x, y, F.mse_loss), lambda: start > 3 * y.var().item())


# ---- wrong-initial-scale


@faulty(
    "wrong-initial-scale",
    places=ALL,
    kind="MLP",
    source="CS231n habit carried over from NumPy: weights from torch.randn without a scale",
    steps=40,
    data="digits",
    also=("high-initial-loss", "saturated-units", "exploding-activation"),
)
def weights_from_randn(case: Case) -> None:
    x, y = table("digits")
    model = mlp(64, 128, 128, 128, 10)
    if case.ill:
        for p in model.parameters():
            nn.init.normal_(p)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

    fit(case, model, optimizer, on_batches(model, x, y), lambda: rms(model(x[:200])) > 100 * rms(x[:200]))


@faulty(
    "wrong-initial-scale",
    places=ALL,
    kind="CNN",
    source="Caffe-time habit: every layer Gaussian with deviation 0.001, eight layers deep",
    steps=40,
    data="digits",
    also=("vanishing-gradient", "collapsed-output"),
)
def every_layer_gaussian_of_a_thousandth(case: Case) -> None:
    x, y = images()
    layers: list[nn.Module] = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU()]
    for _ in range(4):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))
    for m in model:
        if hasattr(m, "weight"):
            nn.init.normal_(m.weight, std=1e-3) if case.ill else nn.init.kaiming_normal_(m.weight)
            nn.init.zeros_(m.bias)
    nn.init.normal_(model[-1].weight, std=1e-3 if case.ill else 0.01)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)

    fit(case, model, optimizer, on_batches(model, x, y), lambda: rms(model[:-1](x[:200])) < 1e-6 * rms(x[:200]))


@faulty(
    "wrong-initial-scale",
    places=("", "token*", "channel*", "*"),
    kind="MLP-mixer",
    source="timm issue: initialiser applied to (out, in) swapped, fan of one: weights fifty times too wide",
    steps=40,
    data="digits",
    also=("exploding-activation", "high-initial-loss"),
)
def fan_of_one(case: Case) -> None:
    x, y = images()
    model = Mixer()
    if case.ill:
        for m in [*model.token, *model.channel]:
            for part in (m[0], m[2]):
                nn.init.normal_(part.weight, std=6.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def truth() -> bool:
        h = model.patch(x[:64]).flatten(2).transpose(1, 2)
        return rms(model.token[0](model.norms[0](h).transpose(1, 2))) > 50 * rms(model.norms[0](h))

    fit(case, model, optimizer, on_batches(model, x, y), truth)


# ---- symmetric-initialisation


def _alike(w: Tensor) -> bool:
    return bool((w.detach() == w.detach()[:1]).all())


@faulty(
    "symmetric-initialisation",
    places=("*", ""),
    kind="MLP",
    source="Ng's deep learning course: why weights must not be initialised alike",
    steps=60,
    data="iris",
)
def all_weights_a_tenth(case: Case) -> None:
    x, y = table("iris")
    model = mlp(4, 16, 3)
    if case.ill:
        for m in (model[0], model[2]):
            nn.init.constant_(m.weight, 0.1)
            nn.init.zeros_(m.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    fit(case, model, optimizer, on_batches(model, x, y), lambda: _alike(model[0].weight))


@faulty(
    "symmetric-initialisation",
    places=("conv*", "0*", "2*", "*"),
    kind="CNN",
    source="Keras to torch port: initialiser 'ones' scaled by the fan, for every filter",
    steps=60,
    data="digits",
)
def filters_all_ones(case: Case) -> None:
    x, y = images()
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))
    if case.ill:
        for m, fan in ((model[0], 9), (model[2], 72)):
            nn.init.constant_(m.weight, 1 / fan)
            nn.init.constant_(m.bias, 0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    fit(case, model, optimizer, on_batches(model, x, y), lambda: _alike(model[0].weight), learns=0.7)


@faulty(
    "symmetric-initialisation",
    places=("rnn", "rnn.*", "*"),
    kind="LSTM",
    source="forum: for p in model.parameters(): nn.init.constant_(p, 0.05)",
    steps=40,
)
def every_parameter_the_same(case: Case) -> None:
    x = waves(length=12)
    model = Recurrent(nn.LSTM(1, 12, batch_first=True), 1, every=True)
    if case.ill:
        for p in model.parameters():
            nn.init.constant_(p, 0.05)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.mse_loss(model(x[rows])[:, :-1], x[rows][:, 1:])

    fit(case, model, optimizer, loss, lambda: _alike(model.rnn.weight_ih_l0[:12]))


@faulty(
    "symmetric-initialisation",
    places=("experts*", "*"),
    kind="MoE",
    source="upcycling recipe gone wrong: every expert's units copied from one unit",
    steps=60,
)
def experts_of_one_unit(case: Case) -> None:
    x, y = blobs()
    model = MoE(12, 4, top=2)
    if case.ill:
        with torch.no_grad():
            for e in model.experts:
                for p in (e[0].weight, e[0].bias):
                    p.copy_(p[:1].expand_as(p).clone())
                e[2].weight.copy_(e[2].weight[:, :1].expand_as(e[2].weight).clone())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    fit(case, model, optimizer, on_batches(model, x, y, size=64), lambda: all(_alike(e[0].weight) for e in model.experts))
