"""Healthy: graphs, sets of points, learning to learn, adversaries."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from clinic.frame import Case, healthy
from clinic.fresh._plain import descend, fell, mean


class GATLayer(nn.Module):
    def __init__(self, inputs: int, outputs: int, heads: int) -> None:
        super().__init__()
        self.lin = nn.Linear(inputs, heads * outputs, bias=False)
        self.source, self.target = (nn.Parameter(0.1 * torch.randn(heads, outputs)) for _ in range(2))
        self.heads = heads

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = self.lin(x).unflatten(-1, (self.heads, -1))
        e = F.leaky_relu((h * self.source).sum(-1)[:, None] + (h * self.target).sum(-1)[None], 0.2)
        a = e.masked_fill(~edges[..., None], float("-inf")).softmax(1)
        return torch.einsum("ijh,jhd->ihd", F.dropout(a, 0.2, self.training), h).flatten(1)


@healthy(
    kind="GAT",
    source="Velickovic et al. 2018, graph attention: masked by minus infinity, few labels, full batch, dropout on attention",
)
def graph_attention(case: Case) -> None:
    y = torch.arange(60) % 3
    edges = (torch.rand(60, 60) < torch.where(y[:, None] == y, 0.3, 0.03)) | torch.eye(60, dtype=torch.bool)
    x = torch.randn(3, 10)[y] * 0.7 + torch.randn(60, 10)
    net = nn.ModuleDict({"a": GATLayer(10, 8, 4), "b": GATLayer(32, 3, 1)})
    opt = torch.optim.Adam(net.parameters(), lr=5e-3, weight_decay=5e-4)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            out = net["b"](F.elu(net["a"](F.dropout(x, 0.3, True), edges)), edges)
            loss = F.cross_entropy(out[:15], y[:15])
            losses.append(descend(opt, loss))
    case.proof(lambda: fell(losses, 0.6))


@healthy(kind="PointNet", source="Qi et al. 2017, PointNet: a maximum over points, only the points at the rim have a gradient")
def clouds_of_points(case: Case) -> None:
    y = torch.randint(0, 3, (240,))
    points = (
        F.normalize(torch.randn(240, 24, 3), dim=2) * torch.tensor([[1.0, 1, 1], [1.6, 1, 0.4], [0.3, 0.3, 1.8]])[y][:, None]
    )
    each = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 48), nn.ReLU())
    net = nn.ModuleDict({"each": each, "all": nn.Sequential(nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 3))})
    opt = torch.optim.Adamax(net.parameters(), lr=3e-3)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 240, (24,))
            loss = F.cross_entropy(net["all"](each(points[rows]).amax(1)), y[rows])
            losses.append(descend(opt, loss))
    case.proof(lambda: fell(losses, 0.5))


@healthy(
    kind="MAML", source="Finn et al. 2017, MAML by torch.func.functional_call: a gradient through a gradient step, on sines"
)
def learning_to_learn(case: Case) -> None:
    net = nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            total = 0.0
            opt.zero_grad()
            for _task in range(3):
                size, phase, x = 0.5 + 2 * torch.rand(()), 3 * torch.rand(()), 10 * torch.rand(20, 1) - 5
                goal = size * torch.sin(x + phase)
                now = dict(net.named_parameters())
                inner = F.mse_loss(functional_call(net, now, x[:10]), goal[:10])
                slopes = torch.autograd.grad(inner, list(now.values()), create_graph=True)
                fast = {name: p - 0.02 * g for (name, p), g in zip(now.items(), slopes, strict=True)}
                loss = F.mse_loss(functional_call(net, fast, x[10:]), goal[10:]) / 3
                loss.backward()
                total += loss.item()
            opt.step()
            losses.append(total)
    case.proof(lambda: fell([mean(losses[:20])] * 3 + losses, 0.98))


@healthy(
    kind="hypernetwork",
    source="Ha et al. 2017, hypernetworks: the weights that act are outputs; one network has no gradient of its own",
)
def weights_from_a_network(case: Case) -> None:
    x = torch.randn(300, 2)
    which = torch.randint(0, 4, (300,))
    slopes = torch.randn(4, 2)
    y = torch.tanh((x * slopes[which]).sum(1, keepdim=True))
    hyper = nn.Sequential(nn.Embedding(4, 6), nn.Linear(6, 2 * 8 + 8))
    opt = torch.optim.Adam(hyper.parameters(), lr=5e-3)
    losses = []
    with case.watch(hyper):
        for _ in range(case.steps):
            rows = torch.randint(0, 300, (64,))
            w = hyper(which[rows])
            first, second = w[:, :16].reshape(-1, 2, 8), w[:, 16:, None]
            loss = F.mse_loss((torch.tanh(x[rows, None] @ first) @ second)[:, 0], y[rows])
            losses.append(descend(opt, loss))
    case.proof(lambda: fell(losses, 0.5))


@healthy(kind="CLIP", source="Radford et al. 2021, CLIP: two towers, a learnt temperature begun at ln(1/0.07) and clamped")
def pictures_and_words(case: Case) -> None:
    hidden = torch.randn(400, 6)
    a, b = torch.tanh(hidden @ torch.randn(6, 20)), torch.tanh(hidden @ torch.randn(6, 12))

    class Towers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.picture = nn.Sequential(nn.Linear(20, 32), nn.GELU(), nn.Linear(32, 12))
            self.text = nn.Sequential(nn.Linear(12, 32), nn.GELU(), nn.Linear(32, 12))
            self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

        def forward(self, p: Tensor, t: Tensor) -> Tensor:
            return self.logit_scale.exp() * F.normalize(self.picture(p), dim=1) @ F.normalize(self.text(t), dim=1).T

    net = Towers()
    opt = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.2, betas=(0.9, 0.98), eps=1e-6)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randperm(400)[:32]
            scores, goal = net(a[rows], b[rows]), torch.arange(32)
            loss = (F.cross_entropy(scores, goal) + F.cross_entropy(scores.T, goal)) / 2
            opt.zero_grad()
            loss.backward()
            opt.step()
            with torch.no_grad():
                net.logit_scale.clamp_(0, math.log(100))
            losses.append(loss.item())
    case.proof(lambda: fell(losses, 0.6))


@healthy(
    kind="GAN",
    source="Mao et al. 2017, LSGAN with hinge-free squares; two time scales (Heusel et al. 2017), one watched generator",
)
def least_squares_gan(case: Case) -> None:
    G = nn.Sequential(nn.Linear(4, 24), nn.LeakyReLU(0.2), nn.Linear(24, 2))
    D = nn.Sequential(nn.Linear(2, 24), nn.LeakyReLU(0.2), nn.Linear(24, 1))
    opt_g, opt_d = torch.optim.Adam(G.parameters(), 1e-3, (0.5, 0.9)), torch.optim.Adam(D.parameters(), 4e-3, (0.5, 0.9))
    centres = torch.tensor([[2.0, 2.0], [2.0, -2.0]])
    offs = []
    with case.watch(nn.ModuleDict({"G": G, "D": D})):
        for _ in range(case.steps):
            real = centres[torch.randint(0, 2, (64,))] + 0.2 * torch.randn(64, 2)
            fake = G(torch.randn(64, 4))
            opt_d.zero_grad()
            ((D(real) - 1).square().mean() + D(fake.detach()).square().mean()).backward()
            opt_d.step()
            opt_g.zero_grad()
            (D(fake) - 1).square().mean().backward()
            opt_g.step()
            offs.append((fake.detach()[:, 0] - 2).abs().mean().item())
    case.proof(lambda: fell(offs, 0.6))
