"""Two processes: the same data on both, copies that part; and data parallel training by hand that is healthy."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from clinic.frame import Case, faulty, healthy
from clinic.tuning._data import digits
from clinic.tuning._loop import accuracy


def _digits() -> TensorDataset:
    return TensorDataset(*digits(middle=0.3))


def _is_same(tensor: torch.Tensor) -> bool:
    """On both ranks?"""
    every = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(every, tensor.detach().contiguous())
    return all(torch.equal(one, every[0]) for one in every)


@faulty(
    "duplicated-data",
    places=("input", ""),
    kind="MLP",
    source="PyTorch forum: DDP is as slow as one GPU; the DataLoader had no DistributedSampler",
    data="digits",
    steps=40,
    ranks=2,
)
def no_distributed_sampler(case: Case) -> None:
    data = _digits()
    torch.manual_seed(case.seed)
    sampler = None if case.ill else DistributedSampler(data, seed=case.seed)
    loader = DataLoader(
        data, batch_size=32, sampler=sampler, shuffle=case.ill, generator=torch.Generator().manual_seed(case.seed)
    )
    model = DistributedDataParallel(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 10)))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    batches = iter([])
    with case.watch(model):
        for _ in range(case.steps):
            batch = next(batches, None)
            if batch is None:
                batches = iter(loader)
                batch = next(batches)
            optimizer.zero_grad()
            F.cross_entropy(model(batch[0]), batch[1]).backward()
            case.truth(lambda x=batch[0]: _is_same(x))
            optimizer.step()
    case.proof(lambda: accuracy(model, *data.tensors) > 0.3)


@faulty(
    "diverged-replicas",
    places=("", "*"),
    kind="CNN",
    source="BLOOM-176B (TrainCheck, Jiang et al. 2025): one rank's parameters part from the others'",
    data="digits",
    steps=40,
    ranks=2,
)
def one_rank_loads_another_checkpoint(case: Case) -> None:
    data = _digits()
    x, y = data.tensors[0].view(-1, 1, 8, 8), data.tensors[1]
    plain = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    model = DistributedDataParallel(plain)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(1000 * case.seed + dist.get_rank())
    with case.watch(model):
        for step in range(case.steps):
            if case.ill and step == 7 and dist.get_rank() == 1:
                plain[3].weight.data.add_(0.01)
            rows = torch.randint(0, len(x), (32,), generator=generator)
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            case.truth(lambda: not all(_is_same(p) for p in plain.parameters()))
            optimizer.step()
    case.proof(lambda: accuracy(plain, x, y) > 0.3)


@healthy(
    kind="MLP", source="data parallel by hand: gradients averaged with all_reduce, as in torch's distributed tutorial", ranks=2
)
def averaged_by_hand(case: Case) -> None:
    x, y = digits(middle=0.3)
    torch.manual_seed(case.seed)
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    generator = torch.Generator().manual_seed(1000 * case.seed + dist.get_rank())
    with case.watch(model):
        for _ in range(case.steps):
            rows = torch.randint(0, len(x), (32,), generator=generator)
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            for p in model.parameters():
                dist.all_reduce(p.grad)
                p.grad.div_(dist.get_world_size())
            optimizer.step()
    case.proof(lambda: accuracy(model, x, y) > 0.8)
