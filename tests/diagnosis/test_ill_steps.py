"""Real trainings whose steps are ill in one way. Oracle: what the test did to them; `trainings.HEALTHY` holds their twins."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weighbridge
from tests.diagnosis.trainings import Batch, Training, seeded, sgd_mlp, train
from weighbridge.diagnosis import Finding


def told(training: Training, where: Path, rule: str, steps: int = 40) -> Finding:
    """The one finding of this rule."""
    diagnosis = weighbridge.diagnose(train(training, where, steps))
    (found,) = [finding for finding in diagnosis if finding.rule == rule]
    return found


def _clipped(training: Training, limit: float, how: str) -> None:
    model = training.model

    def clip(*_: object) -> None:
        if how == "norm":
            nn.utils.clip_grad_norm_(model.parameters(), limit)
        elif how == "value":
            nn.utils.clip_grad_value_(model.parameters(), limit)
        else:
            size = torch.sqrt(sum((p.grad**2).sum() for p in model.parameters()))
            for p in model.parameters():
                p.grad.mul_(limit / size)

    training.optimizers[0].register_step_pre_hook(clip)


@pytest.mark.parametrize(("how", "limit"), [("norm", 1e-4), ("by hand", 1e-4), ("value", 1e-6)])
def test_clipping_to_next_to_nothing(how: str, limit: float, tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    _clipped(training, limit, how)
    found = told(training, tmp_path, "overtight-clipping")
    assert (found.place, found.first_step, found.told_step) == ("", 0, 2)


@pytest.mark.parametrize(("limit", "is_told"), [(1e-7, True), (1e-3, False)])
def test_clipping_by_value_that_begins_in_mid_run(limit: float, is_told: bool, tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    count = itertools.count()

    def clip(*_: object) -> None:
        if next(count) >= 30:
            nn.utils.clip_grad_value_(training.model.parameters(), limit)

    training.optimizers[0].register_step_pre_hook(clip)
    diagnosis = weighbridge.diagnose(train(training, tmp_path, 50))
    found = [(f.first_step, f.told_step) for f in diagnosis if f.rule == "overtight-clipping"]
    assert found == ([(30, 32)] if is_told else [])


def test_decay_that_kills_the_weights(tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    training.optimizers = [torch.optim.SGD(training.model.parameters(), lr=0.1, weight_decay=1.0)]
    found = told(training, tmp_path, "excessive-weight-decay")
    assert (found.place, found.first_step, found.told_step) == ("", 0, 2)


def test_eps_of_one(tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    training.optimizers = [torch.optim.Adam(training.model.parameters(), lr=1e-4, eps=1.0)]
    assert told(training, tmp_path, "dominant-epsilon").told_step == 2


def test_one_tensor_s_gradient_jumps(tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    training.optimizers = [torch.optim.SGD(training.model.parameters(), lr=0.02)]
    count = itertools.count()

    def jump(*_: object) -> None:
        if next(count) == 25:
            training.model[2].weight.grad.mul_(1000.0)

    training.optimizers[0].register_step_pre_hook(jump)
    found = told(training, tmp_path, "gradient-spike")
    assert (found.place, found.first_step, found.told_step) == ("2.weight", 25, 25)


def test_one_batch_in_another_unit(tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    training.optimizers = [torch.optim.Adam(training.model.parameters(), lr=1e-3)]
    count = itertools.count()
    plain = training.loss
    training.loss = lambda batch: plain((batch[0] * 300 if next(count) == 30 else batch[0], batch[1]))
    found = told(training, tmp_path, "loss-spike")
    assert (found.place, found.first_step) == ("", 30)


def test_gradients_that_grow_under_a_slow_beta(tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 64))
    training.model, count = model, itertools.count()
    training.optimizers = [torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.9999))]

    def loss(batch: Batch) -> torch.Tensor:
        scale = 1.0 + max(0, next(count) - 60)
        return F.mse_loss(model(batch[0] * scale), batch[0] * scale)

    training.loss = loss
    found = told(training, tmp_path, "stale-second-moment", 90)
    assert 61 <= found.first_step <= 65


def test_a_loss_too_small_for_float16(tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    model = training.model.half()
    training.optimizers = [torch.optim.SGD(model.parameters(), lr=0.1)]
    training.loss = lambda batch: F.cross_entropy(model(batch[0].half()).float(), batch[1]) * 1e-5
    assert told(training, tmp_path, "gradient-underflow").told_step == 2
