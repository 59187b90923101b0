"""The second moment followed from the gradients' sizes. Oracle: the optimizer's own state after each step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import weighbridge
from weighbridge import Plan, Schedule
from weighbridge.diagnosis.rule import Needs
from weighbridge.diagnosis.secondmoments import SecondMoments
from weighbridge.diagnosis.stream import RecordedRun

NEEDS = Needs(gradient=["rms"], moment2=["mean"], tables=["steps", "groups"])


def _corrected(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> float:
    state, group = optimizer.state[parameter], optimizer.param_groups[0]
    if "square_avg" in state:  # RMSprop
        return float(state["square_avg"].double().mean())
    return float(state["exp_avg_sq"].double().mean()) / (1 - group["betas"][1] ** float(state["step"]))


def _train(
    folder: Path, kind: Any, moments: Any, steps: int, before: int = 0, absent: tuple[int, ...] = ()
) -> tuple[Path, np.ndarray]:
    """Gives the run and what the optimizer holds: [steps, parameters]; NaN where the second layer had no gradient."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 1))
    optimizer = kind(model.parameters(), lr=0.01)
    held = []

    def step(i: int) -> None:
        optimizer.zero_grad()
        x = torch.randn(8, 5)
        loss = (model(x) if i not in absent else model[0](x)).square().mean()
        loss.backward()
        optimizer.step()
        held.append([_corrected(optimizer, p) if p.grad is not None else np.nan for p in model.parameters()])

    for i in range(before):
        step(-1 - i)
    held.clear()
    with weighbridge.watch(model, run=weighbridge.init(dir=folder, name="run", plan=Plan(moments=moments)), live=False) as run:
        for i in range(steps):
            step(i)
    return run.path, np.array(held)


def _followed(path: Path, cuts: tuple[int, ...]) -> np.ndarray:
    """[steps, parameters], read in pieces."""
    moments, found = SecondMoments(), []
    for block in RecordedRun(weighbridge.open_run(path), NEEDS).blocks():
        for piece in block.cut(*cuts):
            moments.start(piece.tensors)
            ((number, values),) = moments.follow(piece).items()
            found.append(values)
            assert number == 0
    return np.concatenate(found)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
@pytest.mark.parametrize("moments", [False, Schedule(every=7)])
def test_it_is_the_mean_that_the_optimizer_keeps(tmp_path: Path, kind: Any, moments: Any) -> None:
    path, held = _train(tmp_path, kind, moments, steps=30)
    np.testing.assert_allclose(_followed(path, (1, 4, 17))[: len(held)], held, rtol=2e-5)


def test_tensors_without_a_gradient_stand_still(tmp_path: Path) -> None:
    path, held = _train(tmp_path, torch.optim.Adam, False, steps=20, absent=(3, 4, 11))
    assert np.isnan(held[3]).tolist() == [False, False, True, True]
    np.testing.assert_allclose(_followed(path, (5,))[: len(held)], held, rtol=2e-5)


def test_a_state_that_is_older_than_the_run_is_taken_as_it_is(tmp_path: Path) -> None:
    path, held = _train(tmp_path, torch.optim.Adam, True, steps=5, before=3_000)
    np.testing.assert_allclose(
        _followed(path, ())[: len(held)], held, rtol=0.06
    )  # its start is 3,000 steps away: 0.999^3000 = 5 %
