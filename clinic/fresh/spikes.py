"""One batch among many."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.fresh._plain import EVERYWHERE, fell, root

# ---- loss-spike, gradient-spike


@faulty(
    "loss-spike",
    places=EVERYWHERE,
    kind="GRU",
    source="NOAA weather tables in Kaggle notebooks: missing temperatures are coded as -9999 and one day of them is left in",
    steps=100,
    also=("gradient-spike", "stale-second-moment"),
)
def missing_code_among_the_targets(case: Case) -> None:
    days = torch.arange(700)
    temperature = torch.sin(days / 20) + 0.2 * torch.randn(700)
    windows = temperature.unfold(0, 15, 1).clone()[..., None]
    gru, head = nn.GRU(1, 16, batch_first=True), nn.Linear(16, 1)
    model = nn.Sequential(gru, head)
    opt = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses: list[float] = []
    with case.watch(model):
        for step in range(case.steps):
            w = windows[torch.randint(0, len(windows), (32,))]
            goal = w[:, -1].clone()
            if case.ill and step == 62:
                goal[3] = -9999.0 / 10
            loss = F.mse_loss(head(gru(w[:, :-1])[0][:, -1]), goal)
            opt.zero_grad()
            loss.backward()
            losses.append(loss.item())
            case.truth(lambda: len(losses) > 20 and losses[-1] > 20 * max(losses[-20:-1]))
            opt.step()
    case.proof(lambda: sorted(losses)[30] < 0.5 * losses[0] and not math.isnan(losses[-1]))


class WideAndDeep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(8, 1)
        self.tables = nn.ModuleList([nn.Embedding(20, 6) for _ in range(2)])
        self.deep = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, numbers: Tensor, kinds: Tensor) -> Tensor:
        e = torch.cat([t(kinds[:, i]) for i, t in enumerate(self.tables)], 1)
        return (self.wide(numbers) + self.deep(e))[:, 0]


@faulty(
    "gradient-spike",
    places=("wide", "wide.*", "*wide*"),
    kind="wide & deep",
    source="Cheng et al. 2016, Wide & Deep on a click log: one batch with a price in cents in a column of the wide part",
    steps=100,
    also=("loss-spike", "raw-input-scale"),
)
def price_in_cents(case: Case) -> None:
    numbers, kinds = torch.randn(800, 8), torch.randint(0, 20, (800, 2))
    clicked = ((numbers[:, 0] + (kinds[:, 0] % 3 - 1.0) + 0.5 * torch.randn(800)) > 0).float()
    net = WideAndDeep()
    opt = torch.optim.Adagrad(net.parameters(), lr=0.05)
    losses, sizes = [], []
    with case.watch(net):
        for step in range(case.steps):
            rows = torch.randint(0, 800, (40,))
            batch = numbers[rows].clone()
            if case.ill and step == 71:
                batch[:, 2] *= 1000.0
            loss = F.binary_cross_entropy_with_logits(net(batch, kinds[rows]), clicked[rows])
            opt.zero_grad()
            loss.backward()
            sizes.append(root(net.wide.weight.grad))
            case.truth(lambda: len(sizes) > 20 and sizes[-1] > 20 * max(sizes[-20:-1]))
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))
