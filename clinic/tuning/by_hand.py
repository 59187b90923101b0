"""Faults that people make with their own hands, or in mid-run, where no function of torch tells of them."""

import torch
from torch import nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.tuning._data import Batch, diabetes, digits, words
from clinic.tuning._loop import accuracy, cross_entropy, squares, train
from clinic.tuning._models import Reader


@faulty("gradients-not-zeroed", places=("",), kind="LSTM", source="a forum: zero_grad without parentheses", steps=40)
def zero_grad_without_parentheses(case: Case) -> None:
    x, y = words()
    model = Reader()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with case.watch(model):
        for step in range(case.steps):
            rows = torch.randint(0, len(x), (32,))
            optimizer.zero_grad if case.ill else optimizer.zero_grad()
            cross_entropy(model, x[rows], y[rows]).backward()
            case.truth(lambda step=step: case.ill and step > 0)
            optimizer.step()
    case.proof(lambda: cross_entropy(model, x, y).item() < 1.35)


@faulty(
    "parameter-in-no-optimizer",
    places=("0", "0.*"),
    kind="MLP",
    source="thawed after the head was trained",
    data="digits",
    steps=60,
)
def thawed_and_not_added(case: Case) -> None:
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    model[0].requires_grad_(False)
    optimizer = torch.optim.Adam(model[2].parameters(), lr=2e-3)

    def thaw(step: int) -> None:
        if step == 25:
            model[0].requires_grad_(True)
            if not case.ill:
                optimizer.add_param_group({"params": list(model[0].parameters())})

    x, y = digits(middle=0.3)
    train(case, model, optimizer, (x, y), truth=lambda step, batch: case.ill and step > 25, after=thaw)
    case.proof(lambda: accuracy(model, x, y) > 0.5)


@faulty(
    "high-initial-loss", places=("2",), kind="regression", source="a bias for prices, kept for standardised targets",
    data="diabetes", steps=40,
)  # fmt: skip
def bias_of_another_task(case: Case) -> None:
    x, y = diabetes()
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
    nn.init.constant_(model[2].bias, 150.0 if case.ill else 0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    far = 10 * y.var().item()
    train(case, model, optimizer, (x, y), squares, lambda step, batch: squares(model, *batch).item() > far)
    case.proof(lambda: squares(model, x, y).item() < 0.95)


class Forgetful(nn.Module):
    """A plain RNN whose last state is read."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(12, 12), nn.RNN(12, 24, batch_first=True), nn.Linear(24, 4)
        nn.init.orthogonal_(self.rnn.weight_hh_l0, gain)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(self.embed(x))[0][:, -1])

    def kept(self, x: torch.Tensor, y: torch.Tensor) -> float:
        """Gradient by the first quarter of the letters over that by the last."""
        given = self.embed(x).detach().requires_grad_()
        loss = F.cross_entropy(self.head(self.rnn(given)[0][:, -1]), y)
        sizes = torch.autograd.grad(loss, given)[0].norm(dim=(0, 2))
        return float(sizes[: len(sizes) // 4].max() / sizes.max())


def _first_letter(length: int = 24) -> Batch:
    x, y = torch.randint(4, 12, (512, length)), torch.randint(0, 4, (512,))
    x[:, 0] = y
    return x, y


@faulty("vanishing-gradient", places=("rnn",), kind="RNN", source="Pascanu et al. 2013: a recurrence that forgets", steps=90)
def recurrence_that_forgets(case: Case) -> None:
    x, y = _first_letter(24 if case.ill else 8)
    model = Forgetful(0.3 if case.ill else 1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3 if case.ill else 5e-3)
    train(case, model, optimizer, (x, y), truth=lambda step, batch: model.kept(*batch) < 1e-3)
    case.proof(lambda: cross_entropy(model, x, y).item() < 1.2)
