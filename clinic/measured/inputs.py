"""What is fed: inputs in raw units, data that teach nothing, batches too small for their norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.measured._data import images, marked, pick, raw, standard, table
from clinic.measured._loop import ALL, fit, on_batches
from clinic.measured._models import (
    Recurrent,
    mlp,
)

# ---- raw-input-scale


@faulty(
    "raw-input-scale",
    places=("input", ""),
    kind="MLP",
    source="scikit-learn's wine without StandardScaler: proline of a thousand beside hues of one",
    steps=60,
    data="wine",
    also=("high-initial-loss", "high-learning-rate", "dead-units"),
)
def wine_without_a_scaler(case: Case) -> None:
    x, y = raw("wine")
    x = x if case.ill else standard(x)
    model = mlp(13, 32, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01 if not case.ill else 1e-4)

    fit(case, model, optimizer, on_batches(model, x, y), lambda: x.std(0).max().item() > 100)


@faulty(
    "raw-input-scale",
    places=("input", ""),
    kind="ResNet",
    source="forum: ToTensor left out, pixels of 0 to 255 go into the net",
    steps=60,
    data="digits",
    also=("high-initial-loss",),
)
def bytes_into_the_network(case: Case) -> None:
    x, y = raw("digits")
    x = (x * 255 / 16).view(-1, 1, 8, 8)
    x = x if case.ill else (x - x.mean()) / x.std()
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    fit(case, model, optimizer, on_batches(model, x, y), lambda: x.abs().max().item() > 200)


@faulty(
    "raw-input-scale",
    places=("input", ""),
    kind="GRU",
    source="Kaggle time series: Unix seconds as a feature",
    steps=60,
    also=("saturated-units", "high-initial-loss"),
)
def unix_seconds_as_a_feature(case: Case) -> None:
    x = torch.randn(256, 6, 2)
    y = x[..., 0].mean(1, keepdim=True) * 2
    seconds = 1.7e9 + 3600.0 * torch.arange(6).expand(256, 6)
    x = torch.cat([x, (seconds if case.ill else (seconds - 1.7e9) / 3600 / 6)[..., None]], 2)
    model = Recurrent(nn.GRU(3, 16, batch_first=True), 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    fit(case, model, optimizer, on_batches(model, x, y, F.mse_loss), lambda: x.abs().max().item() > 1e6)


# ---- starved-batch-norm


@faulty(
    "starved-batch-norm",
    places=("1", "4", "*norm*", "", "*"),
    kind="MLP",
    source="PyTorch forum: batch norm with batches of two, training loss jumps, evaluation is useless",
    steps=100,
    data="wine",
)
def batches_of_two(case: Case) -> None:
    x, y = table("wine")
    model = nn.Sequential(nn.Linear(13, 24, bias=False), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    sizes = []

    def loss() -> Tensor:
        rows = pick(len(x), 2 if case.ill else 32)
        sizes.append(len(rows))
        return F.cross_entropy(model(x[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: sizes[-1] <= 2)


@faulty(
    "starved-batch-norm",
    places=("2.1", "2", "bottleneck*", "*"),
    kind="U-Net",
    source="segmentation forum: batch of one large picture, the bottleneck has 2 x 1 places left",
    steps=60,
    data="digits",
)
def bottleneck_of_two_values(case: Case) -> None:
    x, _ = images()
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(4)),
        nn.AvgPool2d((1, 2)),
        nn.Sequential(nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Upsample(size=(8, 8)),
        nn.Conv2d(16, 1, 3, padding=1),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    sizes = []

    def loss() -> Tensor:
        r = pick(400, 1 if case.ill else 16)
        sizes.append(len(r) * 2)
        return F.mse_loss(model(x[r]), x[r])

    fit(case, model, optimizer, loss, lambda: sizes[-1] <= 2, learns=0.98)


# ---- uninformative-data


@faulty(
    "uninformative-data",
    places=ALL,
    kind="CNN",
    source="Karpathy's recipe: divided by 255 twice as integers, every image is zero",
    steps=80,
    data="digits",
    also=("collapsed-output", "missing-bias"),
)
def images_are_all_zero(case: Case) -> None:
    x, y = images()
    x = x * 0 if case.ill else x
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    fit(case, model, optimizer, on_batches(model, x, y), lambda: x.std().item() == 0)


@faulty(
    "uninformative-data",
    places=ALL,
    kind="MLP",
    source="Zhang et al. 2017; and the usual bug: features shuffled, labels not",
    steps=300,
    data="breast_cancer",
)
def labels_of_other_rows(case: Case) -> None:
    x, y = table("breast_cancer")
    if case.ill:
        y = torch.randint(0, 2, (len(y),))
    model = mlp(30, 8, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def truth() -> bool:
        """The best linear fit on half of the rows knows nothing of the other half."""
        a = torch.cat([x, torch.ones(len(x), 1)], 1)
        w = torch.linalg.lstsq(a[::2], y[::2, None] * 2.0 - 1).solution
        return bool((((a[1::2] @ w)[:, 0] > 0) == (y[1::2] > 0)).double().mean() < 0.6)

    fit(case, model, optimizer, on_batches(model, x, y), truth)


@faulty(
    "uninformative-data",
    places=ALL,
    kind="GRU",
    source="forum: the time axis sliced wrongly, every sequence given to the net is the padding",
    steps=120,
)
def only_the_padding_is_left(case: Case) -> None:
    x, y = marked(length=6)
    y = (x[..., 0].sum(1) > 0).long()
    padded = torch.cat([x, torch.zeros(len(x), 6, 3)], 1)
    seen = padded[:, 6:] if case.ill else padded[:, :6]
    model = Recurrent(nn.GRU(3, 16, batch_first=True), 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    def loss() -> Tensor:
        rows = pick(len(x))
        return F.cross_entropy(model(seen[rows]), y[rows])

    fit(case, model, optimizer, loss, lambda: seen.std(0).max().item() == 0)
