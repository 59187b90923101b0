"""Gradients that vanish or explode on their way back."""

import copy
import itertools
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.tuning._data import Batch, curves, digits_like, words
from clinic.tuning._loop import cross_entropy, fit, he, squares


def slopes(model: nn.Sequential, batch: Batch, loss: Callable[..., torch.Tensor]) -> list[float]:
    """Norms of the loss's gradient by what each linear or convolutional layer gives, measured by hand."""
    hidden, kept = batch[0], []
    for module in copy.deepcopy(model):
        hidden = module(hidden)
        if isinstance(module, nn.Linear | nn.Conv2d):
            kept.append(hidden)
    return [g.norm().item() for g in torch.autograd.grad(loss(hidden, batch[1]), kept)]


# ---- vanishing-gradient ----


@faulty(
    "vanishing-gradient",
    places=("", "0", "0.*", "1", "2", "2.*"),
    kind="MLP",
    source="Glorot and Bengio 2010: deep sigmoid networks do not learn from their usual initialisation",
)
def seven_sigmoid_layers(case: Case) -> None:
    data = curves()
    modules: list[nn.Module] = []
    for inputs in [12, *[24] * 6]:
        modules += [nn.Linear(inputs, 24), nn.Sigmoid() if case.ill else nn.ReLU()]
    model = nn.Sequential(*modules, nn.Linear(24, 1))
    if not case.ill:
        model.apply(he)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def truth(step: int, batch: Batch) -> bool:
        found = slopes(model, batch, F.mse_loss)
        return found[0] < 1e-4 * found[-1]

    fit(case, model, optimizer, data, squares, truth)


@faulty(
    "vanishing-gradient",
    places=("", "0", "0.*", "1", "2", "2.*"),
    kind="CNN",
    source="He et al. 2015, figure 3: a plain 30-layer network from Xavier's initialisation does not start",
)
def plain_deep_convolutions(case: Case) -> None:
    data = digits_like()
    modules: list[nn.Module] = []
    for inputs in [1, *[8] * 13]:
        modules += [nn.Conv2d(inputs, 8, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*modules, nn.Flatten(), nn.Linear(8 * 144, 6))
    if not case.ill:
        model.apply(he)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def truth(step: int, batch: Batch) -> bool:
        found = slopes(model, batch, F.cross_entropy)
        return found[0] < 1e-4 * max(found[-3:])

    fit(case, model, optimizer, data, cross_entropy, truth)


class Squashed(nn.Module):
    """An encoder and a decoder, activations by function calls."""

    def __init__(self, squash: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        widths = [12, 20, 16, 12, 8, 8, 12, 16, 20, 12]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in itertools.pairwise(widths))
        self.squash = squash

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:-1]:
            x = self.squash(layer(x))
        return self.layers[-1](x)


@faulty(
    "vanishing-gradient",
    places=("", "layers.0", "layers.0.*", "layers.1", "layers.1.*"),
    kind="autoencoder",
    source="Hinton and Salakhutdinov 2006: deep autoencoders of sigmoid units need pretraining",
)
def sigmoid_autoencoder(case: Case) -> None:
    x = torch.randn(768, 4) @ torch.randn(4, 12)
    model = Squashed(torch.sigmoid if case.ill else torch.tanh)
    if not case.ill:
        for layer in model.layers:
            nn.init.xavier_normal_(layer.weight, gain=1.2)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

    def truth(step: int, batch: Batch) -> bool:
        copied = copy.deepcopy(model)
        F.mse_loss(copied(batch[0]), batch[0]).backward()
        norms = [layer.bias.grad.norm().item() for layer in copied.layers]
        return norms[0] < 1e-4 * norms[-1]

    fit(case, model, optimizer, (x, x), squares, truth)


# ---- exploding-gradient ----


class Cells(nn.Module):
    """A recurrent cell in a loop of one's own."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.cell, self.head = nn.RNNCell(4, 24, nonlinearity="relu"), nn.Linear(24, 4)
        nn.init.orthogonal_(self.cell.weight_hh, gain)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = x.new_zeros(len(x), 24)
        for part in x.unbind(1):
            hidden = self.cell(part, hidden)
        return self.head(hidden)


def _by_time(model: Cells, batch: Batch) -> float:
    """The loss's gradient by the first state over that by the last."""
    hidden, kept = batch[0].new_zeros(len(batch[0]), 24), []
    for part in batch[0].unbind(1):
        hidden = model.cell(part, hidden)
        kept.append(hidden)
    found = torch.autograd.grad(F.cross_entropy(model.head(hidden), batch[1]), [kept[0], kept[-1]])
    return (found[0].norm() / found[1].norm()).item()


@faulty(
    "exploding-gradient",
    places=("", "cell", "cell.*"),
    kind="RNN",
    source="Pascanu, Mikolov and Bengio 2013: recurrent weights with a radius above 1",
    steps=40,
)
def relu_cell_with_large_radius(case: Case) -> None:
    x, y = words()
    data = F.one_hot(x % 4, 4).float() - 0.25, y
    model = Cells(3.0 if case.ill else 1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    fit(case, model, optimizer, data, cross_entropy, lambda step, batch: not _by_time(model, batch) < 100)


@faulty(
    "exploding-gradient",
    places=("", "0", "0.*", "1", "2", "2.*"),
    kind="MLP",
    source="Schoenholz et al. 2017, Deep information propagation: tanh networks in the chaotic phase",
)
def chaotic_tanh(case: Case) -> None:
    data = curves()
    modules: list[nn.Module] = []
    for inputs in [12, *[64] * 15]:
        layer = nn.Linear(inputs, 64)
        nn.init.orthogonal_(layer.weight, 4.0 if case.ill else 1.1)
        modules += [layer, nn.Tanh()]
    model = nn.Sequential(*modules, nn.Linear(64, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4 if case.ill else 1e-2)

    def truth(step: int, batch: Batch) -> bool:
        found = slopes(model, batch, F.mse_loss)
        return found[0] > 30 * found[-2]

    fit(case, model, optimizer, data, squares, truth, learnt=0.97)
