"""Two processes, joined by gloo: data that are the same on both, replicas that part."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from clinic.frame import Case, faulty
from clinic.measured._data import blobs, images, table
from clinic.measured._models import ConvNet, mlp


def _same_everywhere(x: Tensor) -> bool:
    """Has every rank the same numbers? A collective: all ranks must ask."""
    low, high = x.detach().clone().double(), x.detach().clone().double()
    dist.all_reduce(low, op=dist.ReduceOp.MIN)
    dist.all_reduce(high, op=dist.ReduceOp.MAX)
    return torch.equal(low, high)


def _average(model: nn.Module, leave_out: str = "-") -> None:
    for name, p in model.named_parameters():
        if leave_out not in name and p.grad is not None:
            dist.all_reduce(p.grad)
            p.grad /= dist.get_world_size()


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def _ddp(case: Case, model: nn.Module, x: Tensor, y: Tensor, lr: float) -> None:
    replica = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(replica.parameters(), lr=lr, momentum=0.9)
    draw = torch.Generator().manual_seed(case.seed if case.ill else 1000 * dist.get_rank() + case.seed)
    losses = []
    with case.watch(replica):
        for _ in range(case.steps):
            rows = torch.randint(0, len(x), (16,), generator=draw)
            same = _same_everywhere(rows)
            optimizer.zero_grad()
            loss = F.cross_entropy(replica(x[rows]), y[rows])
            loss.backward()
            case.truth(lambda same=same: same)
            optimizer.step()
            losses.append(loss.item())
    case.proof(lambda: sum(losses[-10:]) < 0.9 * sum(losses[:10]))


@faulty(
    "duplicated-data",
    places=("", "input"),
    kind="CNN",
    source="PyTorch DDP tutorial comments: DataLoader without DistributedSampler, every rank sees the same batches",
    steps=40,
    data="digits",
    ranks=2,
)
def no_distributed_sampler(case: Case) -> None:
    x, y = images()
    _ddp(case, ConvNet(norm=False), x, y, 0.02)


@faulty(
    "duplicated-data",
    places=("", "input"),
    kind="MLP",
    source="Lightning issue: seed_everything on each rank and a random crop sampler of its own",
    steps=40,
    data="wine",
    ranks=2,
)
def every_rank_seeded_alike(case: Case) -> None:
    x, y = table("wine")
    _ddp(case, mlp(13, 24, 3), x, y, 0.05)


def _by_hand(case: Case, model: nn.Module, x: Tensor, y: Tensor, leave_out: str, lr: float) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    draw = torch.Generator().manual_seed(1000 * dist.get_rank() + case.seed)
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            rows = torch.randint(0, len(x), (16,), generator=draw)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            _average(model, leave_out)
            optimizer.step()
            same = _same_everywhere(_flat(model))
            case.truth(lambda same=same: not same)
            losses.append(loss.item())
    case.proof(lambda: sum(losses[-10:]) < 0.95 * sum(losses[:10]))


@faulty(
    "diverged-replicas",
    places=("", "4", "4.*", "*"),
    kind="MLP",
    source="hand-written data parallelism: gradients of the head are not reduced (its name was filtered out)",
    steps=40,
    ranks=2,
)
def head_not_reduced(case: Case) -> None:
    x, y = blobs()
    _by_hand(case, mlp(12, 24, 24, 4), x, y, "4." if case.ill else "-", 0.1)


@faulty(
    "diverged-replicas",
    places=("", "*"),
    kind="CNN",
    source="Horovod forum: broadcast_parameters forgotten, every rank begins elsewhere",
    steps=40,
    data="digits",
    ranks=2,
)
def start_not_broadcast(case: Case) -> None:
    x, y = images()
    if case.ill:
        torch.manual_seed(77 + dist.get_rank() + case.seed)
    _by_hand(case, ConvNet(norm=False), x, y, "-", 0.1)


@faulty(
    "diverged-replicas",
    places=("", "*"),
    kind="MLP",
    source="DDP under no_sync for the whole epoch in place of the accumulation steps",
    steps=40,
    data="wine",
    ranks=2,
)
def never_synchronised(case: Case) -> None:
    x, y = table("wine")
    replica = DistributedDataParallel(mlp(13, 24, 3))
    optimizer = torch.optim.AdamW(replica.parameters(), lr=5e-3)
    draw = torch.Generator().manual_seed(1000 * dist.get_rank() + case.seed)
    with case.watch(replica):
        for _ in range(case.steps):
            rows = torch.randint(0, len(x), (16,), generator=draw)
            optimizer.zero_grad()
            if case.ill:
                with replica.no_sync():
                    F.cross_entropy(replica(x[rows]), y[rows]).backward()
            else:
                F.cross_entropy(replica(x[rows]), y[rows]).backward()
            optimizer.step()
            same = _same_everywhere(_flat(replica))
            case.truth(lambda same=same: not same)
    case.proof(lambda: F.cross_entropy(replica.module(x), y).item() < 0.9)
