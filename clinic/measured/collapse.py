"""Outputs that are the same for all inputs, representations of one direction."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.measured._data import graph, pick, sentences, table
from clinic.measured._loop import fit, on_batches
from clinic.measured._models import (
    GCN,
    Autoencoder,
    mlp,
)

# ---- collapsed-output


def _spread(out: Tensor) -> float:
    """Deviation over the samples against the size of the outputs."""
    out = out.detach().flatten(1).double()
    return (out.std(0).square().mean().sqrt() / out.square().mean().sqrt().clamp(min=1e-12)).item()


@faulty(
    "collapsed-output",
    places=("", "3", "4", "*"),
    kind="siamese",
    source="Chen & He 2021, SimSiam: without stop-gradient the representations collapse to one point",
    steps=200,
    data="digits",
)
def views_without_negatives(case: Case) -> None:
    x, _ = table("digits")
    model = mlp(64, 48, 16)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def loss() -> Tensor:
        rows = pick(len(x), 64)
        a, b = (model(x[rows] + 0.2 * torch.randn(64, 64)) for _ in range(2))
        if case.ill:
            return F.mse_loss(a, b)
        scores = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / 0.2
        return F.cross_entropy(scores, torch.arange(64))

    start = model(x).detach().std(0).mean().item()
    fit(case, model, optimizer, loss, lambda: model(x).detach().std(0).mean().item() < 0.02 * start)


@faulty(
    "collapsed-output",
    places=("", "decoder*", "encoder*", "*"),
    kind="autoencoder",
    source="Stack Overflow: my autoencoder outputs the mean image for every input",
    steps=120,
    data="digits",
    also=("dead-units",),
)
def same_image_for_everything(case: Case) -> None:
    x, _ = table("digits")
    model = Autoencoder()
    if case.ill:
        nn.init.constant_(model.encoder[0].bias, -60.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    fit(case, model, optimizer, on_batches(model, x, x, F.mse_loss), lambda: _spread(model(x)) < 1e-3)


@faulty(
    "collapsed-output",
    places=("", "2", "3", "*"),
    kind="MLP",
    source="Stack Overflow: Softmax over a single output unit, the classifier says 1.0 to everyone",
    steps=80,
    data="breast_cancer",
    also=("unfit-output-activation", "vanishing-gradient", "doubled-output-activation", "high-initial-loss"),
)
def softmax_over_one_unit(case: Case) -> None:
    x, y = table("breast_cancer")
    model = nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 1), nn.Softmax(dim=1) if case.ill else nn.Sigmoid())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.binary_cross_entropy(model(x[rows])[:, 0], y[rows].float())

    fit(case, model, optimizer, loss, lambda: _spread(model(x)) < 1e-3)


# ---- rank-collapse


def _one_direction(h: Tensor) -> float:
    """What is left of rows [n, d] after their mean row is taken out, against the whole: 0 = all rows the same."""
    h = h.detach().double()
    return ((h - h.mean(-2, keepdim=True)).norm() / h.norm().clamp(min=1e-30)).item()


class _PureAttention(nn.Module):
    """Attention without skip connections and without MLPs."""

    def __init__(self, width: int, layers: int, skip: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.MultiheadAttention(width, 2, batch_first=True, bias=False) for _ in range(layers)])
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(layers)])
        self.embed, self.head, self.skip = nn.Embedding(24, width), nn.Linear(width, 24), skip

    def hidden(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            n = norm(x)
            out, _ = layer(n, n, n, need_weights=False)
            x = x + out if self.skip else out
        return x

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.hidden(tokens))


@faulty(
    "rank-collapse",
    places=("*", ""),
    kind="Transformer encoder",
    source="Dong, Cordonnier & Loukas 2021: attention alone loses rank doubly exponentially with depth",
    steps=40,
    also=("vanishing-gradient", "collapsed-output"),
)
def attention_is_all_there_is(case: Case) -> None:
    tokens = sentences(length=10)
    model = _PureAttention(16, 8, not case.ill)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    def loss() -> Tensor:
        rows = pick(len(tokens))
        return F.cross_entropy(model(tokens[rows]).flatten(0, 1), tokens[rows].flatten())

    fit(case, model, optimizer, loss, lambda: _one_direction(model.hidden(tokens[:50])) < 0.01)


@faulty(
    "rank-collapse",
    places=("layers*", "*", ""),
    kind="GCN",
    source="Oono & Suzuki 2020; Li et al. 2018: 48 graph convolutions smooth all nodes into one",
    steps=40,
    also=("collapsed-output", "vanishing-gradient"),
)
def many_graph_convolutions(case: Case) -> None:
    x, y, adjacency = graph()
    a = adjacency / adjacency.sum(1, keepdim=True)
    model = GCN(8, *[24] * (48 if case.ill else 2), 3)
    with torch.no_grad():
        for layer in model.layers:
            nn.init.kaiming_normal_(layer.weight)
            layer.bias.zero_()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    fit(case, model, optimizer, lambda: F.cross_entropy(model(x, a), y), lambda: _one_direction(model.hidden(x, a)) < 0.05)
