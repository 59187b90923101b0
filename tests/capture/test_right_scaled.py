"""Oracle: oracle.py and output_oracle.py; GradScaler's own scale and torch's own returned norm, kept by the test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

import weighbridge
from tests.capture.oracle import GRADIENT, UPDATE, events, recorded_rows, table, watched
from tests.capture.output_oracle import EVERYTHING, Truth, check_outputs, data, output_rows, sequential_truth, unwatched
from tests.capture.output_oracle import train as train_outputs
from weighbridge.records import Quantity

SCALE = 1024.0
LARGE = 65_536.0
OVERFLOWS = (3, 4, 9)


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))


def batch(step: int) -> torch.Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(step))


def steps_of(path: Path) -> list[dict[str, Any]]:
    return sorted(table(path, "steps"), key=lambda row: row["step"])


class Scaled:
    """A training with a GradScaler; on some steps one gradient overflows. `step` is what the oracle follows."""

    def __init__(self, fused: bool, micro: int = 1) -> None:
        self.model, self.micro = small(), micro
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01, fused=fused)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, growth_interval=4)
        self.scales: list[float] = []
        self.losses: list[float] = []
        self.param_groups = self.optimizer.param_groups

    def step(self, *nothing: object) -> None:
        """Where a training would call `optimizer.step()`."""
        self.scaler.step(self.optimizer)

    def run(self, steps: int, step: Callable[[Any], None]) -> None:
        for number in range(steps):
            self.optimizer.zero_grad()
            self.scales.append(self.scaler.get_scale())
            for _ in range(self.micro):
                loss = self.model(batch(number)).square().mean() / self.micro
                self.losses.append(loss.item() * self.micro)
                factor = torch.tensor(float("inf")) if number in OVERFLOWS else torch.tensor(1.0)
                self.scaler.scale(loss).backward()
                if number in OVERFLOWS:
                    next(self.model.parameters()).grad.view(-1)[0] *= factor  # type: ignore[union-attr]
            step(self)
            self.scaler.update()


@pytest.mark.parametrize("micro", [1, 3])
@pytest.mark.parametrize("fused", [False, True])
def test_a_grad_scaler_s_steps_and_those_that_it_leaves_out(tmp_path: Path, fused: bool, micro: int) -> None:
    training = Scaled(fused, micro)
    with watched(tmp_path, training.model) as (run, oracle):
        training.run(14, oracle.step)  # type: ignore[arg-type]
    rows = steps_of(run.path)
    assert [row["step"] for row in rows] == list(range(14))
    assert [row["step"] for row in rows if row["skipped"]] == list(OVERFLOWS)
    assert [row["found_inf"] > 0 for row in rows] == [row["skipped"] for row in rows]
    assert [row["loss_scale"] for row in rows] == training.scales
    assert len(set(training.scales)) > 2  # it has really moved
    assert [row["backward_passes"] for row in rows] == [micro] * 14
    assert [row["loss"] for row in rows] == pytest.approx(
        [np.mean(training.losses[i * micro : (i + 1) * micro]) for i in range(14)]
    )
    found = recorded_rows(run.path)
    for step in OVERFLOWS:
        assert found[step, "0.weight", UPDATE]["zero"] == 15
        assert found[step, "0.weight", GRADIENT]["pos_inf"] + found[step, "0.weight", GRADIENT]["neg_inf"] == 1


@pytest.mark.parametrize("fused", [False, True])
def test_watching_a_grad_scaler_changes_no_bit(tmp_path: Path, fused: bool) -> None:
    plain, watched = Scaled(fused), Scaled(fused)
    plain.run(14, Scaled.step)
    with weighbridge.init(dir=tmp_path, quiet=True) as run:
        run.watch(watched.model)
        watched.run(14, Scaled.step)
    assert watched.losses == plain.losses
    assert watched.scales == plain.scales
    assert all(torch.equal(a, b) for a, b in zip(watched.model.parameters(), plain.model.parameters(), strict=True))


def test_an_unwatched_model_s_overflow_is_none_of_ours(tmp_path: Path) -> None:
    training, other = Scaled(fused=False), small()
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(other)
        training.run(6, Scaled.step)
    assert table(run.path, "steps") == []


@pytest.mark.parametrize("imported_before", [True, False])
@pytest.mark.parametrize("foreach", [True, False])
def test_the_factor_of_clipping_and_the_gradient_as_it_was_used(tmp_path: Path, foreach: bool, imported_before: bool) -> None:
    model, norms = small(), []
    clip = clip_grad_norm_ if imported_before else lambda *a, **k: torch.nn.utils.clip_grad_norm_(*a, **k)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watched(tmp_path, model) as (run, oracle):
        for step in range(10):
            optimizer.zero_grad()
            (model(batch(step)).square().mean() * (1 + 8 * step)).backward()
            if step != 5:
                norms.append(float(clip(model.parameters(), 1.0, foreach=foreach)))
            oracle.step(optimizer)
    factors = [row["clip_factor"] for row in steps_of(run.path)]
    assert factors.pop(5) == 1.0  # looked at: nothing was done
    assert factors == pytest.approx([min(1.0, 1.0 / (norm + 1e-6)) for norm in norms])
    assert min(factors) < 0.9 < max(factors)  # the test has clipped, and has not


def test_clipping_by_value_leaves_the_clipped_gradient(tmp_path: Path) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watched(tmp_path, model) as (run, oracle):
        for step in range(6):
            optimizer.zero_grad()
            (model(batch(step)).square().mean() * 9).backward()
            clip_grad_value_(model.parameters(), 0.05)
            oracle.step(optimizer)
    assert max(row["max"] for key, row in recorded_rows(run.path).items() if key[2] is GRADIENT) == pytest.approx(0.05)


def test_two_models_are_clipped_apart(tmp_path: Path) -> None:
    one, two = small(), small()
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (one, two)]
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(one)
        run.watch(two)
        for model in (one, two):
            (model(batch(0)).square().mean() * 9).backward()
        norm = float(clip_grad_norm_(two.parameters(), 0.5))
        for optimizer in optimizers:
            optimizer.step()
    factors = [row["clip_factor"] for row in sorted(table(run.path, "steps"), key=lambda row: row["optimizer"])]
    assert factors[0] == 1.0
    assert factors[1] == pytest.approx(0.5 / (norm + 1e-6))


def test_torch_has_its_own_functions_back_when_nothing_is_watched(tmp_path: Path) -> None:
    before = torch.nn.utils.clip_grad._clip_grads_with_norm_, torch.amp.GradScaler._maybe_opt_step
    model = small()
    with weighbridge.init(dir=tmp_path, quiet=True) as run:
        run.watch(model)
        assert torch.nn.utils.clip_grad._clip_grads_with_norm_ is not before[0]
    assert (torch.nn.utils.clip_grad._clip_grads_with_norm_, torch.amp.GradScaler._maybe_opt_step) == before


def test_autocast_in_bfloat16_weighs_the_float_weights_and_their_gradients(tmp_path: Path) -> None:
    model = small()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with watched(tmp_path, model) as (run, oracle):
        for step in range(6):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(batch(step)).float().square().mean()
            loss.backward()
            oracle.step(optimizer)
    assert events(run.path, "warned") == []


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def square(y: torch.Tensor) -> torch.Tensor:
    return y.square().mean()


@pytest.mark.parametrize("histogram", [1, 4])
@pytest.mark.parametrize("micro", [1, 3])
def test_a_grad_scaler_s_scale_is_not_in_the_gradient_by_an_output(tmp_path: Path, micro: int, histogram: int) -> None:
    model, truth = network(), Truth()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=LARGE, growth_interval=2)
    plan = weighbridge.Plan(activations=True, activation_gradients=True, moments=False, histogram=histogram)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=plan) as run:
        run.watch(model)
        for step in range(5):
            optimizer.zero_grad()
            for part in range(micro):
                x = data(10 * step + part, 4, 3)
                with unwatched(model):
                    by_hand = sequential_truth(model, lambda step, x=x: x, truth, lambda y: square(y) / micro)
                    by_hand(step)
                scaler.scale(square(model(x)) / micro).backward()
            scaler.step(optimizer)
            scaler.update()
    assert scaler.get_scale() == 4 * LARGE  # it has moved
    check_outputs(run.path, truth, bits=2 if histogram == 4 else 0)


def test_scaled_gradients_beyond_the_histogram_have_none(tmp_path: Path) -> None:
    """2^24 and more lie in one bin: divided by the scale, each would belong to another one. Sums and extremes are right."""
    model, truth = nn.Sequential(nn.Linear(3, 2)), Truth()
    inputs, large = lambda step: data(step, 4, 3), lambda y: (y * 1e4).sum()
    by_hand = sequential_truth(model, inputs, truth, large)
    scaler = torch.amp.GradScaler("cpu", init_scale=LARGE)

    def loss(step: int) -> torch.Tensor:
        scaled: torch.Tensor = scaler.scale(large(model(inputs(step))))
        return scaled

    path = train_outputs(tmp_path, model, loss, 2, truth=by_hand, optimizer=torch.optim.SGD(model.parameters(), lr=0.0))
    for key, row in output_rows(path).items():
        numbers = truth.numbers(key)
        assert (row["min"], row["max"], row["sum"]) == pytest.approx((numbers.min(), numbers.max(), numbers.sum()))
        assert row["hist_count"] == (0 if key[2] is Quantity.ACTIVATION_GRADIENT else numbers.size)
    with pytest.raises(weighbridge.WeighbridgeError, match="without a histogram"):
        weighbridge.open_run(path).histogram("0/out", "activation_gradient", 0)


def test_two_optimizers_after_one_scaled_pass_both_have_its_scale(tmp_path: Path) -> None:
    model, truth = network(), Truth()
    optimizers = [torch.optim.SGD(model[n].parameters(), lr=0.05) for n in (0, 2)]
    scaler = torch.amp.GradScaler("cpu", init_scale=LARGE)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=EVERYTHING) as run:
        run.watch(model)
        for step in range(3):
            model.zero_grad()
            with unwatched(model):
                sequential_truth(model, lambda step: data(step, 4, 3), truth, square)(step)
            scaler.scale(square(model(data(step, 4, 3)))).backward()
            for optimizer in optimizers:
                scaler.step(optimizer)
            scaler.update()
    check_outputs(run.path, truth)
    assert {row["loss_scale"] for row in table(run.path, "steps")} == {LARGE}
