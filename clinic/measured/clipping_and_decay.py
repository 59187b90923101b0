"""Steps made small by clipping, weights by decay."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.measured._data import blobs, images, pick, sentences, table, waves
from clinic.measured._loop import ALL, fit, gradient, mean, on_batches, weight
from clinic.measured._models import (
    Autoencoder,
    ConvNet,
    MoE,
    Recurrent,
    gpt2,
    mlp,
)

# ---- overtight-clipping


@faulty(
    "overtight-clipping",
    places=ALL,
    kind="GRU",
    source="forum: clip_grad_norm_ with 1e-4 'to be safe' in front of plain SGD",
    steps=100,
)
def norm_clipped_to_almost_nothing(case: Case) -> None:
    x = waves(length=12)
    model = Recurrent(nn.GRU(1, 16, batch_first=True), 1, every=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norms = []

    def clip() -> None:
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-4 if case.ill else 5.0)))

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.mse_loss(model(x[rows])[:, :-1], x[rows][:, 1:])

    fit(case, model, optimizer, loss, lambda: norms[-1] > 100 * 1e-4 and case.ill, clip=clip)


@faulty(
    "overtight-clipping",
    places=ALL,
    kind="CNN",
    source="Stack Overflow: clip_grad_value_ of 1e-5 copied from a recipe in which losses were summed",
    steps=100,
    data="digits",
)
def every_value_clipped(case: Case) -> None:
    x, y = images()
    model = ConvNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    before = [0.0]

    def clip() -> None:
        before[0] = gradient(model)
        torch.nn.utils.clip_grad_value_(model.parameters(), 1e-5 if case.ill else 10.0)

    fit(case, model, optimizer, on_batches(model, x, y), lambda: gradient(model) < 0.01 * before[0], clip=clip)


# ---- excessive-weight-decay


@faulty(
    "excessive-weight-decay",
    places=ALL,
    kind="MLP",
    source="grid search with decay 10 for AdamW: weights shrink faster than they learn",
    steps=150,
    data="digits",
    also=("collapsed-output", "vanishing-gradient"),
)
def adamw_with_decay_of_ten(case: Case) -> None:
    x, y = table("digits")
    model = mlp(64, 48, 48, 10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=20.0 if case.ill else 0.01)
    start = model[2].weight.detach().norm().item()

    fit(case, model, optimizer, on_batches(model, x, y), lambda: model[2].weight.detach().norm().item() < 0.5 * start)


@faulty(
    "excessive-weight-decay",
    places=ALL,
    kind="autoencoder",
    source="Keras port: l2(0.5) turned into SGD's weight_decay",
    steps=120,
    data="digits",
    also=("collapsed-output", "vanishing-gradient"),
)
def sgd_with_decay_of_a_half(case: Case) -> None:
    x, _ = table("digits")
    model = Autoencoder(act=nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.5 if case.ill else 1e-4)
    start = weight(model)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.mse_loss(model(x[rows]), x[rows]) * 4

    fit(case, model, optimizer, loss, lambda: weight(model) < 0.5 * start, learns=0.97)


# ---- a second decay and clipping on other architectures


@faulty(
    "excessive-weight-decay",
    places=ALL,
    kind="MoE",
    source="hand-written decay of 5 % a step in the loop, meant to be 5 % an epoch",
    steps=120,
    also=("collapsed-output", "vanishing-gradient"),
)
def decay_by_hand_every_step(case: Case) -> None:
    x, y = blobs()
    model = MoE(12, 4, top=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    start = weight(model)
    losses = []
    with case.watch(model):
        for step in range(case.steps):
            optimizer.zero_grad()
            rows = pick(len(x))
            loss = F.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            case.truth(lambda: weight(model) < 0.5 * start)
            optimizer.step()
            if case.ill or step % 100 == 99:
                with torch.no_grad():
                    for p in model.parameters():
                        p.mul_(0.95)
            losses.append(loss.item())
    case.proof(lambda: mean(losses[-10:]) < 0.9 * mean(losses[:5]))


@faulty(
    "overtight-clipping",
    places=ALL,
    kind="GPT-2 (transformers)",
    source="TrainingArguments(max_grad_norm=1e-5) taken for a learning rate, with SGD",
    steps=80,
)
def clipping_taken_for_a_rate(case: Case) -> None:
    tokens = sentences()
    model = gpt2()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    norms = []

    def clip() -> None:
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-5 if case.ill else 1.0)))

    def loss() -> Tensor:
        rows = pick(len(tokens))
        return model(input_ids=tokens[rows], labels=tokens[rows]).loss

    fit(case, model, optimizer, loss, lambda: case.ill and norms[-1] > 1e-3, clip=clip)
