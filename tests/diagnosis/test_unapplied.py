"""A gradient that comes to nothing although an optimizer steps: put back, zeroed too early, without a rate. Each with its twin.

Oracle: what the test itself puts into the training.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

import weighbridge
from weighbridge.diagnosis.rules.gradient_not_applied import WAIT

Told = list[tuple[str, int, str]]
RULE = "gradient-not-applied"


def _told(
    where: Path, turn: Callable[[nn.Module, torch.optim.Optimizer, int], None], lr: float = 0.01, steps: int = 15
) -> Told:
    """(place, told_step, severity) of the rule's findings; `turn` has the gradients of a batch and steps as it likes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr)
    weighbridge.init(dir=where, name="run")
    with weighbridge.watch(model) as run:
        for i in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(model(torch.randn(16, 6)), torch.randint(0, 3, (16,))).backward()
            turn(model, optimizer, i)
    return [(f.place, f.told_step, f.severity) for f in weighbridge.diagnose(run.path) if f.rule == RULE]


@pytest.mark.parametrize(("rounds", "expected"), [(99, [("", 7, "warning")]), (2, [])])
def test_weights_that_are_loaded_back_after_each_step(rounds: int, expected: Told, tmp_path: Path) -> None:
    """Twice in a row may be a search that found nothing better."""
    best: dict[str, torch.Tensor] = {}

    def turn(model: nn.Module, optimizer: torch.optim.Optimizer, i: int) -> None:
        optimizer.step()
        if i == 3:
            best.update(copy.deepcopy(model.state_dict()))
        elif 3 < i <= 3 + rounds:
            model.load_state_dict(best)

    assert _told(tmp_path, turn) == expected


def test_one_layer_alone_that_is_written_back(tmp_path: Path) -> None:
    kept: list[torch.Tensor] = []

    def turn(model: nn.Module, optimizer: torch.optim.Optimizer, _: int) -> None:
        kept.append(model[2].weight.detach().clone())  # type: ignore[index]
        optimizer.step()
        model[2].weight.data.copy_(kept[0])  # type: ignore[index]

    assert _told(tmp_path, turn) == [("2.weight", 3, "warning")]


def test_what_is_left_beside_nan_was_not_put_back(tmp_path: Path) -> None:
    """One row is moved, and not a number any more; the others have no gradient, and the sums over them are alike."""

    def turn(model: nn.Module, optimizer: torch.optim.Optimizer, i: int) -> None:
        weight = model[0].weight  # type: ignore[index]
        weight.grad.zero_()[0] = 1.0
        optimizer.step()
        weight.data[0] = torch.nan

    assert _told(tmp_path, turn) == []


def test_weights_that_stand_at_the_bounds_of_a_clipping(tmp_path: Path) -> None:
    """A critic with clipped weights: the step leads out, the clipping back in, element by element."""

    def turn(model: nn.Module, optimizer: torch.optim.Optimizer, i: int) -> None:
        if i == 0:
            for p in model.parameters():
                p.data = 0.01 * torch.sign(torch.randn_like(p))
        for p in model.parameters():
            p.grad = -p.detach()
        optimizer.step()
        for p in model.parameters():
            p.data.clamp_(-0.01, 0.01)

    assert _told(tmp_path, turn) == []


def test_weights_that_are_normed_after_each_step(tmp_path: Path) -> None:
    def turn(model: nn.Module, optimizer: torch.optim.Optimizer, _: int) -> None:
        optimizer.step()
        for p in model.parameters():
            p.data.div_(p.data.norm())

    assert _told(tmp_path, turn) == []


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_that_are_zeroed_between_backward_and_step(set_to_none: bool, tmp_path: Path) -> None:
    def turn(model: nn.Module, optimizer: torch.optim.Optimizer, _: int) -> None:
        optimizer.zero_grad(set_to_none)
        optimizer.step()

    assert _told(tmp_path, turn) == [("", 2, "error")]


@pytest.mark.parametrize(("lr", "expected"), [(0.0, [("", 2, "warning")]), (0.01, [])])
def test_a_rate_of_0_from_the_first_step(lr: float, expected: Told, tmp_path: Path) -> None:
    assert _told(tmp_path, lambda _, optimizer, __: optimizer.step(), lr) == expected


@pytest.mark.parametrize(("epoch", "expected"), [(WAIT, [("", WAIT - 1, "warning")]), (WAIT - 1, [])])
def test_a_rate_of_0_that_a_scheduler_will_raise_has_its_time(epoch: int, expected: Told, tmp_path: Path) -> None:
    """A warm-up from 0 that is stepped once in so many steps."""
    schedulers: list[LambdaLR] = []

    def turn(_: nn.Module, optimizer: torch.optim.Optimizer, i: int) -> None:
        if not schedulers:
            schedulers.append(LambdaLR(optimizer, lambda passed: min(1.0, passed / 5)))
        optimizer.step()
        if i % epoch == epoch - 1:
            schedulers[0].step()

    assert _told(tmp_path, turn) == expected


def test_a_schedule_that_ends_at_0_and_a_group_that_is_frozen_by_its_rate(tmp_path: Path) -> None:
    def turn(_: nn.Module, optimizer: torch.optim.Optimizer, i: int) -> None:
        optimizer.param_groups[0]["lr"] = max(0.0, 0.01 - 0.005 * i)
        optimizer.step()

    assert _told(tmp_path, turn, steps=30) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_updates_by_hand_that_are_lost_in_bfloat16(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 3)).to(dtype)
    weighbridge.init(dir=tmp_path, name="run")
    with weighbridge.watch(model) as run:
        for _ in range(15):
            model.zero_grad()
            F.cross_entropy(model(torch.randn(64, 6, dtype=dtype)).float(), torch.randint(0, 3, (64,))).backward()
            with torch.no_grad():
                for p in model.parameters():
                    p.sub_(3e-3 * p.grad)
    told = [f.rule for f in weighbridge.diagnose(run.path) if f.rule == "lost-updates"]
    assert told == (["lost-updates"] if dtype == torch.bfloat16 else [])
