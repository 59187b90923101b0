"""Where the measured programs' data come from: sets that scikit-learn bundles, and small made ones. Seeded by torch."""

from __future__ import annotations

import torch
from sklearn import datasets
from torch import Tensor


def standard(x: Tensor) -> Tensor:
    """Columns with mean 0 and variance 1; columns that are constant become 0."""
    return (x - x.mean(0)) / x.std(0).clamp(min=1e-3)


def raw(name: str) -> tuple[Tensor, Tensor]:
    """Features as they are in the file, and labels (int64) or targets (float32, [n, 1])."""
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True, **({"scaled": False} if name == "diabetes" else {}))
    target = torch.tensor(y)
    return torch.tensor(x, dtype=torch.float32), target.float()[:, None] if name == "diabetes" else target.long()


def table(name: str) -> tuple[Tensor, Tensor]:
    """Standardised features; labels as they are, targets standardised."""
    x, y = raw(name)
    return standard(x), standard(y) if y.is_floating_point() else y


def images() -> tuple[Tensor, Tensor]:
    """Digits as [1797, 1, 8, 8], one mean and deviation for all pixels."""
    x, y = raw("digits")
    return ((x - x.mean()) / x.std()).view(-1, 1, 8, 8), y


def pick(n: int, size: int = 32) -> Tensor:
    """Rows of one batch, drawn with replacement."""
    return torch.randint(0, n, (size,))


def sentences(n: int = 256, length: int = 16, vocabulary: int = 24) -> Tensor:
    """Tokens of a language in which each follows from the one before it, mostly: [n, length]."""
    follows = torch.randperm(vocabulary)
    out = torch.randint(0, vocabulary, (n, length))
    for t in range(1, length):
        usual = follows[out[:, t - 1]]
        out[:, t] = torch.where(torch.rand(n) < 0.9, usual, out[:, t])
    return out


def waves(n: int = 256, length: int = 24) -> Tensor:
    """Sines of different speed and phase with noise: [n, length, 1]."""
    speed, phase = torch.rand(n, 1) * 0.5 + 0.2, torch.rand(n, 1) * 6.28
    return (torch.sin(speed * torch.arange(length) + phase) + 0.05 * torch.randn(n, length))[..., None]


def marked(n: int = 256, length: int = 30, width: int = 3) -> tuple[Tensor, Tensor]:
    """Noise of which the first step's sign is the label: memory is needed. [n, length, width], [n]."""
    x = torch.randn(n, length, width)
    return x, (x[:, 0, 0] > 0).long()


def blobs(n: int = 256, width: int = 12, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Clouds of points around centres, standardised."""
    y = torch.randint(0, classes, (n,))
    return standard(torch.randn(classes, width)[y] * 1.5 + torch.randn(n, width)), y


def graph(n: int = 60, classes: int = 3, width: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes of which those of one class know each other: features [n, width], labels, adjacency [n, n] with loops."""
    y = torch.arange(n) % classes
    same = y[:, None] == y[None, :]
    edges = (torch.rand(n, n) < torch.where(same, 0.25, 0.02)).triu(1)
    x = standard(torch.randn(classes, width)[y] + 1.5 * torch.randn(n, width))
    return x, y, (edges | edges.T).float() + torch.eye(n)


def friedman(n: int = 256, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    """Friedman's first regression problem: 10 features, standardised target [n, 1]."""
    x = torch.rand(n, 10)
    y = 10 * torch.sin(torch.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    return standard(x), standard((y + noise * torch.randn(n))[:, None])
