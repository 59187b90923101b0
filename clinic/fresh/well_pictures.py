"""Healthy: pictures of digits, networks that look strange from outside."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, healthy
from clinic.fresh._plain import descend, fell, pictures


@healthy(kind="AlexNet", source="torchvision's AlexNet in small: dropout before both linear layers, StepLR", data="digits")
def alexnet_in_small(case: Case) -> None:
    x, y = pictures()
    net = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(),
        nn.Dropout(), nn.Linear(96, 64), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(64, 10),
    )  # fmt: skip
    opt = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.StepLR(opt, 150, 0.1)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 1797, (32,))
            loss = F.cross_entropy(net(x[rows]), y[rows])
            losses.append(descend(opt, loss))
            schedule.step()
    case.proof(lambda: fell(losses, 0.5))


class DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.bn(x)))], 1)


@healthy(kind="DenseNet", source="Huang et al. 2017, DenseNet: concatenation, Nesterov momentum", data="digits")
def dense_connections(case: Case) -> None:
    x, y = pictures()
    layers = [nn.Conv2d(1, 8, 3, padding=1, bias=False), *[DenseLayer(8 + 4 * i, 4) for i in range(4)]]
    net = nn.Sequential(*layers, nn.BatchNorm2d(24), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 10))
    opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 1797, (24,))
            opt.zero_grad()
            loss = F.cross_entropy(net(x[rows]), y[rows])
            loss.backward()
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses, 0.3))


class Excited(nn.Module):
    """A block of SE-Net: sigmoid gates in the middle of the network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.squeeze, self.excite = nn.Linear(width, width // 4), nn.Linear(width // 4, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.conv(x))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(h.mean((2, 3))))))
        return F.relu(x + h * gate[:, :, None, None])


@healthy(kind="SE-Net", source="Hu et al. 2018, squeeze and excitation; AdamW with cosine annealing to zero", data="digits")
def squeeze_and_excite(case: Case) -> None:
    x, y = pictures()
    net = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), Excited(12), Excited(12), nn.Flatten(), nn.Linear(768, 10))
    opt = torch.optim.AdamW(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, case.steps)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 1797, (24,))
            loss = F.cross_entropy(net(x[rows]), y[rows])
            losses.append(descend(opt, loss))
            schedule.step()
    case.proof(lambda: fell(losses, 0.3))


class NextBlock(nn.Module):
    """ConvNeXt: the branch begins a million times smaller than the stream."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(1e-6 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        h = self.depthwise(x).permute(0, 2, 3, 1)
        h = self.gamma * self.down(F.gelu(self.up(self.norm(h))))
        return x + h.permute(0, 3, 1, 2)


@healthy(kind="ConvNeXt", source="Liu et al. 2022, ConvNeXt: layer scale begun at 1e-6, warm-up", data="digits")
def layer_scale_of_a_millionth(case: Case) -> None:
    x, y = pictures()
    stem = nn.Sequential(nn.Conv2d(1, 16, 2, 2), nn.GroupNorm(1, 16))
    net = nn.Sequential(stem, NextBlock(16), NextBlock(16), nn.Flatten(), nn.LayerNorm(256), nn.Linear(256, 10))
    opt = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=0.05)
    warm = torch.optim.lr_scheduler.LinearLR(opt, 0.001, total_iters=30)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 1797, (32,))
            loss = F.cross_entropy(net(x[rows]), y[rows], label_smoothing=0.1)
            losses.append(descend(opt, loss))
            warm.step()
    case.proof(lambda: fell(losses, 0.6))
