"""Two examples: a fault with its repaired twin, and a healthy training that tempts."""

import torch
from torch import nn
from torch.nn import functional as F

from clinic.frame import Case, faulty, healthy


@faulty(
    "gradients-not-zeroed",
    places=("",),
    kind="MLP",
    source="the PyTorch forum's most asked question: why do we need optimizer.zero_grad()",
    steps=30,
)
def forgotten_zero_grad(case: Case) -> None:
    x = torch.randn(256, 8)
    y = x[:, :1] * x[:, 1:2] + x[:, 2:3]
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
    with case.watch(model):
        for _ in range(case.steps):
            rows = torch.randint(0, 256, (32,))
            loss = F.mse_loss(model(x[rows]), y[rows])
            loss.backward()
            case.truth(lambda batch=(x[rows], y[rows]): not _is_of_this_batch(model, *batch))
            optimizer.step()
            if not case.ill:
                optimizer.zero_grad()
    case.proof(lambda: F.mse_loss(model(x), y).item() < 0.9 * y.var().item())


def _is_of_this_batch(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> bool:
    """The truth, measured: a gradient made afresh from this batch is not the one that the optimizer is about to use."""
    fresh = torch.autograd.grad(F.mse_loss(model(x), y), list(model.parameters()))
    return all(torch.allclose(p.grad, g, rtol=1e-3, atol=1e-6) for p, g in zip(model.parameters(), fresh, strict=True))


@healthy(kind="MLP", source="zero-initialised last layer, as in Fixup and ReZero (Zhang et al. 2019, Bachlechner et al. 2020)")
def zero_initialised_head(case: Case) -> None:
    x = torch.randn(512, 16)
    y = torch.tanh(x[:, :1]) + 0.5 * x[:, 1:2]
    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 1))
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with case.watch(model):
        for _ in range(case.steps):
            rows = torch.randint(0, 512, (32,))
            optimizer.zero_grad()
            F.mse_loss(model(x[rows]), y[rows]).backward()
            optimizer.step()
    case.proof(lambda: F.mse_loss(model(x), y).item() < 0.2 * y.var().item())
