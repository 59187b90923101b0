"""Inputs in raw units, batches too small for their norm."""

import torch
from sklearn.datasets import load_wine
from torch import nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.tuning._data import digits, rows_of, standard, table
from clinic.tuning._loop import cross_entropy, train


@faulty(
    "raw-input-scale",
    places=("input",),
    kind="MLP",
    source="images as bytes: no ToTensor, no division by 255",
    data="digits",
)
def images_as_bytes(case: Case) -> None:
    x, y = digits()
    x = x * 255 if case.ill else (x - x.mean()) / x.std()
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    train(case, model, optimizer, (x, y), cross_entropy, lambda _, batch: batch[0].square().mean().sqrt().item() > 20)
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 1.5)


@faulty(
    "raw-input-scale",
    places=("input",),
    kind="MLP",
    source="a table whose columns have units of their own (scikit-learn's wine: proline in the hundreds)",
    data="wine",
)
def table_of_raw_columns(case: Case) -> None:
    x, y = table(load_wine)
    if not case.ill:
        x = standard(x)
    model = nn.Sequential(nn.Linear(13, 24), nn.SiLU(), nn.Linear(24, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    train(case, model, optimizer, (x, y), cross_entropy, lambda _, batch: batch[0].square().mean(0).sqrt().max().item() > 100)
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 0.5)


@faulty(
    "starved-batch-norm",
    places=("*", ""),
    kind="MLP",
    source="two samples a batch for want of memory, with BatchNorm1d",
    data="wine",
)
def batch_norm_of_two(case: Case) -> None:
    x, y = table(load_wine)
    x = standard(x)
    size = 2 if case.ill else 32
    model = nn.Sequential(nn.Linear(13, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with case.watch(model):
        for _ in range(case.steps):
            rows = torch.randperm(len(x))[:size]
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            case.truth(lambda rows=rows: len(rows) <= 2)
            optimizer.step()
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 0.6)


@faulty(
    "starved-batch-norm",
    places=("*", ""),
    kind="CNN",
    source="segmentation with one image at a time",
    data="digits",
)
def one_image_at_a_time(case: Case) -> None:
    x, _ = digits()
    x = x.view(-1, 1, 8, 8)
    y = (x > 0.5).long()[:, 0]
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 2, 1),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    with case.watch(model):
        for _ in range(case.steps):
            rows = rows_of(x, 1 if case.ill else 8)
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            case.truth(lambda rows=rows: len(rows) == 1)
            optimizer.step()
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 0.5)
