"""The factor of clipping by the user's own code. Oracle: the factor that the test itself multiplies the gradients with."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

import weighbridge
from tests.capture.oracle import table
from tests.capture.test_accumulation import ALWAYS, Passes, factors, loss_of, rows_of, sizes_of, small
from weighbridge import Plan


def own_clip(model: nn.Module, most: float) -> float:
    norm = math.sqrt(sum(sizes_of(model).values()))
    factor = min(1.0, most / norm)
    for p in model.parameters():
        p.grad *= factor
    return factor


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_factor_of_the_user_s_own_clipping(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 50), nn.Tanh(), nn.Linear(50, 1)).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    expected = []
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=ALWAYS) as run:
        run.watch(model)
        for step in range(12):
            optimizer.zero_grad()
            model(torch.randn(4, 3).to(dtype)).square().mean().backward()
            expected.append(own_clip(model, 0.3 + 0.1 * step))
            optimizer.step()
    assert factors(run.path) == pytest.approx(expected, rel=1e-5 if dtype is not torch.bfloat16 else 1e-2)
    assert min(expected) < 0.9 < max(expected)


def test_clipping_with_a_norm_that_is_known_already(tmp_path: Path) -> None:
    """As of shards, of which each knows the norm of all: at every step, from parameters that are given one by one."""
    training = Passes(passes=1)
    expected = []
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=Plan(coherence=5)) as run:
        run.watch(training.model)
        for step in range(6):
            training.step(step)
            norm = torch.tensor(math.sqrt(sum(sizes_of(training.model).values())) * 2)  # with the other shard's
            torch.nn.utils.clip_grads_with_norm_((p for p in training.model.parameters()), 0.01, norm)
            expected.append(min(1.0, 0.01 / norm.item()))
            training.optimizer.step()
    assert factors(run.path) == pytest.approx(expected, rel=1e-3)
    assert max(expected) < 1


def test_at_other_steps_it_is_not_looked_for(tmp_path: Path) -> None:
    training = Passes(passes=1)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=Plan(coherence=5)) as run:
        run.watch(training.model)
        for step in range(12):
            training.step(step)
            own_clip(training.model, 0.01)
            training.optimizer.step()
    assert [math.isnan(factor) for factor in factors(run.path)] == [step % 5 != 0 for step in range(12)]


def by_value(model: nn.Module) -> None:
    for p in model.parameters():
        p.grad.clamp_(-0.01, 0.01)


def tensor_by_tensor(model: nn.Module) -> None:
    for p in model.parameters():
        p.grad *= min(1.0, 0.01 / float(p.grad.norm()))


def torch_tensor_by_tensor(model: nn.Module) -> None:
    for p in model.parameters():
        clip_grad_norm_([p], 0.01)


def half_of_them(model: nn.Module) -> None:
    next(model.parameters()).grad *= 0.5


def noise(model: nn.Module) -> None:
    for p in model.parameters():
        p.grad += 1e-3 * torch.randn(p.shape)


def averaged(model: nn.Module) -> None:
    for p in model.parameters():
        p.grad /= 3


def set_to_zero(model: nn.Module) -> None:
    model.zero_grad(set_to_none=False)


@pytest.mark.parametrize(
    "change", [by_value, tensor_by_tensor, torch_tensor_by_tensor, half_of_them, noise, averaged, set_to_zero]
)
def test_what_is_not_one_factor_for_all_is_none(tmp_path: Path, change: Callable[[nn.Module], None]) -> None:
    training = Passes(passes=3 if change is averaged else 1)
    path = training.run(tmp_path, 6, before_step=lambda step: change(training.model))
    assert all(math.isnan(factor) for factor in factors(path)), factors(path)


def test_what_a_step_inside_a_backward_pass_has_used_is_compared_with_nothing(tmp_path: Path) -> None:
    """Of one number the gradients of two passes are always in proportion."""
    model = nn.Linear(1, 1, bias=False)
    optimizer, passes = torch.optim.SGD(model.parameters(), lr=0.01), 0

    def step(parameter: torch.Tensor) -> None:
        nonlocal passes
        passes += 1
        if passes % 2 == 0:
            optimizer.step()
            optimizer.zero_grad()

    model.weight.register_post_accumulate_grad_hook(step)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=ALWAYS) as run:
        run.watch(model)
        for number in range(10):
            (model(torch.ones(1, 1) + number) / 2).sum().backward()
    assert len(factors(run.path)) == 5
    assert all(math.isnan(factor) for factor in factors(run.path))
    assert rows_of(run.path) == {}


def test_a_division_of_the_loss_taken_back_is_no_clipping(tmp_path: Path) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=ALWAYS) as run:
        run.watch(model)
        for step in range(4):
            optimizer.zero_grad()
            (loss_of(model, step) / 4).backward()
            for p in model.parameters():
                assert p.grad is not None
                p.grad *= 4
            optimizer.step()
    assert all(math.isnan(factor) for factor in factors(run.path))


def test_a_gradient_that_was_zero_and_is_not_has_no_factor(tmp_path: Path) -> None:
    model = small()
    model.extra = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=ALWAYS) as run:
        run.watch(model)
        for step in range(4):
            optimizer.zero_grad()
            (loss_of(model, step) + (0 * model.extra).sum()).backward()
            if step % 2:
                model.extra.grad += 1
            optimizer.step()
    assert factors(run.path) == pytest.approx([1.0, math.nan] * 2, nan_ok=True)


def test_one_tensor_clipped_by_value_has_no_factor(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(9, 4, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=ALWAYS) as run:
        run.watch(model)
        for _ in range(6):
            optimizer.zero_grad()
            model(torch.randn(3, 9)).square().mean().backward()
            by_value(model)
            optimizer.step()
    assert all(math.isnan(factor) for factor in factors(run.path))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize("scale", [1024.0, 1000.0])
def test_the_loss_scale_is_no_clipping(tmp_path: Path, fused: bool, clips: bool, scale: float) -> None:
    """1,000 is no scale that would be known as one: then nothing is said, rather than that 1 / 1,000 was clipping."""
    model, expected = small(), []
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=10**6)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=ALWAYS) as run:
        run.watch(model)
        for step in range(8):
            optimizer.zero_grad()
            scaler.scale(loss_of(model, step)).backward()
            if clips:
                scaler.unscale_(optimizer)
            expected.append(own_clip(model, 0.05) if clips else 1.0)
            scaler.step(optimizer)
            scaler.update()
    found = factors(run.path)
    if scale == 1024.0:
        assert found == pytest.approx(expected, rel=1e-5)
    else:
        assert all(math.isnan(factor) for factor in found)


def test_a_second_optimizer_that_uses_the_same_pass_has_its_factor_too(tmp_path: Path) -> None:
    model, expected = small(), []
    optimizers = [torch.optim.SGD(model[i].parameters(), lr=0.1) for i in (0, 2)]
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=ALWAYS) as run:
        run.watch(model)
        for step in range(5):
            model.zero_grad()
            scaler.scale(loss_of(model, step)).backward()
            for optimizer in optimizers:
                scaler.unscale_(optimizer)
            expected.append(own_clip(model, 0.05))
            for optimizer in optimizers:
                scaler.step(optimizer)
            scaler.update()
    assert factors(run.path) == pytest.approx([factor for factor in expected for _ in optimizers], rel=1e-5)


def test_what_was_not_zero_before_the_pass_may_have_been_averaged(tmp_path: Path) -> None:
    """The passes of one model are looked at from its second on only: the step of another one came between."""
    one, other = small(), small()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (one, other)]
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=ALWAYS) as run:
        run.watch(one)
        run.watch(other)
        for step in range(8):
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss_of(one, step).backward()
            loss_of(other, step).backward()
            optimizers[1].step()
            loss_of(one, 100 + step).backward()
            for p in one.parameters():
                assert p.grad is not None
                p.grad /= 2
            optimizers[0].step()
    expected = {0: 1.0, 1: math.nan}  # in the order in which they stepped first
    for row in table(run.path, "steps"):
        assert row["clip_factor"] == pytest.approx(expected[row["optimizer"]], nan_ok=True)


@pytest.mark.parametrize("divides", [True, False])
def test_clipping_of_a_sum_that_may_have_been_averaged_is_not_certain(tmp_path: Path, divides: bool) -> None:
    model, expected = small(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=ALWAYS) as run:
        run.watch(model)
        for step in range(5):
            optimizer.zero_grad()
            for number in range(4):
                (loss_of(model, 10 * step + number) / (4 if divides else 1)).backward()
            expected.append(own_clip(model, 0.02))
            optimizer.step()
    assert max(expected) < 1
    assert factors(run.path) == pytest.approx(expected if divides else [math.nan] * 5, nan_ok=True)


@pytest.mark.parametrize("most", [math.inf, 0.01])
def test_a_scale_taken_out_by_hand_is_no_clipping(tmp_path: Path, most: float) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=ALWAYS) as run:
        run.watch(model)
        for step in range(5):
            optimizer.zero_grad()
            (loss_of(model, step) * 128).backward()
            for p in model.parameters():
                assert p.grad is not None
                p.grad /= 128
            own_clip(model, most)
            optimizer.step()
    assert all(math.isnan(factor) for factor in factors(run.path))


def test_torch_s_own_clipping_stays_what_it_is(tmp_path: Path) -> None:
    model, expected = small(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        for step in range(30):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            expected.append(min(1.0, 0.05 / (float(clip_grad_norm_(model.parameters(), 0.05)) + 1e-6)))
            optimizer.step()
    assert factors(run.path) == pytest.approx(expected)


def test_clipping_of_all_parameters_the_first_of_them_frozen_is_the_optimizer_s(tmp_path: Path) -> None:
    """Fine-tuning: torch is given all parameters, the optimizer only those that learn. Sampled at no step but the first."""
    model = small()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    expected = []
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=Plan(coherence=False)) as run:
        run.watch(model)
        for step in range(3):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            expected.append(0.01 / (float(clip_grad_norm_(model.parameters(), 0.01)) + 1e-6))
            optimizer.step()
    assert factors(run.path) == pytest.approx(expected)
