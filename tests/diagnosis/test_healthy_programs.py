"""Small healthy trainings of kinds that rules once had a word against. Oracle: each learns, by its own loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weighbridge
from tests.diagnosis.trainings import batches, data, mlp

Losses = Iterator[tuple[nn.Module, torch.Tensor, torch.optim.Optimizer]]


def thawed() -> Losses:
    """The optimizer holds all; the first layers are frozen for 40 steps."""
    model, stream = mlp(), batches(*data("digits"), size=64)
    for part in (model[0], model[2]):
        part.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(90):
        if step == 40:
            model.requires_grad_(True)
        x, y = next(stream)
        yield model, F.cross_entropy(model(x), y), optimizer


def contrastive() -> Losses:
    """SimCLR: the target of a row is the number of the row that has its other view."""
    model, stream = mlp(classes=16), batches(*data("digits"), size=64)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(80):
        x, _ = next(stream)
        rows = torch.arange(len(x))
        z = F.normalize(model(torch.cat([x + torch.randn_like(x), x * (torch.rand_like(x) > 0.3)])), dim=1)
        alike = (z @ z.T / 0.5).fill_diagonal_(-1e9)
        yield model, F.cross_entropy(alike, torch.cat([rows + len(x), rows])), optimizer


class Spike(torch.autograd.Function):
    """Fires above 0; the slope is a surrogate (Zenke and Ganguli 2018)."""

    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        return (x > 0).float()

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return gradient / (1 + 10 * ctx.saved_tensors[0].abs()) ** 2


def spiking() -> Losses:
    """In the first of ten instants no neuron fires yet, so the last layer gives its bias for all."""
    x, y = data("digits")
    model = nn.ModuleList([nn.Linear(64, 100), nn.Linear(100, 10)])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(40):
        rows = torch.randint(len(x), (64,))
        held, answer = torch.zeros(64, 100), torch.zeros(())
        for _ in range(10):
            held = 0.9 * held + model[0]((torch.rand(64, 64) < x[rows] / 4 + 0.5).float())
            fires = Spike.apply(held - 1)  # type: ignore[no-untyped-call]
            held = held * (1 - fires)
            answer = answer + model[1](fires)
        yield model, F.cross_entropy(answer / 10, y[rows]), optimizer


class Detector(nn.Module):
    """Two heads side by side; the first begins with "nothing here" (Lin et al. 2017, section 4.1)."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())
        self.is_there, self.where = nn.Conv2d(32, 1, 1), nn.Conv2d(32, 2, 1)
        nn.init.constant_(self.is_there.bias, -4.0)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.trunk(x)
        return self.is_there(h), self.where(h)


def detector() -> Losses:
    model = Detector()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(60):
        x, there = 0.1 * torch.randn(16, 1, 32, 32), torch.zeros(16, 1, 8, 8)
        for i, (u, v) in enumerate(torch.randint(0, 7, (16, 2)).tolist()):
            x[i, 0, 4 * u : 4 * u + 5, 4 * v : 4 * v + 5] += 1
            there[i, 0, u, v] = 1
        is_there, where = model(x)
        loss = F.binary_cross_entropy_with_logits(is_there, there, reduction="sum") / 16
        yield model, loss + ((where - 0.5) ** 2 * there).sum() / 16, optimizer


def q_learner() -> Losses:
    """Fitted Q iteration on a chain of eight states; the targets are renewed when the last ones have been learnt by heart."""
    kept, model = mlp(8, 2), mlp(8, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    states = torch.eye(8)
    for step in range(180):
        if step % 90 == 0:
            kept.load_state_dict(model.state_dict())
        at, right = torch.randint(8, (64,)), torch.randint(2, (64,))
        then = (at + 2 * right - 1).clamp(0, 7)
        with torch.no_grad():
            value = (then == 7) + 0.97 * kept(states[then]).amax(1)
        yield model, F.mse_loss(model(states[at]).gather(1, right[:, None])[:, 0], value), optimizer


def summing_graph() -> Losses:
    """Ten questions of yes or no at each node of a graph, whose layers add up neighbours: their biases lie in front of it."""
    model = nn.ModuleList([nn.Linear(16, 64), nn.Linear(64, 10)])
    edges = (torch.rand(300, 300) < 0.01).float().triu(1)
    edges = edges + edges.T + torch.eye(300)
    x = torch.randn(300, 16)
    y = (edges @ x @ torch.randn(16, 10) > 6).float()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        loss = F.binary_cross_entropy_with_logits(edges @ model[1](F.relu(edges @ model[0](x))), y)
        yield model, loss, optimizer


KINDS = [thawed, contrastive, spiking, detector, q_learner, summing_graph]


@pytest.mark.parametrize("losses", KINDS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("seed", [0, 1])
def test_no_alarm(losses: Callable[[], Losses], seed: int, tmp_path: Path) -> None:
    torch.manual_seed(seed)
    weighbridge.init(dir=tmp_path, name="run", quiet=True)
    run, seen = None, []
    for model, loss, optimizer in losses():
        run = run or weighbridge.watch(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert run is not None
    run.finish()
    assert sum(seen[-10:]) < 0.9 * sum(seen[:10])  # it learns
    told = [*run.findings, *weighbridge.diagnose(run.path).findings]
    assert [(f.rule, f.place) for f in told if f.severity != "note"] == []
