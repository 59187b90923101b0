"""Activations and weights that grow without a bound."""

import torch
from torch import nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.tuning._data import Batch, curves, digits_like
from clinic.tuning._loop import cross_entropy, fit

# ---- exploding-activation ----


class Unscaled(nn.Module):
    """Residual blocks without any norm."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 6)
        self.blocks = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(16))
        for block in self.blocks:
            nn.init.kaiming_normal_(block.weight, nonlinearity="relu")
            block.weight.data.mul_(gain)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(F.relu(x))
        return self.head(x.mean((2, 3)))


@faulty(
    "exploding-activation",
    places=("", "stem", "blocks*"),
    kind="CNN",
    source="Zhang, Dauphin and Ma 2019, Fixup: residual branches add up where nothing scales them",
    also=("raw-input-scale",),
)
def residual_without_norm(case: Case) -> None:
    data = digits_like()
    model = Unscaled(2.5 if case.ill else 0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def truth(step: int, batch: Batch) -> bool:
        with torch.no_grad():
            x = model.stem(batch[0])
            first = x.std()
            for block in model.blocks:
                x = x + block(F.relu(x))
        return bool(x.std() > 500 * first)

    fit(case, model, optimizer, data, cross_entropy, truth)


# ---- exploding-weights ----


@faulty(
    "exploding-weights",
    places=("", "0*", "2*", "4*"),
    kind="MLP",
    source="a penalty on the size of the weights with its sign turned round",
    steps=80,
)
def rewarded_size(case: Case) -> None:
    data = curves()
    model = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    begun = [p.norm().item() for p in model.parameters()]
    sign = -1.0 if case.ill else 0.001

    def loss_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(model(x), y) + sign * sum(p.square().sum() for p in model.parameters())

    def truth(step: int, batch: Batch) -> bool:
        return any(p.norm() > 10 * b for p, b in zip(model.parameters(), begun, strict=True))

    fit(case, model, optimizer, data, loss_of, truth, learnt=0.97)


@faulty(
    "exploding-weights",
    places=("3*",),
    kind="CNN",
    source="weight decay written by hand, p.add_(p, alpha=lr * decay) in place of alpha=-lr * decay, for one layer",
    steps=80,
)
def decay_with_the_wrong_sign(case: Case) -> None:
    data = digits_like()
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8)),
        *(nn.ReLU(), nn.Flatten(), nn.Linear(288, 6)),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    begun = model[3].weight.norm().item()

    def after(step: int) -> None:
        with torch.no_grad():
            model[3].weight.add_(model[3].weight, alpha=0.08 if case.ill else -1e-3)

    fit(case, model, optimizer, data, cross_entropy, lambda *_: model[3].weight.norm().item() > 10 * begun, after)
