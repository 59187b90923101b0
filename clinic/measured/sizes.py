"""Activations, weights and attention logits that grow without a bound."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.measured._data import graph, images, pick, sentences, table, waves
from clinic.measured._loop import ALL, fit, on_batches, rms, weight
from clinic.measured._models import (
    GAN,
    GCN,
    GPT,
    Recurrent,
    ViT,
    mlp,
    normalised,
)

# ---- exploding-activation


class _Stack(nn.Module):
    """Residual branches without norm and without scale."""

    def __init__(self, width: int, depth: int, scale: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([mlp(width, width, width) for _ in range(depth)])
        self.head, self.scale = nn.Linear(width, 10), scale
        for block in self.blocks:
            for m in (block[0], block[2]):
                nn.init.kaiming_normal_(m.weight, nonlinearity="relu")

    def hidden(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + self.scale * block(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x))


@faulty(
    "exploding-activation",
    places=ALL,
    kind="ResNet",
    source="Zhang et al. 2019, Fixup: residual branches without norm double the variance at each block",
    steps=40,
    data="digits",
    also=("high-initial-loss",),
)
def residuals_without_norm(case: Case) -> None:
    x, y = table("digits")
    depth = 20
    model = _Stack(64, depth, 1.0 if case.ill else 0.2 / math.sqrt(depth))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    fit(case, model, optimizer, on_batches(model, x, y), lambda: rms(model.hidden(x[:200])) > 1e3 * rms(x[:200]))


@faulty(
    "exploding-activation",
    places=ALL,
    kind="GCN",
    source="PyG discussion: sum aggregation over a dense graph without normalising the adjacency",
    steps=40,
    also=("high-initial-loss", "high-learning-rate"),
)
def adjacency_not_normalised(case: Case) -> None:
    x, y, adjacency = graph()
    model = GCN(8, 24, 24, 24, 24, 24, 3)
    a = adjacency if case.ill else normalised(adjacency)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2 if not case.ill else 1e-3)

    def truth() -> bool:
        return rms(model(x, a)) > 1e2 * rms(x)

    fit(case, model, optimizer, lambda: F.cross_entropy(model(x, a), y), truth)


@faulty(
    "exploding-activation",
    places=ALL,
    kind="RNN",
    source="Le, Jaitly & Hinton 2015, IRNN: ReLU recurrence a little above the identity",
    steps=40,
    also=("wrong-initial-scale", "high-initial-loss"),
)
def relu_recurrence_above_identity(case: Case) -> None:
    x = waves(length=50).abs()
    cell = nn.RNN(1, 20, nonlinearity="relu", batch_first=True)
    nn.init.eye_(cell.weight_hh_l0)
    if case.ill:
        with torch.no_grad():
            cell.weight_hh_l0.mul_(1.4)
    else:
        with torch.no_grad():
            cell.weight_hh_l0.mul_(0.7)
    model = Recurrent(cell, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3 if not case.ill else 1e-4)
    target = x.mean(1)

    loss = on_batches(model, x, target, F.mse_loss)
    fit(case, model, optimizer, loss, lambda: rms(model.rnn(x[:64])[0][:, -1]) > 1e4 * rms(model.rnn(x[:64])[0][:, 0]))


# ---- exploding-weights


@faulty(
    "exploding-weights",
    places=ALL,
    kind="MLP",
    source="forum: hand-written L2 penalty subtracted from the loss instead of added",
    steps=100,
    data="breast_cancer",
    also=("growing-loss", "wrong-loss-sign"),
)
def penalty_with_the_wrong_sign(case: Case) -> None:
    x, y = table("breast_cancer")
    model = mlp(30, 24, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    start = weight(model)

    def loss() -> Tensor:
        rows = pick(len(x))
        penalty = sum(p.square().sum() for p in model.parameters())
        return F.cross_entropy(model(x[rows]), y[rows]) + (-0.5 if case.ill else 0.001) * penalty

    fit(case, model, optimizer, loss, lambda: weight(model) > 10 * start)


@faulty(
    "exploding-weights",
    places=("", "critic", "critic.*"),
    kind="GAN",
    source="Arjovsky et al. 2017, WGAN: the critic is neither clipped nor penalised",
    steps=200,
)
def critic_without_a_bound(case: Case) -> None:
    angle = torch.rand(512) * 6.28
    real = torch.stack([angle.cos(), angle.sin()], 1)
    model = GAN()
    g = torch.optim.RMSprop(model.generator.parameters(), lr=1e-4)
    d = torch.optim.RMSprop(model.critic.parameters(), lr=1e-2 if case.ill else 1e-3)
    start = weight(model.critic)
    with case.watch(model):
        for _ in range(case.steps):
            d.zero_grad()
            (model.critic(model.fake().detach()).mean() - model.critic(real[pick(512)]).mean()).backward()
            d.step()
            if not case.ill:
                with torch.no_grad():
                    for p in model.critic.parameters():
                        p.clamp_(-0.3, 0.3)
            g.zero_grad()
            (-model.critic(model.fake()).mean()).backward()
            case.truth(lambda: weight(model.critic) > 10 * start)
            g.step()
    case.proof(lambda: bool(torch.isfinite(model.fake()).all()))


# ---- attention-logit-growth


@faulty(
    "attention-logit-growth",
    places=("blocks*", "*attn*", ""),
    kind="ViT",
    source="Dehghani et al. 2023, ViT-22B: attention logits grow until attention is one-hot; no q/k norm, rate too high",
    steps=200,
    data="digits",
    also=("high-learning-rate", "exploding-weights"),
)
def vit_without_qk_norm(case: Case) -> None:
    x, y = images()
    model = ViT(scale=None if not case.ill else 1.0)
    groups = [
        {"params": [p for n, p in model.named_parameters() if "query" in n or "key" in n], "lr": 0.05 if case.ill else 2e-3},
        {"params": [p for n, p in model.named_parameters() if "query" not in n and "key" not in n], "lr": 2e-3},
    ]
    optimizer = torch.optim.Adam(groups)

    def truth() -> bool:
        block = model.blocks[0]
        return block.attn.logits(block.ln1(model.tokens(x[:64]))).abs().max().item() > 100

    fit(case, model, optimizer, on_batches(model, x, y), truth)


@faulty(
    "attention-logit-growth",
    places=("blocks*", "*attn*", ""),
    kind="GPT",
    source="Wortsman et al. 2023, small-scale proxies: logits beyond 1e4 at a high learning rate",
    steps=150,
    also=("high-learning-rate", "exploding-weights"),
)
def gpt_with_growing_logits(case: Case) -> None:
    tokens = sentences()
    model = GPT(tied=False)
    fast = [p for n, p in model.named_parameters() if "query" in n or "key" in n]
    slow = [p for n, p in model.named_parameters() if "query" not in n and "key" not in n]
    optimizer = torch.optim.AdamW([{"params": fast, "lr": 0.1 if case.ill else 2e-3}, {"params": slow, "lr": 2e-3}])

    def truth() -> bool:
        h = model.wte(tokens[:32]) + model.wpe(torch.arange(16))
        block = model.blocks[0]
        return block.attn.logits(block.ln1(h)).abs().max().item() > 100

    fit(case, model, optimizer, lambda: model.loss(tokens[pick(len(tokens))]), truth)
