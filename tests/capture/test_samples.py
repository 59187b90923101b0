"""How many samples a step was over. Oracle: the sizes of the batches that the training was given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import weighbridge
from tests.capture.oracle import table

STEPS = 30  # those of the plan, those in C, and those between


class Recurrent(nn.Module):
    """Time first, as torch's own layers have it by default."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.layer = nn.GRU(4, 3, batch_first=batch_first)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x if self.layer.batch_first else x.transpose(0, 1))[0]


class Again(nn.Module):
    """A part of it is computed once more in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(checkpoint(self.first, x, use_reentrant=False))


def size_of(step: int) -> int:
    return 3 if step % 7 == 6 else 16


def recorded(
    folder: Path, model: nn.Module, batch: Callable[[int], torch.Tensor], passes: int = 1, optimizers: int = 1
) -> list[int | None]:
    parameters = [[*model.parameters()]] if optimizers == 1 else [[p] for p in model.parameters()]
    used = [torch.optim.SGD(mine, lr=0.01) for mine in parameters]
    with weighbridge.init(name="samples", dir=folder) as run:
        run.watch(model)
        for step in range(STEPS):
            model.zero_grad()
            for _ in range(passes):
                with torch.no_grad():
                    model(batch(6))  # nothing is learnt from it
                model(batch(step)).square().mean().backward()
            for optimizer in used:
                optimizer.step()
    return [row["samples"] for row in table(run.path, "steps")]


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), (4,)),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (2, 2)),
        (lambda: nn.Sequential(nn.ReLU(), nn.Linear(4, 2)), (4,)),
        (lambda: nn.Sequential(nn.Conv1d(2, 3, 2), nn.BatchNorm1d(3)), (2, 4)),
        (lambda: Recurrent(True), (5, 4)),
        (lambda: Recurrent(False), (5, 4)),
        (Again, (4,)),
    ],
    ids=["linear", "flattened", "activation first", "convolution", "batch first", "time first", "checkpoint"],
)
def test_each_step_has_the_samples_of_its_batch(model: Callable[[], nn.Module], shape: tuple[int, ...], tmp_path: Path) -> None:
    sizes = recorded(tmp_path, model(), lambda step: torch.randn(size_of(step), *shape))
    assert sizes == [size_of(step) for step in range(STEPS)]


def test_tokens_and_several_passes_are_counted_too(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2))
    sizes = recorded(tmp_path, model, lambda step: torch.randint(0, 9, (size_of(step), 3)), passes=2)
    assert sizes == [2 * size_of(step) for step in range(STEPS)]


def test_a_second_loss_over_the_same_pass_counts_no_sample_twice(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with weighbridge.init(name="samples", dir=tmp_path) as run:
        run.watch(model)
        for step in range(STEPS):
            optimizer.zero_grad()
            given = model(torch.randn(size_of(step), 4))
            given.square().mean().backward(retain_graph=True)
            F.l1_loss(given, torch.zeros_like(given)).backward()
            optimizer.step()
    assert [row["samples"] for row in table(run.path, "steps")] == [size_of(step) for step in range(STEPS)]


def test_without_hooks_nobody_knows(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    plan = weighbridge.Plan(activations=False, activation_gradients=False, sentinel=False)
    with weighbridge.init(name="samples", dir=tmp_path, plan=plan) as run:
        run.watch(model)
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.randn(5, 4)).square().mean().backward()
            optimizer.step()
    assert [row["samples"] for row in table(run.path, "steps")] == [None] * 4
