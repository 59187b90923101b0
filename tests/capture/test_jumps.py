"""A step that jumps is looked at: asked of made-up rows, and of trainings in which the test makes it jump.

Oracle: the numbers put in by hand; the same training with every step done by Python, and once more without being watched.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import weighbridge
from tests.capture.oracle import table
from weighbridge.capture import jumps, recorder
from weighbridge.capture.follower import Follower
from weighbridge.capture.jumps import LOOKS, Allowance, Jumps
from weighbridge.capture.kernel import NativeKernel, load_kernel
from weighbridge.capture.losses import Passes
from weighbridge.capture.plan import Occasions, Plan, Schedule
from weighbridge.capture.rowblock import RowBlock
from weighbridge.records import Quantity

KERNEL = load_kernel()
pytestmark = pytest.mark.skipif(not isinstance(KERNEL, NativeKernel), reason="the C kernel was not built here")
UNTIL = 60  # steps of a training; the plan looks at 50, 56
AT = 52


def _met(norms: list[tuple[float, float, float]], losses: list[float]) -> list[int]:
    """At which steps a jump is met: norms of parameters, gradients and updates, and losses."""
    assert isinstance(KERNEL, NativeKernel)
    asked, found = Jumps(KERNEL.library), []
    block = RowBlock(3 * len(norms), 0)
    for step, (norm, loss) in enumerate(zip(norms, losses, strict=True)):
        first = block.rows
        for quantity, one in zip((Quantity.PARAMETER, Quantity.GRADIENT, Quantity.UPDATE), norm, strict=True):
            block.add({"step": step, "quantity": int(quantity), "sum_sq": one**2}, np.zeros(132, np.uint32))
        if asked.is_met(block, first, loss):
            found.append(step)
    return found


@pytest.mark.parametrize("which", ["parameter", "gradient", "update", "loss"])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_each_number_is_asked_on_its_own_and_has_no_unit(which: str, scale: float) -> None:
    def training(times: float) -> list[int]:
        norms, losses = np.full((40, 3), scale), np.full(40, scale)
        if which == "loss":
            losses[30] *= times
        else:
            norms[30, ("parameter", "gradient", "update").index(which)] *= times
        return _met([tuple(row) for row in norms.tolist()], losses.tolist())

    if which == "parameter":
        assert (training(1.2), training(1.09)) == ([30, 31], [])  # 31: and back again
    else:
        assert (training(3.03), training(2.97)) == ([30], [])


def test_what_was_as_large_a_moment_ago_is_no_jump_and_what_was_so_long_ago_is() -> None:
    def met(apart: int) -> list[int]:
        gradients = np.ones(400)
        gradients[[100, 100 + apart]] = 4.0
        return _met([(1.0, g, 1.0) for g in gradients.tolist()], [1.0] * 400)

    assert met(150) == [100]
    assert met(250) == [100, 350]  # 4 at step 100 counts as 4 x 100 / 350 there


def test_no_past_no_loss_and_infinity_are_no_jumps() -> None:
    assert _met([(1.0, 10.0**step, 1.0) for step in range(9)], [1.0] * 9) == []
    assert _met([(1.0, 1.0, 1.0)] * 30, [float("nan")] * 30) == []
    assert _met([(1.0, 1.0, 1.0)] * 30, [-(4.0**step) for step in range(30)]) == []
    infinite = [1.0] * 20 + [float("inf")] + [1.0] * 9
    assert _met([(1.0, g, 1.0) for g in infinite], [1.0] * 30) == [20]


def test_three_jumps_in_two_hundred_steps_are_looked_at() -> None:
    allowance = Allowance()
    taken = [step for step in range(1_000) if allowance.takes(step)]
    assert len(taken) == jumps.JUMPS * 5
    assert all(b - a >= LOOKS for a, b in itertools.pairwise(taken))
    assert max(sum(step <= one < step + jumps.WITHIN for one in taken) for step in range(800)) == jumps.JUMPS


def test_occasions_are_added_beside_those_of_the_schedule() -> None:
    occasions = Occasions(Schedule(every=10))
    assert occasions.next_due(1) == 10
    occasions.add(4, 3)
    assert [step for step in range(30) if occasions.due(step)] == [0, 4, 5, 6, 10, 20]
    assert [occasions.next_due(step) for step in (1, 5, 7)] == [4, 5, 10]


# ---- trainings ----


def _train(
    folder: Path | None, harm: Callable[[int, nn.Module, torch.optim.Optimizer], None], plan: Plan | None = None
) -> list[int]:
    """A training in which something is done at the beginning of a step; at which steps all units were looked at."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x = torch.randn(32, 6)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0)
    run = weighbridge.init(dir=folder, name="run", quiet=True, plan=plan) if folder is not None else None
    if run is not None:
        run.watch(model)
    for step in range(UNTIL):
        harm(step, model, optimizer)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    _train.end = [p.detach().clone() for p in model.parameters()]  # type: ignore[attr-defined]
    if run is None:
        return []
    run.finish()
    looks = [{row["step"] for row in table(run.path, name)} for name in ("units", "spread")]
    assert looks[0] == looks[1]
    return sorted(looks[0])


def _rate(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.param_groups[0]["lr"] = 1.0 if step == AT else 0.01


def _weight(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    if step == AT:
        with torch.no_grad():
            model.get_parameter("2.weight").mul_(20)


def _nothing(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    pass


@pytest.mark.parametrize("by", ["c", "python"])
@pytest.mark.parametrize(("harm", "more"), [(_rate, {53, 54, 55}), (_weight, {53, 54, 55}), (_nothing, set())])
def test_the_steps_after_a_jump_are_looked_at(
    by: str, harm: Callable[..., None], more: set[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by == "python":
        monkeypatch.setattr(Follower, "_made", lambda follower, kernel: None)
    planned = {step for step in range(UNTIL) if Plan().schedule("units").due(step)}
    assert set(_train(tmp_path, harm)) == planned | more
    watched = _train.end  # type: ignore[attr-defined]
    _train(None, harm)
    assert all(torch.equal(a, b) for a, b in zip(watched, _train.end, strict=True))  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [0, 2_000, 20_000])
@pytest.mark.parametrize("by", ["c", "python"])
def test_a_block_that_is_handed_over_in_the_middle_of_a_step_is_no_jump(
    by: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "_VALUES_BYTES", size)
    if by == "python":
        monkeypatch.setattr(Follower, "_made", lambda follower, kernel: None)
    assert _train(tmp_path, _nothing) == [step for step in range(UNTIL) if Plan().schedule("units").due(step)]


@pytest.mark.parametrize("plan", [Plan(units=False), Plan(activations=False), Plan(budget=1.0), Plan(gradients=2)])
def test_no_look_is_added_where_none_is_wanted_or_a_budget_decides(plan: Plan, tmp_path: Path) -> None:
    planned = [step for step in range(UNTIL) if plan.looks_at_units and plan.schedule("units").due(step)]
    assert _train(tmp_path, _rate, plan) == planned


@pytest.mark.parametrize(("plan", "times"), [(Plan(), 2), (Plan(units=False), 1)])
def test_a_loss_is_taken_for_jumps_only_where_jumps_are_asked_for(
    plan: Plan, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Follower, "_made", lambda follower, kernel: None)
    asked, mean = [0], Passes.mean
    monkeypatch.setattr(Passes, "mean", lambda *these: (asked.__setitem__(0, asked[0] + 1), mean(*these))[1])
    _train(tmp_path, _nothing, plan)
    assert asked[0] == times * UNTIL  # once for the row of each step
