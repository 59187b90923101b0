"""Sizes of gradients after each backward pass, and the gradient noise scale.

Oracle: clones of the gradients after the first pass and the last, and, for the noise scale itself, the gradient of every sample
of a data set on its own: their mean is |G|^2's G, the trace of their covariance the noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

import weighbridge
from tests.capture.oracle import names, table
from weighbridge import Plan

ALWAYS = Plan(coherence=True, activations=False, activation_gradients=False)
SAMPLES = 64


class Regression:
    """Least squares on 64 samples; the weights stand still (lr 0), so that every step draws from one distribution."""

    def __init__(self) -> None:
        chance = torch.Generator().manual_seed(0)
        self.x = torch.randn(SAMPLES, 3, generator=chance)
        self.y = self.x @ torch.tensor([[1.0], [2.0], [-1.0]]) + 1.5 * torch.randn(SAMPLES, 1, generator=chance)
        self.model = nn.Linear(3, 1)
        with torch.no_grad():
            self.model.weight.zero_()
            self.model.bias.zero_()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0)
        self.chance = torch.Generator().manual_seed(1)

    def loss(self, batch: int) -> torch.Tensor:
        which = torch.randint(0, SAMPLES, (batch,), generator=self.chance)
        return (self.model(self.x[which]) - self.y[which]).square().mean()

    def truth(self) -> tuple[float, float]:
        """|G|^2, and the trace of the covariance of the samples' gradients, each by hand: 2 (w.x + b - y) (x, 1)."""
        inputs = torch.cat([self.x, torch.ones(SAMPLES, 1)], dim=1).double()
        gradients = -2 * self.y.double() * inputs
        mean = gradients.mean(0)
        return float(mean @ mean), float((gradients - mean).square().sum(1).mean())


@pytest.mark.parametrize("divides", [True, False])
@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_the_noise_scale_is_that_of_the_samples_gradients(tmp_path: Path, divides: bool, scale: float) -> None:
    passes, batch, steps = 4, 3, 600
    training = Regression()
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale != 1, growth_interval=200)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=ALWAYS) as run:
        run.watch(training.model)
        for _ in range(steps):
            training.optimizer.zero_grad()
            for _ in range(passes):
                scaler.scale(training.loss(batch) / (passes if divides else 1)).backward()
            scaler.step(training.optimizer)
            scaler.update()
    signal, trace = training.truth()
    share = (1 / passes if divides else 1.0) ** 2
    record = weighbridge.open_run(run.path)
    successive, accumulated = record.noise_scales()
    assert (successive.batch, successive.samples, successive.first_step) == ("step", steps - 1, 1)
    assert (accumulated.batch, accumulated.samples, accumulated.first_step) == ("backward pass", steps, 0)
    of_all = share * passes**2  # a step's gradient is the sum of its passes'
    assert abs(successive.signal - signal * of_all) < 4 * successive.signal_error
    assert abs(accumulated.signal - signal * share) < 4 * accumulated.signal_error
    assert successive.noise == pytest.approx(trace / (batch * passes) * of_all, rel=0.1)
    assert accumulated.noise == pytest.approx(trace / batch * share, rel=0.1)
    assert successive.value == pytest.approx(trace / signal / (batch * passes), rel=0.15)
    assert accumulated.value == pytest.approx(trace / signal / batch, rel=0.15)
    weight = record.noise_scales("weight")
    bias = record.noise_scales("bias")
    for together, one, other in zip(record.noise_scales(), weight, bias, strict=True):
        assert together.signal == pytest.approx(one.signal + other.signal, rel=1e-9)
        assert together.noise == pytest.approx(one.noise + other.noise, rel=1e-9)


def test_a_noise_scale_that_cannot_be_told_is_not_told(tmp_path: Path) -> None:
    """The weights are the least squares solution: there is no gradient but noise."""
    training = Regression()
    inputs = torch.cat([training.x, torch.ones(SAMPLES, 1)], dim=1)
    solution = torch.linalg.lstsq(inputs, training.y).solution
    with torch.no_grad():
        training.model.weight.copy_(solution[:3].T)
        training.model.bias.copy_(solution[3])
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=ALWAYS) as run:
        run.watch(training.model)
        for _ in range(100):
            training.optimizer.zero_grad()
            for _ in range(2):
                training.loss(2).backward()
            training.optimizer.step()
    for found in weighbridge.open_run(run.path).noise_scales():
        assert math.isnan(found.value)
        assert abs(found.signal) < 3 * found.signal_error


# --- which passes count ---------------------------------------------------------------------------------------------

Sizes = dict[str, float]


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))


def loss_of(model: nn.Module, seed: int) -> torch.Tensor:
    return model(torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))).square().mean()


def sizes_of(model: nn.Module) -> Sizes:
    return {name: float(p.grad.double().square().sum()) for name, p in model.named_parameters() if p.grad is not None}


def rows_of(path: Path) -> dict[int, dict[str, dict[str, Any]]]:
    known = names(weighbridge.open_run(path))
    found: dict[int, dict[str, dict[str, Any]]] = {}
    for row in table(path, "accumulation"):
        found.setdefault(row["step"], {})[known[row["tensor"]]] = row
    return found


def factors(path: Path) -> list[float]:
    return [row["clip_factor"] for row in sorted(table(path, "steps"), key=lambda row: row["step"])]


class Passes:
    """Trains with several passes a step. `between(step, number)` is called after each pass but the last."""

    def __init__(self, passes: int = 3, between: Callable[[int, int], object] = lambda step, number: None) -> None:
        self.model, self.passes, self.between = small(), passes, between
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)
        self.first: dict[int, Sizes] = {}
        self.last: dict[int, Sizes] = {}

    def step(self, step: int) -> None:
        self.optimizer.zero_grad()
        for number in range(self.passes):
            loss_of(self.model, 10 * step + number).backward()
            self.first[step] = sizes_of(self.model) if number == 0 else self.first[step]
            if number + 1 < self.passes:
                self.between(step, number)
        self.last[step] = sizes_of(self.model)

    def run(self, folder: Path, steps: int, before_step: Callable[[int], object] = lambda step: None) -> Path:
        with weighbridge.init(dir=folder, name="run", quiet=True, plan=ALWAYS) as run:
            run.watch(self.model)
            for step in range(steps):
                self.step(step)
                before_step(step)
                self.optimizer.step()
        return run.path


@pytest.mark.parametrize("set_to_none", [True, False])
def test_sizes_after_the_first_pass_and_the_last(tmp_path: Path, set_to_none: bool) -> None:
    training = Passes()
    zero_grad = training.optimizer.zero_grad
    training.optimizer.zero_grad = lambda: zero_grad(set_to_none=set_to_none)  # type: ignore[method-assign]
    path = training.run(tmp_path, 6, before_step=lambda step: clip_grad_norm_(training.model.parameters(), 1e-3))
    found = rows_of(path)
    assert sorted(found) == list(range(6))
    for step, rows in found.items():
        assert set(rows) == {"0.weight", "0.bias", "2.weight", "2.bias"}
        for name, row in rows.items():
            assert (row["passes"], row["count"]) == (3, dict(training.model.named_parameters())[name].numel())
            assert row["sum_sq_first"] == pytest.approx(training.first[step][name], rel=1e-9)
            assert row["sum_sq"] == pytest.approx(training.last[step][name], rel=1e-9), "before clipping"


def test_one_pass_a_step_leaves_no_rows(tmp_path: Path) -> None:
    assert rows_of(Passes(passes=1).run(tmp_path, 5)) == {}


def test_gradients_that_were_not_set_to_zero_leave_no_rows(tmp_path: Path) -> None:
    training = Passes()
    training.optimizer.zero_grad = lambda: None  # type: ignore[method-assign,assignment,misc]
    assert sorted(rows_of(training.run(tmp_path, 5))) == [0]


def test_gradients_set_to_zero_between_the_passes_begin_anew(tmp_path: Path) -> None:
    training = Passes(between=lambda step, number: training.model.zero_grad() if step == 2 and number == 0 else None)
    found = rows_of(training.run(tmp_path, 5))
    assert [found[step]["0.bias"]["passes"] for step in range(5)] == [3, 3, 2, 3, 3]


def test_gradients_clipped_between_the_passes_leave_no_rows(tmp_path: Path) -> None:
    def clip(step: int, number: int) -> None:
        if step == 2:
            clip_grad_norm_(training.model.parameters(), 1e-3)

    training = Passes(between=clip)
    assert sorted(rows_of(training.run(tmp_path, 5))) == [0, 1, 3, 4]


def test_a_pass_through_another_model_is_none_of_this_one_s(tmp_path: Path) -> None:
    other = small()
    training = Passes(between=lambda step, number: loss_of(other, step).backward())
    found = rows_of(training.run(tmp_path, 4))
    assert {rows["2.weight"]["passes"] for rows in found.values()} == {3}


def test_a_step_in_the_middle_ends_the_sum(tmp_path: Path) -> None:
    """A second optimizer over the same parameters steps after the first pass."""
    training = Passes()
    second = torch.optim.SGD(training.model.parameters(), lr=0.0)
    training.between = lambda step, number: second.step() if number == 0 else None
    assert rows_of(training.run(tmp_path, 4)) == {}


def test_a_second_step_with_the_same_gradients_says_nothing_new(tmp_path: Path) -> None:
    training = Passes()
    path = training.run(tmp_path, 4, before_step=lambda step: training.optimizer.step())
    assert sorted(rows_of(path)) == [0, 2, 4, 6]
    assert [math.isnan(factor) for factor in factors(path)] == [False, True] * 4


def test_where_nobody_steps_the_passes_are_soon_no_longer_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, looks = small(), []
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=ALWAYS) as run:
        run.watch(model)
        monkeypatch.setattr(run._stepper, "by_hand", None)  # of a model too large for it
        accumulation = run._stepper.coherence.accumulation
        monkeypatch.setattr(accumulation, "_measure", lambda: looks.append(1) or {})
        for step in range(100):
            model.zero_grad()
            loss_of(model, step).backward()
    assert len(looks) < 2 * 65


def test_very_many_passes_are_not_all_looked_at(tmp_path: Path) -> None:
    training = Passes(passes=70)
    path = training.run(tmp_path, 2)
    assert rows_of(path) == {}
    assert all(math.isnan(factor) for factor in factors(path))


def test_an_optimizer_for_each_half_shares_the_passes(tmp_path: Path) -> None:
    training = Passes()
    halves = [torch.optim.SGD(training.model[i].parameters(), lr=0.05) for i in (0, 2)]
    training.optimizer = halves[0]
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=ALWAYS) as run:
        run.watch(training.model)
        for step in range(4):
            halves[1].zero_grad()
            training.step(step)
            for half in halves:
                half.step()
    found = rows_of(run.path)
    assert sorted(found) == list(range(4))
    for step, rows in found.items():
        assert {name: row["sum_sq"] for name, row in rows.items()} == pytest.approx(training.last[step])


def test_an_exception_in_a_backward_pass_does_no_harm(tmp_path: Path) -> None:
    training = Passes(passes=2)

    def fail(step: int, number: int) -> None:
        if step == 2:
            with pytest.raises(RuntimeError, match="of its own"):
                failing().backward()

    def failing() -> torch.Tensor:
        y = training.model(torch.ones(1, 3))
        y.register_hook(raise_it)
        return y.sum()

    def raise_it(gradient: torch.Tensor) -> None:
        raise RuntimeError("of its own")

    training.between = fail
    found = rows_of(training.run(tmp_path, 5))
    assert sorted(found) == [0, 1, 3, 4], "what the broken pass has left is not known"


def test_passes_of_steps_that_are_not_sampled_leave_nothing_to_compare_with(tmp_path: Path) -> None:
    """With the first of them a step would be said to have clipped its gradients to nothing."""
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=Plan(coherence=3)) as run:
        run.watch(small())
        accumulation = run._stepper.coherence.accumulation
    accumulation.is_sampling = False
    for _ in range(3):
        accumulation.before_pass(torch.ones((), requires_grad=True) * 1)
        accumulation.after_pass()
        assert not accumulation.has_measured


def test_passes_of_several_loss_scales_are_not_compared(tmp_path: Path) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=ALWAYS) as run:
        run.watch(model)
        for step in range(4):
            optimizer.zero_grad()
            for scale in (1024.0, 1024.0 if step % 2 else 2048.0):
                (loss_of(model, step) * torch.tensor(scale)).backward()
            optimizer.step()
    assert sorted(rows_of(run.path)) == [1, 3]
