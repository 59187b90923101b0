"""Healthy trainings by unusual means: optimizers, precision, adapters, norms of weights, ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from clinic.frame import Case, healthy
from clinic.measured._data import blobs, pick, sentences, table
from clinic.measured._loop import fit, mean, on_batches
from clinic.measured._models import GPT, Block, LoRA, MoE, mlp


@healthy(kind="LoRA", source="Hu et al. 2022: B begun at zero, everything else frozen")
def lora_on_a_frozen_net(case: Case) -> None:
    x, y = table("digits")
    body = mlp(64, 64, 64, 10)
    model = nn.Sequential(LoRA(body[0], 4), nn.ReLU(), LoRA(body[2], 4), nn.ReLU(), LoRA(body[4], 4))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)

    fit(case, model, optimizer, on_batches(model, x, y), learns=0.7)


@healthy(kind="MoE", source="Shazeer et al. 2017: top-2 of eight experts and a balancing loss")
def moe_with_balancing_loss(case: Case) -> None:
    x, y = blobs(512, 12, 6)
    model = MoE(12, 6, experts=8, top=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)

    def loss() -> Tensor:
        r = pick(512)
        share = model.router(x[r]).softmax(-1).mean(0)
        return F.cross_entropy(model(x[r]), y[r]) + 0.01 * 8 * share.square().sum()

    fit(case, model, optimizer, loss, learns=0.5)


class _Muon(torch.optim.Optimizer):
    """Jordan 2024: momentum, orthogonalised by Newton-Schulz, for matrices."""

    def __init__(self, params: object, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                m.lerp_(p.grad, 0.05)
                u = m / (m.norm() + 1e-7)
                for _ in range(5):
                    s = u @ u.T
                    u = 3.4445 * u + (-4.775 * s + 2.0315 * s @ s) @ u
                p.add_(u, alpha=-group["lr"])


@healthy(kind="GPT", source="Jordan 2024, Muon for matrices and AdamW for the rest")
def muon_and_adamw(case: Case) -> None:
    tokens = sentences()
    model = GPT(tied=False)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and n.startswith("blocks")]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and n.startswith("blocks"))]
    both = [_Muon(matrices, lr=0.01), torch.optim.AdamW(others, lr=3e-3)]
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            for o in both:
                o.zero_grad()
            loss = model.loss(tokens[pick(len(tokens), 16)])
            loss.backward()
            for o in both:
                o.step()
            losses.append(loss.item())
    case.proof(lambda: mean(losses[-10:]) < 0.8 * mean(losses[:10]))


@healthy(kind="Transformer encoder", source="torch.amp recipe: bfloat16 autocast, float32 weights")
def bfloat16_autocast(case: Case) -> None:
    tokens = sentences(length=8)
    model = nn.Sequential(nn.Embedding(24, 16), Block(16), Block(16), nn.LayerNorm(16), nn.Linear(16, 24))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def loss() -> Tensor:
        t = tokens[pick(len(tokens), 16)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.cross_entropy(model(t).flatten(0, 1), t.flatten())

    fit(case, model, optimizer, loss, learns=0.5)


@healthy(kind="MLP", source="Foret et al. 2021, SAM: two backward passes and a detour of the weights in each step")
def sharpness_aware(case: Case) -> None:
    x, y = blobs(512)
    model = mlp(12, 24, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            r = pick(512)
            optimizer.zero_grad()
            F.cross_entropy(model(x[r]), y[r]).backward()
            with torch.no_grad():
                norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
                away = [0.05 * p.grad / (norm + 1e-12) for p in model.parameters()]
                for p, d in zip(model.parameters(), away, strict=True):
                    p.add_(d)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[r]), y[r])
            loss.backward()
            with torch.no_grad():
                for p, d in zip(model.parameters(), away, strict=True):
                    p.sub_(d)
            optimizer.step()
            losses.append(loss.item())
    case.proof(lambda: mean(losses[-10:]) < 0.5 * mean(losses[:5]))


@healthy(kind="MLP", source="Miyato et al. 2018, spectral norm by torch.nn.utils.parametrizations")
def spectral_norm(case: Case) -> None:
    x, y = blobs(512)
    sn = nn.utils.parametrizations.spectral_norm
    model = nn.Sequential(sn(nn.Linear(12, 32)), nn.ReLU(), sn(nn.Linear(32, 32)), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def loss() -> Tensor:
        r = pick(512)
        return F.cross_entropy(model(x[r]), y[r])

    fit(case, model, optimizer, loss, learns=0.5)


@healthy(kind="MLP", source="a factorised layer, 64 to 4 to 64 without an activation: a bottleneck on purpose", data="digits")
def low_rank_layer(case: Case) -> None:
    x, y = table("digits")
    model = nn.Sequential(nn.Linear(64, 8, bias=False), nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    fit(case, model, optimizer, on_batches(model, x, y), learns=0.5)


@healthy(kind="MLP", source="forum: log_softmax before cross-entropy, which is harmless since it is idempotent", data="wine")
def log_softmax_before_cross_entropy(case: Case) -> None:
    x, y = table("wine")
    model = nn.Sequential(nn.Linear(13, 24), nn.ReLU(), nn.Linear(24, 3), nn.LogSoftmax(dim=1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    fit(case, model, optimizer, on_batches(model, x, y), learns=0.5)


@healthy(kind="MLP", source="PyTorch DDP tutorial: two ranks, each its own part of the data", ranks=2)
def two_ranks_as_it_should_be(case: Case) -> None:
    x, y = blobs(512)
    replica = DistributedDataParallel(mlp(12, 24, 4))
    optimizer = torch.optim.SGD(replica.parameters(), lr=0.05, momentum=0.9)
    mine = torch.arange(dist.get_rank(), 512, 2)
    losses = []
    with case.watch(replica):
        for _ in range(case.steps):
            r = mine[pick(256, 16)]
            optimizer.zero_grad()
            loss = F.cross_entropy(replica(x[r]), y[r])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    case.proof(lambda: mean(losses[-10:]) < 0.5 * mean(losses[:5]))
