"""Faults that come in mid-run, in the ways in which strangers make them. Oracle: what the test puts into the training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import weighbridge
from tests.diagnosis.trainings import seeded, sgd_mlp, train
from tests.diagnosis.ways import told_by

# ---- parameter-in-no-optimizer, in mid-run ----

NO_OPTIMIZER = "parameter-in-no-optimizer"


def _thaw(model: nn.Sequential) -> None:
    model[0].requires_grad_(True)


def _replace(model: nn.Sequential) -> None:
    for layer in (model[0], model[2]):
        layer.weight = nn.Parameter(layer.weight.detach().clone())


def _prune(model: nn.Sequential) -> None:
    """What torch prunes, it puts under another name."""
    for layer in (model[0], model[2]):
        name = "weight"
        old = getattr(layer, name)
        layer.register_parameter(f"{name}_orig", nn.Parameter(old.detach().clone()))
        delattr(layer, name)
        layer.register_buffer("mask", (old.abs() > old.abs().median()).float())
        layer.register_forward_pre_hook(lambda m, _: setattr(m, "weight", m.weight_orig * m.mask))


@pytest.mark.parametrize("is_ill", [True, False])
@pytest.mark.parametrize(
    ("change", "places"),
    [
        (_thaw, {"0"}),
        (_replace, {"0.weight", "2.weight"}),
        (_prune, {f"{i}.{name}" for i in (0, 2) for name in ("weight", "weight_orig")}),
    ],
)
def test_what_changes_in_mid_run_and_no_optimizer_is_told_of(
    change: Callable[[nn.Sequential], None], places: set[str], is_ill: bool, tmp_path: Path
) -> None:
    training = seeded(sgd_mlp)
    model = training.model
    if change is _thaw:
        model[0].requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)

    def step(i: int) -> None:
        nonlocal optimizer
        if i == 12:
            change(model)
            if not is_ill:
                optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        optimizer.zero_grad()
        training.loss(next(training.batches)).backward()
        optimizer.step()

    told = told_by(model, step, tmp_path, 40, NO_OPTIMIZER)
    assert {place for place, _, _ in told} == (places if is_ill else set())
    assert all(severity == "warning" and step <= 20 for _, step, severity in told)


# ---- losses without a lowest value, schedules that end too soon ----


@pytest.mark.parametrize(
    ("losses", "is_worse"),
    [
        ([1.0, -11.0, -11.0, -11.0], True),
        ([1.0, -11.0, -11.0], False),
        ([1.0, -10.0, -10.0, -10.0], False),
        ([-1.0] * 9, False),
    ],
)
def test_a_loss_that_falls_without_end_is_no_better(losses: list[float], is_worse: bool) -> None:
    from weighbridge.diagnosis.worse import Worse

    worse = Worse()
    assert [worse.read(loss) for loss in losses][-1] is is_worse


@pytest.mark.parametrize(("decay", "is_told"), [(0.5, True), (0.999, False)])
def test_a_schedule_that_ends_too_soon_though_one_batch_is_easy(decay: float, is_told: bool, tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    training.optimizers = [torch.optim.SGD(training.model.parameters(), lr=0.02)]
    training.schedule = torch.optim.lr_scheduler.ExponentialLR(training.optimizers[0], decay)
    plain, count = training.loss, iter(range(1000))
    training.loss = lambda batch: plain(batch) * (0.3 if next(count) == 12 else 1.0)
    told = [f for f in weighbridge.diagnose(train(training, tmp_path, 40)) if f.rule == "low-learning-rate"]
    assert bool(told) == is_told


# ---- what ends in mid-run ----


@pytest.mark.parametrize("how", ["no step", "steps", "by hand"])
def test_steps_that_end_in_mid_run(how: str, tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    optimizer = training.optimizers[0]

    def step(i: int) -> None:
        optimizer.zero_grad()
        training.loss(next(training.batches)).backward()
        if i < 30 or how == "steps":
            optimizer.step()
        elif how == "by hand":
            with torch.no_grad():
                for parameter in training.model.parameters():
                    parameter -= 0.1 * parameter.grad

    told = told_by(training.model, step, tmp_path, 60, "step-not-taken")
    assert told == ([("", 30, "warning")] if how == "no step" else [])


# ---- weights that all start as one, though their biases do not ----


def _constant(model: nn.Sequential) -> None:
    for layer in model[::2]:
        nn.init.constant_(layer.weight, 0.1)


def _last(model: nn.Sequential) -> None:
    nn.init.constant_(model[4].weight, 0.1)


def _zero(model: nn.Sequential) -> None:
    for layer in model[::2]:
        nn.init.zeros_(layer.weight)


def _zero_last(model: nn.Sequential) -> None:
    nn.init.zeros_(model[4].weight)


@pytest.mark.parametrize(
    ("start", "told"),
    [
        (_constant, {("0", 2, "warning"), ("2", 2, "warning")}),
        (_last, set()),
        (_zero, {("0", 0, "error"), ("2", 0, "error")}),
        (_zero_last, set()),
    ],
)
def test_weights_without_a_difference_and_biases_with_one(
    start: Callable[[nn.Sequential], None], told: set[tuple[str, int, str]], tmp_path: Path
) -> None:
    training = seeded(sgd_mlp)
    start(training.model)

    def step(_: int) -> None:
        training.optimizers[0].zero_grad()
        training.loss(next(training.batches)).backward()
        training.optimizers[0].step()

    assert set(told_by(training.model, step, tmp_path, 12, "symmetric-initialisation")) == told
