"""How training begins: scale of the weights, first loss."""

import copy
import math

import torch
from torch import nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.tuning._data import Batch, curves, digits, digits_like, words
from clinic.tuning._loop import cross_entropy, fit, he, squares, train
from clinic.tuning._models import Reader


@faulty(
    "high-initial-loss",
    places=("4", ""),
    kind="MLP",
    source="Karpathy's makemore lectures: a last layer drawn from N(0, 1), and the hockey stick",
    data="digits",
    steps=40,
)
def last_layer_from_a_unit_normal(case: Case) -> None:
    x, y = digits()
    x = (x - x.mean()) / x.std()
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    if case.ill:
        nn.init.normal_(model[4].weight, std=2.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def truth(step: int, batch: Batch) -> bool:
        return step == 0 and cross_entropy(model, *batch).item() > 2 * 2.303

    train(case, model, optimizer, (x, y), cross_entropy, truth)
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 1.5)


@faulty(
    "high-initial-loss",
    places=("*", ""),
    kind="CNN",
    source="logits divided by a temperature of 0.02 from the start",
    data="digits",
    steps=40,
)
def cold_temperature(case: Case) -> None:
    x, y = digits()
    x = (x.view(-1, 1, 8, 8) - x.mean()) / x.std()
    model = nn.Sequential(nn.Conv2d(1, 16, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(144, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def loss_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(x) / (0.01 if case.ill else 1.0), y)

    def truth(step: int, batch: Batch) -> bool:
        return step == 0 and loss_of(model, *batch).item() > 2 * 2.303

    train(case, model, optimizer, (x, y), loss_of, truth)
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 2.0)


def sizes(model: nn.Sequential, batch: Batch) -> list[float]:
    """Root mean square of what each layer gives."""
    hidden, kept = batch[0], []
    with torch.no_grad():
        for module in copy.deepcopy(model):
            hidden = module(hidden)
            if isinstance(module, nn.Linear | nn.Conv2d):
                kept.append(hidden.square().mean().sqrt().item())
    return kept


# ---- wrong-initial-scale ----


@faulty(
    "wrong-initial-scale",
    places=("", "0*", "2*", "5*"),
    kind="CNN",
    source="torch.randn for the weights of a convolution, a beginner's usual choice on forums",
)
def convolutions_of_std_one(case: Case) -> None:
    data = digits_like()
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(512, 6))
    if case.ill:
        for layer in (model[2], model[5]):
            nn.init.normal_(layer.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3 if case.ill else 0.03)
    fit(case, model, optimizer, data, cross_entropy, lambda step, batch: model[2].weight.std().item() > 0.5)


@faulty(
    "wrong-initial-scale",
    places=("", "0", "0.*", "2", "2.*", "4", "4.*"),
    kind="MLP",
    source="nn.init.normal_(w, std=1e-3) on a deep network: outputs do not depend on the input",
)
def all_but_zero(case: Case) -> None:
    data = curves()
    model = nn.Sequential(
        *(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 1)),
    )
    model.apply(he)
    if case.ill:
        for layer in (model[0], model[2], model[4]):
            nn.init.normal_(layer.weight, std=1e-3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)

    def truth(step: int, batch: Batch) -> bool:
        return bool(sizes(model, batch)[2] < 1e-3)

    fit(case, model, optimizer, data, squares, truth)


@faulty(
    "wrong-initial-scale",
    places=("", "lstm", "lstm.*"),
    kind="LSTM",
    source="a loop that sets every parameter with nn.init.normal_ (a thread about an LSTM whose gates are all shut)",
)
def lstm_of_large_weights(case: Case) -> None:
    data = words()
    model = Reader()
    if case.ill:
        for name, parameter in model.lstm.named_parameters():
            if "weight" in name:
                nn.init.normal_(parameter, std=2.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    fit(case, model, optimizer, data, cross_entropy, lambda *_: model.lstm.weight_hh_l0.std().item() > 1.0)


@faulty(
    "wrong-initial-scale",
    places=("", "4", "4.*"),
    kind="MLP",
    source="Karpathy, makemore part 3: the last layer's weights make a confidently wrong start",
    also=("high-initial-loss",),
)
def confident_head(case: Case) -> None:
    x, y = digits_like()
    data = x.flatten(1), y
    model = nn.Sequential(nn.Linear(144, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 6))
    if case.ill:
        nn.init.normal_(model[4].weight, std=3.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def truth(step: int, batch: Batch) -> bool:
        return F.cross_entropy(model(batch[0]), batch[1]).item() > 3 * math.log(6)

    fit(case, model, optimizer, data, cross_entropy, truth)
