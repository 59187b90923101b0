"""What has become of gradients between the last backward pass and the step: one factor, one for each tensor, or neither.

Oracle: sums of squares and of absolute values written by hand, and trainings in which the test itself shrinks the gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import weighbridge
from tests.capture.oracle import events, names, table
from weighbridge import Plan
from weighbridge.capture import accumulation
from weighbridge.capture.accumulation import APART, apart, factor_of
from weighbridge.capture.shards import Placement
from weighbridge.capture.sketch import SKETCHED, Items
from weighbridge.records import REPLICA

ALWAYS = Plan(coherence=True, activations=False, activation_gradients=False)
Sums = list[tuple[float, float]]


def _items(now: Sums) -> Items:
    items = np.zeros(len(now), SKETCHED)
    items["sum_sq"], items["sum_abs"] = np.array(now).T
    return items


@pytest.mark.parametrize(
    ("last", "now", "one", "of_all"),
    [
        ([(4.0, 2.0), (16.0, 8.0)], [(1.0, 1.0), (4.0, 4.0)], 0.5, 0.5),
        ([(4.0, 2.0), (16.0, 8.0)], [(1.0, 1.0), (1.0, 2.0)], math.nan, math.sqrt(0.1)),
        ([(4.0, 2.0), (16.0, 8.0)], [(1.0, 1.0), (64.0, 16.0)], math.nan, math.nan),  # one has grown
        ([(4.0, 2.0), (0.0, 0.0)], [(1.0, 1.0), (0.0, 0.0)], 0.5, 0.5),
        ([(4.0, 2.0), (0.0, 0.0)], [(1.0, 1.0), (9.0, 3.0)], math.nan, math.nan),  # one was made by hand
        ([(0.0, 0.0)], [(0.0, 0.0)], math.nan, math.nan),
        ([(math.inf, math.inf), (4.0, 2.0)], [(1.0, 1.0), (1.0, 1.0)], math.nan, math.nan),  # infinity was taken out
        ([(math.nan, math.nan), (4.0, 2.0)], [(1.0, 1.0), (1.0, 1.0)], math.nan, math.nan),
        ([(4.0, 2.0), (4.0, 2.0)], [(math.inf, math.inf), (1.0, 1.0)], math.nan, math.nan),
        ([(4.0, 2.0), (4.0, 2.0)], [(math.nan, math.nan), (1.0, 1.0)], math.nan, math.nan),
    ],
)
def test_factors_of_sums(last: Sums, now: Sums, one: float, of_all: float) -> None:
    assert factor_of(last, _items(now), 1.0) == pytest.approx(one, nan_ok=True)
    assert factor_of(last, _items(now), 8.0) == pytest.approx(8 * one, nan_ok=True)
    assert apart(last, _items(now), 1.0) == pytest.approx(of_all, nan_ok=True)


def _small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))


def _trained(where: Path, factor: Callable[[int], float], passes: int = 1, zeroes: bool = True) -> Path:
    """Each tensor's gradient, the n-th, is multiplied with factor(n) before the step."""
    model = _small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with weighbridge.init(dir=where, name="run", quiet=True, plan=ALWAYS) as run:
        run.watch(model)
        for _ in range(6):
            if zeroes:
                optimizer.zero_grad()
            for _ in range(passes):
                model(torch.randn(4, 3)).square().mean().backward()
            for n, p in enumerate(model.parameters()):
                assert p.grad is not None
                p.grad.mul_(factor(n))
            optimizer.step()
    return run.path


def _factors(path: Path) -> list[float]:
    return [row["clip_factor"] for row in sorted(table(path, "steps"), key=lambda row: row["step"])]


def _each(n: int) -> float:
    return 0.01 * (n + 1)


def test_gradients_that_shrink_each_by_its_own_factor_are_told_of_so_many_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accumulation, "MOST_EVENTS", 2)
    path = _trained(tmp_path, _each)
    assert [event.step for event in events(path, APART)] == [0, 1]
    assert all(map(math.isnan, _factors(path)))


@pytest.mark.parametrize(
    ("factor", "passes"),
    [
        (lambda n: 0.01, 1),  # one factor for all has its column
        (lambda n: 0.5 + 0.1 * n, 1),  # most is left
        (_each, 3),  # their mean may have been taken
    ],
)
def test_what_is_no_clipping_of_each_is_not_told(factor: Callable[[int], float], passes: int, tmp_path: Path) -> None:
    assert not events(_trained(tmp_path, factor, passes), APART)


def test_a_factor_of_gradients_that_nobody_zeroed_is_not_known(tmp_path: Path) -> None:
    """How many passes they hold, and whether their mean was taken, nobody knows."""
    found = _factors(_trained(tmp_path, lambda n: 0.5, zeroes=False))
    assert found[0] == pytest.approx(0.5)
    assert all(map(math.isnan, found[1:]))


class Odd(nn.Module):
    """An empty parameter, one that is said to be a replica's, and two plain ones."""

    def __init__(self) -> None:
        super().__init__()
        self.empty, self.plain = nn.Parameter(torch.empty(0)), nn.Parameter(torch.ones(2))
        self.replica, self.huge = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self, huge: float) -> torch.Tensor:
        return self.empty.sum() + self.plain.sum() + self.replica.sum() + (huge * self.huge).sum()


def test_rows_of_two_passes_are_of_numbers_that_this_process_has_added_up(tmp_path: Path) -> None:
    """None of an empty tensor, of a replica (of which one pass leaves this process's gradient, the next that of all), nor
    where a sum is beyond float64, be it after the first pass or the last."""
    model = Odd()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=ALWAYS) as run:
        run.watch(model)
        next(one for one in run._table.known if one.name == "replica").placement = Placement(REPLICA)
        for first, second in ((1.0, 2.0), (1e200, -1e200), (1.0, 1e200)):
            optimizer.zero_grad()
            model(first).backward()
            model(second).backward()
            optimizer.step()
    known = names(weighbridge.open_run(run.path))
    found = table(run.path, "accumulation")
    rows = {(row["step"], known[row["tensor"]]): (row["sum_sq_first"], row["sum_sq"]) for row in found}
    assert rows == {(0, "plain"): (2, 8), (0, "huge"): (2, 18), (1, "plain"): (2, 8), (2, "plain"): (2, 8)}
