"""Healthy: few bits, a field integrated, two ranks, sums over sets, the edge of stability."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, healthy
from clinic.fresh._plain import descend, fell


class KahanSGD(torch.optim.Optimizer):
    """bfloat16 weights that lose nothing: what is rounded away is kept."""

    def __init__(self, params: object, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                rest = self.state[p].setdefault("rest", torch.zeros_like(p))
                asked = rest - group["lr"] * p.grad
                new = p + asked
                rest.copy_(asked - (new - p))
                p.copy_(new)


@healthy(
    kind="MLP",
    source="Zamirai et al. 2020, bfloat16 training with Kahan summation: single updates are rounded away, none is lost",
)
def bfloat16_with_kahan(case: Case) -> None:
    x = torch.randn(400, 8)
    y = (x @ torch.randn(8, 3)).argmax(1)
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3)).bfloat16()
    opt = KahanSGD(net.parameters(), lr=0.05)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 400, (64,))
            loss = F.cross_entropy(net(x[rows].bfloat16()).float(), y[rows])
            losses.append(descend(opt, loss))
    case.proof(lambda: fell(losses, 0.5))


class Field(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z**3)


@healthy(
    kind="neural ODE",
    source="Chen et al. 2018, torchdiffeq's spiral demo: cubes of the state, Runge-Kutta of fourth order by hand",
)
def spiral(case: Case) -> None:
    a = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])

    def path(f: object, z: Tensor, steps: int) -> Tensor:
        out, h = [z], 0.1
        for _ in range(steps):
            k1 = f(z)
            k2 = f(z + h / 2 * k1)
            k3 = f(z + h / 2 * k2)
            z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + f(z + h * k3))
            out.append(z)
        return torch.stack(out)

    true = path(lambda z: (z**3) @ a, torch.tensor([[2.0, 0.0]]), 150)
    field = Field()
    opt = torch.optim.RMSprop(field.parameters(), lr=2e-3)
    losses = []
    with case.watch(field):
        for _ in range(case.steps):
            begin = torch.randint(0, 140, (16,))
            goal = torch.stack([true[begin + i, 0] for i in range(6)])
            loss = (path(field, goal[0], 5) - goal).abs().mean()
            losses.append(descend(opt, loss))
    case.proof(lambda: fell(losses, 0.8))


@healthy(
    kind="MLP",
    source="PyTorch DDP notes: gradients as bucket views, join of two ranks with data of their own, SyncBatchNorm absent",
    ranks=2,
)
def two_ranks_two_halves(case: Case) -> None:
    rank = dist.get_rank()
    shared = torch.Generator().manual_seed(case.seed)
    x = torch.randn(400, 6, generator=shared)
    y = (x[:, :1] * x[:, 1:2]).tanh()
    mine = slice(rank * 200, rank * 200 + 200)
    net = nn.parallel.DistributedDataParallel(
        nn.Sequential(nn.Linear(6, 32), nn.SiLU(), nn.Linear(32, 1)), gradient_as_bucket_view=True
    )
    opt = torch.optim.AdamW(net.parameters(), lr=1e-2)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 200, (32,))
            loss = F.mse_loss(net(x[mine][rows]), y[mine][rows])
            losses.append(descend(opt, loss))
    case.proof(lambda: fell(losses, 0.5))


@healthy(
    kind="deep sets", source="Zaheer et al. 2017, deep sets: sums over sets of different sizes, a rate that goes up and down"
)
def sums_over_sets(case: Case) -> None:
    size = torch.randint(2, 9, (300,))
    values = torch.randint(0, 6, (300, 8)).float()
    member = (torch.arange(8) < size[:, None]).float()
    y = (values * member).sum(1, keepdim=True) / 7 - 2
    phi, rho = (
        nn.Sequential(nn.Linear(1, 24), nn.ELU(), nn.Linear(24, 16), nn.ELU()),
        nn.Sequential(nn.Linear(16, 16), nn.ELU(), nn.Linear(16, 1)),
    )
    net = nn.ModuleDict({"phi": phi, "rho": rho})
    opt = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CyclicLR(opt, 1e-4, 1e-2, step_size_up=30)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 300, (32,))
            summed = (phi(values[rows][..., None] / 3 - 1) * member[rows][..., None]).sum(1)
            loss = F.mse_loss(rho(summed), y[rows])
            opt.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 20.0)
            opt.step()
            schedule.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses, 0.5))


@healthy(
    kind="linear regression",
    source="Cohen et al. 2021, the edge of stability in a deep linear net by full-batch descent",
    also=("missing-activation",),
)
def at_the_edge_of_stability(case: Case) -> None:
    x = torch.randn(60, 5)
    y = x @ torch.randn(5, 1)
    net = nn.Sequential(nn.Linear(5, 8, bias=False), nn.Linear(8, 8, bias=False), nn.Linear(8, 1, bias=False))
    opt = torch.optim.SGD(net.parameters(), lr=0.03)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            loss = F.mse_loss(net(x), y)
            losses.append(descend(opt, loss))
    case.proof(lambda: fell(losses, 0.1))
