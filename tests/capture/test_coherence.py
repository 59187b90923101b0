"""Successive gradients. Oracle: clones of the gradients at each step (oracle.py) and their products in NumPy float64; of
large tensors, of their weighbridge.reference.sketch, which must be near those of the tensors themselves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import weighbridge
from tests.capture.gradient_pairs import ALWAYS, check_pairs, cosine, follow, model_and_loss, no_nan, pairs, plainly, steps_of
from tests.capture.oracle import Oracle, events, table
from tests.capture.test_right_scaled import OVERFLOWS, Scaled
from tests.programs import PROGRAMS
from weighbridge import Plan, Schedule
from weighbridge.capture import optimizers as optimizers_module
from weighbridge.capture import stepper as stepper_module
from weighbridge.capture.budget import Level
from weighbridge.capture.coherence import NOT_ON_DEVICES
from weighbridge.capture.sketch import WHOLE_ELEMENTS
from weighbridge.records import SKETCH_NUMBERS

DEFAULT_STEPS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 19, 25, 31, 39, 50, 63, 79, 100, 125]


@pytest.mark.parametrize("kernel", ["native", "torch"])
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam])
def test_of_a_usual_training_at_the_steps_of_the_plan(
    tmp_path: Path, make: Callable[..., torch.optim.Optimizer], kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_KERNEL", kernel)
    model, loss = model_and_loss()
    plan = None if kernel == "native" else Plan(activations=False, activation_gradients=False, sentinel=False)
    path, oracle = follow(tmp_path, model, plan=plan, loop=plainly(make(model.parameters(), lr=0.01), loss, 130))
    found = check_pairs(path, oracle)
    for name, _ in model.named_parameters():
        assert steps_of(found, name) == DEFAULT_STEPS
    assert all(row["step_before"] == step - 1 for (step, _), row in found.items())
    record = weighbridge.open_run(path)
    for name, parameter in model.named_parameters():
        seen = record.coherence(name)
        assert seen.steps.tolist() == DEFAULT_STEPS
        exact = [cosine(oracle, name, step) for step in DEFAULT_STEPS]
        if parameter.numel() <= WHOLE_ELEMENTS:
            assert seen.cosine == pytest.approx(exact, abs=1e-12)
            assert not seen.errors.any()
        else:
            off = np.abs(seen.cosine - exact)
            assert (off <= 4 / math.sqrt(SKETCH_NUMBERS)).all()
            assert np.median(off / seen.errors) < 2
    assert np.abs(np.array(exact)).max() > 0.5, "else the test has compared noise with noise"


@pytest.mark.parametrize(
    ("coherence", "expected"),
    [
        (True, list(range(1, 20))),
        (4, [4, 8, 12, 16]),
        (Schedule(first=3, every=7), [1, 2, 7, 14]),
        (Schedule(first=1), []),
        (False, []),
    ],
)
def test_a_plan_says_which_steps(tmp_path: Path, coherence: Any, expected: list[int]) -> None:
    model, loss = model_and_loss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    path, oracle = follow(tmp_path, model, plan=Plan(coherence=coherence), loop=plainly(optimizer, loss, 20))
    assert steps_of(check_pairs(path, oracle)) == expected


def test_gradients_of_a_plan_without_them_can_be_compared_all_the_same(tmp_path: Path) -> None:
    model, loss = model_and_loss()
    plan = Plan(parameters=5, gradients=False, updates=False, coherence=True)
    path, oracle = follow(tmp_path, model, plan=plan, loop=plainly(torch.optim.SGD(model.parameters(), lr=0.01), loss, 8))
    assert steps_of(check_pairs(path, oracle)) == list(range(1, 8))


def test_nothing_is_kept_or_read_between_the_steps_of_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, loss = model_and_loss()
    kept, sketches = [], []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with weighbridge.init(dir=tmp_path, quiet=True, plan=Plan(coherence=10)) as run:
        run.watch(model)
        kernel = run._stepper.kernel
        original = kernel.sketch
        monkeypatch.setattr(kernel, "sketch", lambda items: sketches.append(len(items)) or original(items))
        for step in range(25):
            sketches.clear()
            optimizer.zero_grad()
            loss(step).backward()
            optimizer.step()
            (stepped,) = run._stepper.optimizers.known.values()
            held = stepped.pair.kept
            kept.append((bool(sketches), held is not None, held is not None and held.numbers.size))
            assert bool(run._stepper.coherence.accumulation.weighed) is False
    numbers = 210 + 70 + SKETCH_NUMBERS + 70 + 70 + 1
    at_rest = (False, False, False)
    expected = [(True, False, False), *[at_rest] * 8, (True, True, numbers), (True, False, False)]
    assert kept == [*expected, *[at_rest] * 8, *expected[-2:], *[at_rest] * 4]


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_a_grad_scaler_leaves_out_is_compared_with_none(tmp_path: Path, fused: bool) -> None:
    training = Scaled(fused)
    path, oracle = follow(tmp_path, training.model, plan=ALWAYS, loop=lambda oracle: training.run(14, oracle.step))
    found = check_pairs(path, oracle)
    for name, _ in training.model.named_parameters():  # only one of them was not finite
        assert steps_of(found, name) == [s for s in range(1, 14) if not {s, s - 1} & set(OVERFLOWS)]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_of_a_gradient_that_is_not_finite_there_is_no_row(tmp_path: Path, bad: float) -> None:
    model, loss = model_and_loss()

    def change(step: int) -> None:
        if step in (4, 9):
            assert model[2].weight.grad is not None
            model[2].weight.grad[5, 5] = bad
        if step == 9:
            assert model[0].bias.grad is not None
            model[0].bias.grad[1] = bad

    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with torch.no_grad():
        path, oracle = follow(tmp_path, model, plan=ALWAYS, loop=no_nan(plainly(optimizer, loss, 15, change), model))
    found = check_pairs(path, oracle)
    assert steps_of(found, "0.weight") == list(range(1, 15))
    assert steps_of(found, "2.weight") == [s for s in range(1, 15) if not {s, s - 1} & {4, 9}]
    assert steps_of(found, "0.bias") == [s for s in range(1, 15) if not {s, s - 1} & {9}]
    together = weighbridge.open_run(path).coherence()
    assert together.steps.tolist() == steps_of(found, "2.weight"), "a part is never shown as the whole"


@pytest.mark.parametrize("name", PROGRAMS)
def test_bits_of_the_training_are_the_same(name: str, tmp_path: Path) -> None:
    program = PROGRAMS[name]
    losses, weights = program(30, lambda model: None)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=ALWAYS) as run:
        watched_losses, watched_weights = program(30, run.watch)
    assert watched_losses == losses
    assert all(torch.equal(a, b) for a, b in zip(watched_weights, weights, strict=True))
    assert {row["step"] for row in table(run.path, "coherence")} == set(range(1, 30))


def test_a_budget_asks_for_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Scripted(stepper_module.Budget):
        def add(self, own_ns: int, wall_ns: int) -> Any:
            self.told = getattr(self, "told", 0) + 1
            if self.told != 10:
                return None
            self.number = self.levels.index(Level(False, 2))
            return self._to(self.number, 0.1, 0.02, 1e6)

    monkeypatch.setattr(stepper_module, "Budget", Scripted)
    model, loss = model_and_loss()
    plan = Plan(coherence=True, budget=0.02)
    path, oracle = follow(tmp_path, model, plan=plan, loop=plainly(torch.optim.SGD(model.parameters(), lr=0.01), loss, 41))
    steps = steps_of(check_pairs(path, oracle))
    assert steps[:10] == list(range(1, 11))
    assert len(steps) in (24, 25, 26)
    assert all(b - a == 2 for a, b in itertools.pairwise(steps[12:]))


def test_of_tensors_on_a_device_the_run_says_that_they_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The biases are treated as if they were on another device."""
    monkeypatch.setattr(optimizers_module, "is_direct", lambda parameter: parameter.dim() == 2)
    model, loss = model_and_loss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=ALWAYS) as run:
        run.watch(model)
        plainly(optimizer, loss, 5)(Oracle(model))
    assert {name for _, name in pairs(run.path)} == {"0.weight", "2.weight", "4.weight"}
    said = [event for event in events(run.path, "reduced") if NOT_ON_DEVICES in event.message]
    assert [event.step for event in said] == [0]
    assert all(math.isnan(row["clip_factor"]) for row in table(run.path, "steps")), "nobody looked at the biases"
