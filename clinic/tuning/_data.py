"""Where the tuning programs' data come from: sets that scikit-learn bundles, and small made ones. Seeded by torch."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from sklearn.datasets import load_diabetes, load_digits

Batch = tuple[torch.Tensor, torch.Tensor]


def table(load: Callable[..., Any]) -> Batch:
    """Features and targets of one of scikit-learn's sets, as they are in its file."""
    x, y = load(return_X_y=True)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y)


def standard(x: torch.Tensor, more: float = 0.0) -> torch.Tensor:
    """Columns with mean 0 and variance 1. `more` is added to the deviation, for columns that are constant."""
    return (x - x.mean(0)) / (x.std(0) + more)


def digits(whole: float = 16.0, middle: float = 0.0) -> Batch:
    """Pixels of 0 to 16, as [1797, 64], divided by `whole`, less `middle`."""
    x, y = table(load_digits)
    return x / whole - middle, y


def diabetes() -> Batch:
    """Features and standardised targets [442, 1]."""
    x, y = load_diabetes(return_X_y=True)
    return torch.tensor(x, dtype=torch.float32) * 20, torch.tensor((y - y.mean()) / y.std(), dtype=torch.float32)[:, None]


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


def rows_of(x: torch.Tensor, size: int = 32) -> torch.Tensor:
    """Of one batch, drawn with replacement."""
    return torch.randint(0, len(x), (size,))


def draw(data: Batch, size: int | None = 32) -> Iterator[Batch]:
    """Batches without end; each all data where `size` is None."""
    while size is None:
        yield data
    while True:
        rows = rows_of(data[0], size)
        yield data[0][rows], data[1][rows]
