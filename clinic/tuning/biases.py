"""Biases that do nothing, and ones that are missing."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.tuning._data import digits
from clinic.tuning._loop import cross_entropy, squares, train


@faulty(
    "missing-bias",
    places=("0", "", "weight"),
    kind="linear",
    source="a line that does not go through the origin, fitted with bias=False (first exercise of many courses)",
)
def line_through_the_origin(case: Case) -> None:
    x = torch.randn(512, 4)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5], [0.0]]) + 3.0 + 0.1 * torch.randn(512, 1)
    model = nn.Sequential(nn.Linear(4, 1, bias=not case.ill))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def truth(*_: object) -> bool:  # the best that can be had with and without a constant, in float64
        return _rest(x, y, model) > 2 * _rest(torch.cat([x, torch.ones(512, 1)], 1), y, None)

    train(case, model, optimizer, (x, y), squares, truth, size=64)
    case.proof(lambda: F.mse_loss(model(x), y).item() < 0.2 * y.var().item())


def _rest(x: torch.Tensor, y: torch.Tensor, model: nn.Module | None) -> float:
    """Least mean squared error of a linear function of x, and of a constant where the model has one."""
    if model is not None and model[0].bias is not None:
        x = torch.cat([x, torch.ones(len(x), 1)], 1)
    x, y = x.double(), y.double()
    return (y - x @ torch.linalg.lstsq(x, y).solution).square().mean().item()


@faulty(
    "missing-bias",
    places=("0", "layers.0", ""),
    kind="MLP",
    source="temperatures in kelvin, and a network without biases",
    also=("dead-units",),  # units that see only one side of 0 are dead from the start, in the twin too
)
def inputs_far_from_zero(case: Case) -> None:
    x = 8 + torch.randn(512, 6)
    y = torch.tanh(x[:, :1] - 8) + 0.5 * (x[:, 1:2] - 8)
    model = nn.Sequential(nn.Linear(6, 48, bias=not case.ill), nn.ReLU(), nn.Linear(48, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    # no unit of the first layer changes its sign within the data's bulk, and none can be moved there
    train(case, model, optimizer, (x, y), squares, lambda *_: model[0].bias is None and (x.mean(0).abs() > 5 * x.std(0)).all())
    case.proof(lambda: F.mse_loss(model(x), y).item() < 0.6 * y.var().item())


@faulty(
    "redundant-bias",
    places=("0", "0.bias"),
    kind="CNN",
    source="Conv2d before BatchNorm2d with its default bias (torchvision's style guide: bias=False)",
    data="digits",
)
def bias_before_batch_norm(case: Case) -> None:
    x, y = digits()
    x = x.view(-1, 1, 8, 8)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, bias=case.ill),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    train(case, model, optimizer, (x, y), cross_entropy, lambda _, batch: _without_effect(model, "0.bias", *batch))
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 1.5)


def _without_effect(model: nn.Module, name: str, x: torch.Tensor, y: torch.Tensor) -> bool:
    """The truth, measured: the loss in training mode is the same whatever the bias is."""

    twin = copy.deepcopy(model).double()
    if name not in dict(twin.named_parameters()):
        return False
    with torch.no_grad():
        before = F.cross_entropy(twin(x.double()), y)
        twin.get_parameter(name).add_(torch.randn_like(twin.get_parameter(name)))
        return bool((F.cross_entropy(twin(x.double()), y) - before).abs() < 1e-9)


class Normed(nn.Module):
    def __init__(self, ill: bool) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(1, 16, 5, bias=ill), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(F.instance_norm(self.conv(x.view(-1, 1, 64))))
        return self.head(h.amax(-1))


@faulty(
    "redundant-bias",
    places=("conv", "conv.bias"),
    kind="CNN",
    source="style transfer networks: a bias before an instance norm, called as a function",
    data="digits",
)
def bias_before_instance_norm(case: Case) -> None:
    x, y = digits()
    model = Normed(case.ill)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    train(case, model, optimizer, (x, y), cross_entropy, lambda _, batch: _without_effect(model, "conv.bias", *batch))
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 2.25)
