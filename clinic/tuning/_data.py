"""Where the tuning programs' data come from: sets that scikit-learn bundles, and small made ones."""

from collections.abc import Iterator

import torch
from sklearn.datasets import load_digits


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)


def rows_of(x: torch.Tensor, size: int = 32) -> torch.Tensor:
    return torch.randint(0, len(x), (size,))


Batch = tuple[torch.Tensor, torch.Tensor]


def digits_like(classes: int = 6) -> Batch:
    """Pictures 1 x 12 x 12 with a bright stripe, whose direction and place tell the class."""
    y = torch.randint(0, classes, (768,))
    x = 0.4 * torch.randn(768, 1, 12, 12)
    for k in range(classes):
        line = x[y == k]
        line[:, :, :, 2 * k] += 1.0
        x[y == k] = line
    return x, y


def curves() -> Batch:
    x = torch.randn(768, 12)
    return x, torch.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:3]


def words(length: int = 24, size: int = 20) -> Batch:
    """Sequences of letters; the class is the letter that comes most often in the second half."""
    x = torch.randint(0, size, (768, length))
    y = torch.randint(0, 4, (768,))
    x[:, length // 2 :: 2] = y[:, None]
    return x, y


def draw(data: Batch, size: int = 32) -> Iterator[Batch]:
    while True:
        rows = torch.randint(0, len(data[0]), (size,))
        yield data[0][rows], data[1][rows]
