"""What is fed: raw scales, data without a signal, too few samples for a norm, the same or other data on two ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from clinic.frame import Case, faulty
from clinic.fresh._plain import EVERYWHERE, bundled, fell, pictures, scaled

# ---- raw-input-scale


@faulty(
    "raw-input-scale",
    places=("input", ""),
    kind="MLP",
    source="scikit-learn's plot_scaling_importance retold with a net: wine without StandardScaler",
    steps=60,
    data="wine",
    also=("high-initial-loss", "high-learning-rate", "dead-units", "collapsed-output"),
)
def wine_without_a_scaler(case: Case) -> None:
    x, y = bundled("wine")
    if not case.ill:
        x = scaled(x)
    clf = nn.Sequential(nn.Linear(13, 50), nn.ReLU(), nn.Linear(50, 3))
    opt = torch.optim.Adam(clf.parameters(), lr=1e-3 if case.ill else 1e-2)
    losses = []
    with case.watch(clf):
        for batch in torch.randint(0, 178, (case.steps, 32)):
            opt.zero_grad()
            loss = F.cross_entropy(clf(x[batch]), y[batch])
            loss.backward()
            case.truth(lambda: (x.square().mean(0).sqrt().max() / x.square().mean(0).sqrt().min()).item() > 100)
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


class CNNonBytes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.c2(F.relu(self.c1(x)))).mean((2, 3)))


@faulty(
    "raw-input-scale",
    places=("input", ""),
    kind="CNN",
    source="Stack Overflow: torchvision.io.read_image gives uint8; .float() is called and the division by 255 forgotten",
    steps=60,
    also=("high-initial-loss", "high-learning-rate", "exploding-activation", "dead-units"),
)
def bytes_as_they_are(case: Case) -> None:
    y = torch.randint(0, 3, (240,))
    image = torch.randint(60, 200, (240, 3, 10, 10))
    image[torch.arange(240), y] += 50
    net = CNNonBytes()
    opt = torch.optim.SGD(net.parameters(), lr=1e-3 if case.ill else 0.2, momentum=0.9)
    image = image.float() if case.ill else (image.float() / 255 - 0.5) / 0.25
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 240, (24,))
            loss = F.cross_entropy(net(image[rows]), y[rows])
            opt.zero_grad()
            loss.backward()
            case.truth(lambda rows=rows: image[rows].abs().mean().item() > 50)
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


# ---- uninformative-data


@faulty(
    "uninformative-data",
    places=("input", "", "*"),
    kind="CNN",
    source="Stack Overflow: uint8 pictures divided with // 255 before they become floats, all that is left is zero",
    steps=80,
    data="digits",
    also=("collapsed-output", "dead-units", "missing-bias", "stalled-loss"),
)
def divided_as_integers(case: Case) -> None:
    x, y = bundled("digits")
    bytes_ = (x * 15).to(torch.uint8).reshape(-1, 1, 8, 8)
    images = (bytes_ // 255).float() if case.ill else bytes_.float() / 255
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(144, 32), nn.ReLU(), nn.Linear(32, 10)
    )
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 1797, (32,))
            loss = F.cross_entropy(net(images[rows]), y[rows])
            opt.zero_grad()
            loss.backward()
            case.truth(lambda: not images.any())
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


@faulty(
    "uninformative-data",
    places=EVERYWHERE,
    kind="MLP",
    source="PyTorch forum: one DataLoader for the features and one for the labels, both with shuffle=True",
    steps=200,
    data="wine",
    also=("stalled-loss",),
)
def two_loaders_shuffled_apart(case: Case) -> None:
    x, y = bundled("wine")
    x = scaled(x)
    features = DataLoader(TensorDataset(x), 32, shuffle=True, drop_last=True)
    labels = DataLoader(TensorDataset(y), 32, shuffle=True, drop_last=True)
    pairs = DataLoader(TensorDataset(x, y), 32, shuffle=True, drop_last=True)
    net = nn.Sequential(nn.Linear(13, 16), nn.ReLU(), nn.Linear(16, 3))
    opt = torch.optim.SGD(net.parameters(), lr=0.05)
    centres = torch.stack([x[y == k].mean(0) for k in range(3)])
    losses: list[float] = []
    agreed: list[float] = []
    with case.watch(net):
        while len(losses) < case.steps:
            epoch = zip((b[0] for b in features), (b[0] for b in labels), strict=True) if case.ill else pairs
            for bx, by in epoch:
                loss = F.cross_entropy(net(bx), by)
                opt.zero_grad()
                loss.backward()

                def strangers(bx: Tensor = bx, by: Tensor = by) -> bool:
                    """Labels do not agree with the class whose centre is near, over ten batches."""
                    agreed.append((torch.cdist(bx, centres).argmin(1) == by).double().mean().item())
                    return len(agreed) >= 10 and sum(agreed[-10:]) / 10 < 0.5

                case.truth(strangers)
                opt.step()
                losses.append(loss.item())
    case.proof(lambda: fell(losses))


# ---- starved-batch-norm


class ASPP(nn.Module):
    """DeepLab's pyramid: one branch pools the whole picture, its norm sees one value for each picture."""

    def __init__(self, pooled_norm: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 12, 3, padding=1)
        self.near = nn.Sequential(nn.Conv2d(12, 8, 1, bias=False), nn.GroupNorm(2, 8), nn.ReLU())
        last = nn.BatchNorm2d(8) if pooled_norm else nn.GroupNorm(2, 8)
        self.pooling = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(12, 8, 1, bias=False), last, nn.ReLU())
        self.head = nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.stem(x))
        return self.head(torch.cat([self.near(h), self.pooling(h).expand(-1, -1, *h.shape[2:])], 1))


@faulty(
    "starved-batch-norm",
    places=("pooling.2", "pooling", ""),
    kind="DeepLab",
    source="Chen et al. 2017, DeepLabv3; image pooling: batch norm over 1 x 1 maps with a batch of two",
    steps=80,
    data="digits",
)
def pooled_branch_of_two(case: Case) -> None:
    x, _ = pictures()
    target = (x > 0.7).float()
    net = ASPP(pooled_norm=case.ill)
    opt = torch.optim.Adam(net.parameters(), lr=3e-3)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 1797, (2,))
            loss = F.binary_cross_entropy_with_logits(net(x[rows] + 0.3 * torch.randn(2, 1, 8, 8)), target[rows])
            opt.zero_grad()
            loss.backward()
            norm = net.pooling[2]
            case.truth(lambda norm=norm, rows=rows: isinstance(norm, nn.BatchNorm2d) and len(rows) <= 2)
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


# ---- duplicated-data, diverged-replicas


def everywhere_equal(t: Tensor) -> bool:
    """A collective: all ranks ask."""
    both = [torch.empty_like(t) for _ in range(dist.get_world_size())]
    dist.all_gather(both, t.detach().contiguous())
    return all(torch.equal(both[0], other) for other in both)


@faulty(
    "duplicated-data",
    places=("", "input"),
    kind="MLP",
    source="PyTorch forum: DistributedSampler(dataset, num_replicas=2, rank=0) written with the rank of the example",
    steps=40,
    data="breast_cancer",
    ranks=2,
)
def sampler_always_rank_zero(case: Case) -> None:
    x, y = bundled("breast_cancer")
    data = TensorDataset(scaled(x), y)
    sampler = DistributedSampler(data, num_replicas=2, rank=0 if case.ill else dist.get_rank(), seed=case.seed)
    loader = DataLoader(data, batch_size=28, sampler=sampler, drop_last=True)
    net = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(30, 24), nn.GELU(), nn.Linear(24, 2)))
    opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    losses = []
    with case.watch(net):
        for epoch in range(case.steps // len(loader)):
            sampler.set_epoch(epoch)
            for bx, by in loader:
                same = everywhere_equal(bx)
                loss = F.cross_entropy(net(bx), by)
                opt.zero_grad()
                loss.backward()
                case.truth(lambda same=same: same)
                opt.step()
                losses.append(loss.item())
    case.proof(lambda: fell(losses))


@faulty(
    "diverged-replicas",
    places=EVERYWHERE,
    kind="autoencoder",
    source="PyTorch's 'Writing distributed applications' with accumulation: average_gradients before the last micro-batch",
    steps=40,
    data="digits",
    ranks=2,
)
def averaged_one_backward_too_early(case: Case) -> None:
    x = scaled(bundled("digits")[0])
    net = nn.Sequential(nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 64))
    opt = torch.optim.SGD(net.parameters(), lr=0.3)
    draw = torch.Generator().manual_seed(97 * dist.get_rank() + case.seed)

    def average_gradients() -> None:
        for p in net.parameters():
            dist.all_reduce(p.grad)
            p.grad /= dist.get_world_size()

    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            opt.zero_grad()
            total = 0.0
            for micro in range(2):
                batch = x[torch.randint(0, 1797, (16,), generator=draw)]
                loss = F.mse_loss(net(batch), batch) / 2
                loss.backward()
                total += loss.item()
                if micro == (0 if case.ill else 1):
                    average_gradients()
            opt.step()
            apart = not everywhere_equal(torch.cat([p.detach().flatten() for p in net.parameters()]))
            case.truth(lambda apart=apart: apart)
            losses.append(total)
    case.proof(lambda: fell(losses, 0.98))
