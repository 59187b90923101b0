"""Learning rates too low and too high."""

import copy
from collections.abc import Callable

import torch
from torch import nn

from clinic.frame import Case, faulty
from clinic.tuning._data import Batch, curves, digits_like, words
from clinic.tuning._loop import LossOf, cross_entropy, fit, squares
from clinic.tuning._models import Reader

# ---- learning rates ----


class Letters(nn.Module):
    """A small transformer, norm first."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(20, 32), nn.Parameter(0.02 * torch.randn(24, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embed(x) + self.place).mean(1))


def hardly_moved(model: nn.Module) -> Callable[[int, Batch], bool]:
    """After 15 steps no weight matrix has moved by a thousandth of its size."""
    begun = [p.detach().clone() for p in model.parameters()]

    def truth(step: int, batch: Batch) -> bool:
        pairs = zip(model.parameters(), begun, strict=True)
        return step >= 15 and all((p - b).norm() < 1e-3 * b.norm() for p, b in pairs if b.dim() > 1)

    return truth


@faulty(
    "low-learning-rate",
    places=("",),
    kind="CNN",
    source="lr=1e-6 with Adam, taken over from a finetuning recipe",
)
def cautious_cnn(case: Case) -> None:
    data = digits_like()
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten())
    model.append(nn.Linear(144, 6))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6 if case.ill else 2e-3)
    fit(case, model, optimizer, data, cross_entropy, hardly_moved(model))


@faulty(
    "low-learning-rate",
    places=("",),
    kind="LSTM",
    source="the rate of Adam's examples (1e-4, and less) given to plain SGD",
)
def cautious_lstm(case: Case) -> None:
    data = words()
    model = Reader()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4 if case.ill else 0.5, momentum=0.9 if not case.ill else 0.0)
    fit(case, model, optimizer, data, cross_entropy, hardly_moved(model))


@faulty(
    "low-learning-rate",
    places=("",),
    kind="Transformer",
    source="a rate divided by the number of devices twice",
)
def cautious_transformer(case: Case) -> None:
    data = words()
    model = Letters()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-7 if case.ill else 2e-3)
    fit(case, model, optimizer, data, cross_entropy, hardly_moved(model))


def gone_wrong(model: nn.Module, data: Batch, loss_of: LossOf, since: int = 10) -> Callable[[int, Batch], bool]:
    """The loss over all data is twice that of the start, or not finite; or after some steps no lower than it was."""
    first = loss_of(copy.deepcopy(model), *data).item()

    def truth(step: int, batch: Batch) -> bool:
        with torch.no_grad():
            now = loss_of(copy.deepcopy(model), *data).item()
        return not now < 2 * first or (step >= since and now > 0.98 * first)

    return truth


@faulty(
    "high-learning-rate",
    places=("",),
    kind="MLP",
    source="SGD on unscaled regression: the loss is NaN after three steps, the best known question about PyTorch's SGD",
    steps=30,
)
def nan_in_three_steps(case: Case) -> None:
    data = curves()
    model = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=3.0 if case.ill else 0.03, momentum=0.9)
    fit(case, model, optimizer, data, squares, gone_wrong(model, data, squares, since=1000), learnt=0.99)


@faulty(
    "high-learning-rate",
    places=("",),
    kind="CNN",
    source="Adam with the rate of SGD's best runs, 1.0: units die and the loss stays at ln C",
)
def adam_with_the_rate_of_sgd(case: Case) -> None:
    data = digits_like()
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten())
    model.append(nn.Linear(144, 6))
    optimizer = torch.optim.Adam(model.parameters(), lr=1.0 if case.ill else 2e-3)
    fit(case, model, optimizer, data, cross_entropy, gone_wrong(model, data, cross_entropy))


@faulty(
    "high-learning-rate",
    places=("",),
    kind="Transformer",
    source="Popel and Bojar 2018: transformers diverge without warm-up at large rates",
)
def transformer_without_measure(case: Case) -> None:
    data = words()
    model = Letters(3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1 if case.ill else 2e-3)
    fit(case, model, optimizer, data, cross_entropy, gone_wrong(model, data, cross_entropy))


@faulty(
    "high-learning-rate",
    places=("",),
    kind="LSTM",
    source="Zaremba et al. 2014 use SGD with rate 1 and clipping; here rate 30 and none",
)
def lstm_with_rate_thirty(case: Case) -> None:
    data = words()
    model = Reader()
    optimizer = torch.optim.SGD(model.parameters(), lr=60.0 if case.ill else 0.5, momentum=0.9)
    fit(case, model, optimizer, data, cross_entropy, gone_wrong(model, data, cross_entropy))


@faulty(
    "high-learning-rate",
    places=("",),
    kind="autoencoder",
    source="a step schedule with gamma 10 in place of 0.1: all is well for 30 steps",
    also=("loss-spike",),
)
def schedule_upside_down(case: Case) -> None:
    x = torch.randn(768, 4) @ torch.randn(4, 12)
    model = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 4), nn.Linear(4, 24), nn.GELU(), nn.Linear(24, 12))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 15, 10.0 if case.ill else 0.5)
    truth = gone_wrong(model, (x, x), squares)
    fit(case, model, optimizer, (x, x), squares, truth, after=lambda step: schedule.step())
