"""Layers that are no modules: weights of one's own, functions, a module in a loop. Each with its twin.

Oracle: gradients and sizes that torch.autograd.grad and the test's own forward pass give.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weighbridge
from tests.capture.oracle import events


class _Raw(nn.Module):
    """A perceptron of bare parameters."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        sizes = [16, *[32] * 8, 3]
        self.w = nn.ParameterList([nn.Parameter(torch.randn(a, b) * gain / math.sqrt(a)) for a, b in itertools.pairwise(sizes)])

    def forward(self, x: torch.Tensor, kept: list[torch.Tensor] | None = None) -> torch.Tensor:
        for i, w in enumerate(self.w):
            x = (torch.tanh(x) if i else x) @ w
            if kept is not None:
                kept.append(x)
        return x


def _told(model: nn.Module, where: Path, steps: int) -> tuple[Path, set[str]]:
    x, y = torch.randn(256, 16), torch.randint(0, 3, (256,))
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    weighbridge.init(dir=where, name="run")
    with weighbridge.watch(model) as run:
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return run.path, {f.rule for f in weighbridge.diagnose(run.path) if f.severity != "note"}


def test_gradients_and_sizes_are_those_of_autograd(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = _Raw(1.0)
    start = [p.detach().clone() for p in model.parameters()]
    torch.manual_seed(1)
    path, _ = _told(model, tmp_path, 2)
    (event,) = events(path, "along_depth")
    torch.manual_seed(1)
    x, y = torch.randn(256, 16), torch.randint(0, 3, (256,))
    for p, value in zip(model.parameters(), start, strict=True):
        p.data.copy_(value)
    kept: list[torch.Tensor] = []
    given = torch.autograd.grad(F.cross_entropy(model(x, kept), y), kept)
    assert event.detail["parameters"] == [f"w.{i}" for i in range(9)]
    assert event.detail["norms"] == pytest.approx([g.norm().item() for g in given], rel=1e-4)
    taken = [x, *(torch.tanh(h) for h in kept[:-1])]
    assert event.detail["sizes"] == pytest.approx([h.square().mean().sqrt().item() for h in taken], rel=1e-4)


@pytest.mark.parametrize(("gain", "rule"), [(0.2, "vanishing-gradient"), (6.0, "exploding-gradient"), (1.0, "")])
def test_a_perceptron_of_bare_parameters(gain: float, rule: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    told = _told(_Raw(gain), tmp_path, 25)[1]
    assert told & {"vanishing-gradient", "exploding-gradient"} == ({rule} if rule else set())


@pytest.mark.parametrize("length", [1.0, 0.05])
def test_a_module_that_is_called_in_a_loop(length: float, tmp_path: Path) -> None:
    torch.manual_seed(0)

    class Solver(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
            self.head = nn.Linear(16, 3)
            for layer in (self.f[0], self.f[2]):
                nn.init.kaiming_normal_(layer.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(14):
                x = x + length * self.f(x)
            return self.head(x)

    told = _told(Solver(), tmp_path, 5)[1]
    assert ("exploding-activation" in told) is (length == 1.0)


def test_layers_that_are_modules_have_no_chain(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    assert not events(_told(model, tmp_path, 2)[0], "along_depth")
