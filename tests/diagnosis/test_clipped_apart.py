"""Clipping by hand, each tensor or each row by a factor of its own. Oracle: what the test itself leaves of the gradient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weighbridge
from tests.capture.oracle import events

Clip = Callable[[torch.Tensor, float], torch.Tensor]


def _by_tensor(g: torch.Tensor, most: float) -> torch.Tensor:
    return g * (most / g.norm()).clamp(max=1.0)


def _by_row(g: torch.Tensor, most: float) -> torch.Tensor:
    return g * (most / g.norm(dim=-1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0)


def _trained(where: Path, clip: Clip, most: float, lr: float) -> tuple[Path, list[float]]:
    """And what was left of the norm of the whole gradient at each step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 3))
    optimizer, left = torch.optim.SGD(model.parameters(), lr), []
    x, y = torch.randn(256, 8), torch.randint(0, 3, (256,))
    weighbridge.init(dir=where, name="run")
    with weighbridge.watch(model) as run:
        for i in range(25):
            rows = slice(32 * (i % 8), 32 * (i % 8) + 32)
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            before = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
            for p in model.parameters():
                p.grad = clip(p.grad, most)
            left.append(float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]) / before))
            optimizer.step()
    return run.path, left


@pytest.mark.parametrize("clip", [_by_tensor, _by_row])
def test_what_is_left_of_the_whole_gradient_is_written(clip: Clip, tmp_path: Path) -> None:
    path, left = _trained(tmp_path, clip, 1e-4, 0.5)
    found = events(path, "clipped_apart")
    assert len(found) > 3
    for event in found:
        assert event.detail["factor"] == pytest.approx(left[event.step], rel=1e-5)
    assert [f.told_step < 8 for f in weighbridge.diagnose(path) if f.rule == "overtight-clipping"] == [True]


@pytest.mark.parametrize(("most", "lr"), [(0.05, 0.5), (1e-4, 2_000.0), (10.0, 0.5)])
def test_clipping_that_is_a_guard_or_goes_with_a_rate_of_its_own(most: float, lr: float, tmp_path: Path) -> None:
    """The second is a normalised step: small gradients, and a rate to suit."""
    path, _ = _trained(tmp_path, _by_tensor, most, lr)
    assert not [f for f in weighbridge.diagnose(path) if f.rule == "overtight-clipping"]
