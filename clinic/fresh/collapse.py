"""Representations that have collapsed, attention that has grown sharp."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.fresh._plain import EVERYWHERE, bundled, fell, pictures, root, scaled

# ---- collapsed-output


def spread(out: Tensor) -> float:
    """Deviation over the samples against the outputs' size."""
    out = out.detach().flatten(1).double()
    return (out.std(0).square().mean().sqrt() / out.square().mean().sqrt().clamp(min=1e-12)).item()


class Variational(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 12))
        self.decoder = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 64), nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, log_var = self.encoder(x).chunk(2, 1)
        return self.decoder(mu + torch.randn_like(mu) * (log_var / 2).exp()), mu, log_var


@faulty(
    "collapsed-output",
    places=("", "decoder", "decoder.*", "encoder", "encoder.*"),
    kind="VAE",
    source="Stack Overflow, 'my VAE outputs the same blurry picture': KL summed, reconstruction averaged",
    steps=200,
    data="digits",
    also=("stalled-loss",),
)
def same_blurry_picture(case: Case) -> None:
    x = bundled("digits")[0] / 16
    vae = Variational()
    opt = torch.optim.Adam(vae.parameters(), lr=1e-2)
    losses = []
    with case.watch(vae):
        for _ in range(case.steps):
            batch = x[torch.randint(0, 1797, (64,))]
            out, mu, log_var = vae(batch)
            kl = -0.5 * (1 + log_var - mu**2 - log_var.exp()).sum(1).mean()
            if case.ill:
                loss = F.binary_cross_entropy(out, batch) + kl
            else:
                loss = F.binary_cross_entropy(out, batch, reduction="sum") / 64 + 0.1 * kl
            opt.zero_grad()
            loss.backward()
            case.truth(lambda: spread(vae.decoder(vae.encoder(x).chunk(2, 1)[0])) < 0.005 * spread(x))  # no noise: by the input
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses, 0.95) and spread(vae(x[:200])[0]) > 0.1)


@faulty(
    "collapsed-output",
    places=("", "expander", "expander.*", "encoder", "encoder.*", "*"),
    kind="siamese",
    source="Bardes et al. 2022, VICReg's ablation: variance and covariance terms left out, all embeddings become one point",
    steps=150,
    data="wine",
    also=("vanishing-gradient",),
)
def invariance_alone(case: Case) -> None:
    x, _ = bundled("wine")
    x = scaled(x)
    net = nn.ModuleDict(
        {"encoder": nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 16)), "expander": nn.Linear(16, 16)}
    )

    def embed(batch: Tensor) -> Tensor:
        return net["expander"](F.relu(net["encoder"](batch)))

    opt = torch.optim.Adam(net.parameters(), lr=5e-3)
    losses, begun = [], embed(x).std(0).mean().item()
    with case.watch(net):
        for _ in range(case.steps):
            batch = x[torch.randint(0, 178, (64,))]
            a, b = embed(batch + 0.3 * torch.randn_like(batch)), embed(batch + 0.3 * torch.randn_like(batch))
            loss = F.mse_loss(a, b)
            if not case.ill:
                for z in (a, b):
                    centred = z - z.mean(0)
                    cov = centred.T @ centred / 63
                    loss = loss + F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean()
                    loss = loss + 0.04 * (cov - cov.diag().diag()).square().sum() / 16
            opt.zero_grad()
            loss.backward()
            case.truth(lambda: embed(x).std(0).mean().item() < 0.05 * begun)
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


# ---- rank-collapse


class NoSkips(nn.Module):
    """An encoder of torch's own attention; `skip`: with the residual connections that belong there."""

    def __init__(self, skip: bool, layers: int = 12) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 32)
        self.attention = nn.ModuleList([nn.MultiheadAttention(32, 2, batch_first=True) for _ in range(layers)])
        self.norms = nn.ModuleList([nn.LayerNorm(32) for _ in range(layers)])
        self.head = nn.Linear(32, 30)
        self.skip = skip

    def hidden(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for mix, norm in zip(self.attention, self.norms, strict=True):
            out = mix(norm(x), norm(x), norm(x), need_weights=False)[0]
            x = x + out if self.skip else out
        return x

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.hidden(tokens))


def alike(h: Tensor) -> float:
    """What tells the places of a sequence apart, against all of it."""
    return root(h - h.mean(1, keepdim=True)) / root(h)


@faulty(
    "rank-collapse",
    places=EVERYWHERE,
    kind="Transformer encoder",
    source="Dong et al. 2021 re-told in a blog, 'attention is not all you need': skip connections dropped to save memory",
    steps=40,
    also=("vanishing-gradient", "collapsed-output", "stalled-loss"),
)
def skips_dropped(case: Case) -> None:
    tokens = torch.randint(0, 30, (300, 12))
    net = NoSkips(not case.ill)
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 300, (32,))
            loss = F.cross_entropy(net(tokens[rows]).flatten(0, 1), tokens[rows].flatten())
            opt.zero_grad()
            loss.backward()
            case.truth(lambda: alike(net.hidden(tokens[:64])) < 1e-3)
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


# ---- attention-logit-growth


class Pointer(nn.Module):
    """Two layers of single-head attention over digits read row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Linear(8, 32)
        self.place = nn.Parameter(0.1 * torch.randn(8, 32))
        self.to_q, self.to_k, self.to_v = (nn.Linear(32, 32, bias=False) for _ in range(3))
        self.out = nn.Linear(32, 10)

    def logits(self, h: Tensor) -> Tensor:
        return self.to_q(h) @ self.to_k(h).transpose(1, 2) / math.sqrt(32)

    def hidden(self, x: Tensor) -> Tensor:
        return self.rows(x[:, 0]) + self.place

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(x)
        return self.out((h + self.logits(h).softmax(-1) @ self.to_v(h)).mean(1))


@faulty(
    "attention-logit-growth",
    places=("to_q", "to_k", "to_q.*", "to_k.*", ""),
    kind="attention",
    source="Zhai et al. 2023, attention entropy collapse: rate of queries and keys a hundred times too high",
    steps=150,
    data="digits",
    also=("high-learning-rate", "exploding-weights", "wrong-initial-scale"),
)
def entropy_collapse(case: Case) -> None:
    x, y = pictures()
    net = Pointer()
    sharp = [net.to_q.weight, net.to_k.weight]
    rest = [p for n, p in net.named_parameters() if n not in ("to_q.weight", "to_k.weight")]
    opt = torch.optim.Adam([{"params": sharp, "lr": 0.2 if case.ill else 2e-3}, {"params": rest, "lr": 2e-3}])
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 1797, (32,))
            loss = F.cross_entropy(net(x[rows]), y[rows])
            opt.zero_grad()
            loss.backward()
            case.truth(lambda: net.logits(net.hidden(x[:64])).abs().max().item() > 1e3)
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))
