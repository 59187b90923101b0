"""Real trainings with one illness each: the rule, the place and the first step. Oracle: what the test itself did to them.

The healthy twin of each is in `trainings.HEALTHY`, in which no rule may say anything (test_healthy.py).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weighbridge
from tests.diagnosis.trainings import Training, cnn, data, first, mlp, regression, seeded, sgd_mlp, train, wine_dropout
from weighbridge.diagnosis import Diagnosis, Finding


def at(step: int, do: Callable[[], object]) -> Callable[[int], None]:
    """Before this step, this."""

    def also(now: int) -> None:
        if now == step:
            do()

    return also


def only(diagnosis: Diagnosis, rule: str) -> Finding:
    """The one finding of a rule, which is the first of the causes."""
    found = [finding for finding in diagnosis if finding.rule == rule]
    assert len(found) == 1, str(diagnosis)
    assert diagnosis.causes[0] == found[0]
    return found[0]


def diagnosed(training: Training, where: Path, steps: int = 40, plan: object = None) -> Diagnosis:
    return weighbridge.diagnose(train(training, where, steps, plan=plan))


def test_a_layer_that_no_optimizer_holds(tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    training.optimizers = [torch.optim.SGD([*training.model[0].parameters(), *training.model[4].parameters()], lr=0.1)]
    found = only(diagnosed(training, tmp_path), "parameter-in-no-optimizer")
    assert (found.place, found.first_step, found.told_step, found.severity) == ("2", 0, 2, "warning")
    assert [row[0] for row in found.evidence[1].rows] == ["2.weight", "2.bias"]  # type: ignore[union-attr]


def test_a_backbone_left_out_with_gradients_on_is_a_note(tmp_path: Path) -> None:
    """It has been trained before: its numbers are no longer those that torch's layers begin with."""
    training = seeded(sgd_mlp)
    with torch.no_grad():
        for parameter in training.model[:4].parameters():
            parameter.mul_(1.2)
    training.optimizers = [torch.optim.SGD(training.model[4].parameters(), lr=0.1)]
    diagnosis = diagnosed(training, tmp_path)
    assert {(f.rule, f.severity) for f in diagnosis} == {("parameter-in-no-optimizer", "note")}


def test_a_layer_behind_a_detach_gets_no_gradient(tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    model = training.model
    training.loss = lambda b: F.cross_entropy(model[2:](model[:2](b[0]).detach()), b[1])
    found = only(diagnosed(training, tmp_path), "parameter-without-gradient")
    assert (found.place, found.first_step, found.told_step) == ("0", 0, 2)


def test_a_model_that_nobody_steps(tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    training.optimizers = []
    found = only(diagnosed(training, tmp_path), "step-not-taken")
    assert found.severity == "error"
    assert found.evidence[0].value == 40  # type: ignore[union-attr]


def test_an_optimizer_of_a_copy_steps_nothing_of_the_model(tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    training.optimizers = [torch.optim.SGD(copy.deepcopy(training.model).parameters(), lr=0.1)]
    assert only(diagnosed(training, tmp_path), "step-not-taken").place == ""


class _NeverZeroed(torch.optim.SGD):
    def zero_grad(self, set_to_none: bool = True) -> None:
        pass


@pytest.mark.parametrize("clip", [0.0, 0.5], ids=["unclipped", "clipped"])
def test_gradients_that_nobody_zeroes(clip: float, tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    optimizer = _NeverZeroed(training.model.parameters(), lr=0.01)
    if clip:
        optimizer.register_step_pre_hook(lambda *_: nn.utils.clip_grad_norm_(training.model.parameters(), clip) and None)
    training.optimizers = [optimizer]
    found = only(diagnosed(training, tmp_path), "gradients-not-zeroed")
    assert (found.first_step, found.told_step) == (1, 3)


def test_gradients_that_nobody_zeroes_behind_norms(tmp_path: Path) -> None:
    training = seeded(cnn)
    training.optimizers = [_NeverZeroed(training.model.parameters(), lr=0.001)]
    assert only(diagnosed(training, tmp_path), "gradients-not-zeroed").told_step <= 4


class _Masked(torch.optim.SGD):
    """Puts one tensor back after each step."""

    kept: nn.Parameter

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        before = self.kept.detach().clone()
        super().step()
        with torch.no_grad():
            self.kept.copy_(before)


def test_a_step_that_is_undone_for_one_parameter(tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    optimizer = _Masked(training.model.parameters(), lr=0.1)
    optimizer.kept = training.model[2].weight
    training.optimizers = [optimizer]
    found = only(diagnosed(training, tmp_path), "gradient-not-applied")
    assert (found.place, found.first_step, found.told_step) == ("2.weight", 0, 2)


def test_updates_that_bfloat16_cannot_hold(tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    model = training.model.bfloat16()
    training.optimizers = [torch.optim.Adam(model.parameters(), lr=1e-5)]
    training.loss = lambda b: F.cross_entropy(model(b[0].bfloat16()).float(), b[1])
    found = only(diagnosed(training, tmp_path), "lost-updates")
    assert found.first_step <= 2
    assert found.evidence[0].value > 0.8  # type: ignore[union-attr]


def test_bfloat16_with_steps_that_it_can_hold_is_healthy(tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    model = training.model.bfloat16()
    training.optimizers = [torch.optim.Adam(model.parameters(), lr=1e-3)]
    training.loss = lambda b: F.cross_entropy(model(b[0].bfloat16()).float(), b[1])
    assert diagnosed(training, tmp_path).findings == ()


@pytest.mark.parametrize("step", [0, 13])
def test_a_model_left_in_evaluation_mode(step: int, tmp_path: Path) -> None:
    training = seeded(wine_dropout)
    training.also = at(step, training.model.eval)
    found = only(diagnosed(training, tmp_path), "evaluation-mode-while-training")
    assert (found.place, found.first_step, found.told_step) == ("2", step, step)


def test_evaluation_mode_where_it_makes_no_difference_is_no_finding(tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    training.model.eval()
    assert diagnosed(training, tmp_path).findings == ()


class _Power(nn.Module):
    """x ** exponent: for 0.5, no finite derivative at 0; NaN below it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sqrt()


def _not_finite(training: Training, where: Path, steps: int = 40) -> Finding:
    return only(diagnosed(training, where, steps), "nonfinite-origin")


def test_nan_in_the_batch_is_the_input_s(tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    batches = first(training.batches, 40)
    batches[7][0][3, 5] = float("nan")
    training.batches = iter(batches)
    found = _not_finite(training, tmp_path)
    assert (found.place, found.first_step, found.told_step) == ("input", 7, 7)


def test_nan_in_the_forward_pass_is_the_module_s_that_makes_it(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), _Power(), nn.Linear(32, 10))
    nn.init.constant_(model[2].bias, 5.0)
    training = seeded(sgd_mlp)
    training.model, training.optimizers = model, [torch.optim.SGD(model.parameters(), lr=1e-4)]
    training.loss = lambda b: F.cross_entropy(model(b[0]), b[1])
    training.also = at(11, lambda: nn.init.constant_(model[2].bias, -50.0))
    found = _not_finite(training, tmp_path)
    assert (found.place, found.first_step) == ("3", 11)
    assert "forward" in found.message


@pytest.mark.parametrize("step", [3, 25], ids=["while outputs are weighed", "between"])
def test_a_root_of_0_in_the_backward_pass(step: int, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 32), _Power(), nn.Linear(32, 10))
    nn.init.constant_(model[1].weight, 0.0)
    nn.init.constant_(model[1].bias, 5.0)
    training = seeded(sgd_mlp)
    training.model, training.optimizers = model, [torch.optim.SGD(model.parameters(), lr=1e-6)]
    training.loss = lambda b: F.cross_entropy(model(b[0]), b[1])

    def zeroed(now: int) -> None:
        if now == step:
            nn.init.constant_(model[1].weight, 0.0)
            nn.init.constant_(model[1].bias, 0.0)

    training.also = zeroed
    found = _not_finite(training, tmp_path)
    assert (found.place, found.first_step) == ("2", step)
    assert "backward" in found.message


def test_infinity_that_the_loss_makes_of_finite_outputs(tmp_path: Path) -> None:
    training = seeded(regression)
    model, usual = training.model, training.loss
    calls = iter(range(1000))
    training.loss = lambda b: usual(b) if next(calls) != 9 else (model(b[0]) * 0).log().mean()
    found = _not_finite(training, tmp_path)
    assert (found.place, found.first_step) == ("", 9)
    assert "the loss" in found.message


def test_an_update_that_is_not_finite(tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    optimizer = torch.optim.Adam(training.model.parameters(), lr=1e-3)
    training.optimizers = [optimizer]
    training.also = at(6, lambda: optimizer.param_groups[0].update(lr=float("inf")))
    found = _not_finite(training, tmp_path)
    assert found.first_step == 6
    assert "update" in found.message


def test_a_parameter_that_is_not_finite_before_the_step(tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    weight = training.model[4].weight
    training.also = at(5, lambda: weight.data.fill_(float("nan")))
    found = _not_finite(training, tmp_path)
    assert (found.place, found.first_step) == ("4.weight", 5)


def test_a_mask_of_infinity_that_does_no_harm_is_none(tmp_path: Path) -> None:
    class Masked(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.where(torch.arange(10) < 9, x, -torch.inf)

    training = seeded(sgd_mlp)
    model = nn.Sequential(mlp(), Masked())
    x, y = data("digits")
    few = torch.nonzero(y < 9).ravel()
    training.model, training.optimizers = model, [torch.optim.SGD(model.parameters(), lr=0.1)]
    training.batches = iter([(x[part], y[part]) for part in few.split(32)])
    training.loss = lambda b: F.cross_entropy(model(b[0]), b[1])
    assert diagnosed(training, tmp_path).findings == ()


def _scaled(training: Training, where: Path, steps: int, first_scale: float, bad: range) -> Diagnosis:
    """Trained with a GradScaler; in the steps of `bad` the scaled gradient overflows."""
    scaler = torch.amp.GradScaler("cpu", init_scale=first_scale)
    model, optimizer = training.model, training.optimizers[0]
    weighbridge.init(dir=where, name="scaled")
    with weighbridge.watch(model) as run:
        for step in range(steps):
            loss = training.loss(next(training.batches))
            scaler.scale(loss).backward()
            if step in bad:
                model[2].weight.grad[0, 0] = float("inf")
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    return weighbridge.diagnose(run.path)


def test_a_scaler_that_searches_its_scale_is_healthy(tmp_path: Path) -> None:
    assert _scaled(seeded(sgd_mlp), tmp_path, 60, 65536.0, range(12)).findings == ()


def test_a_scaler_that_leaves_out_every_third_step(tmp_path: Path) -> None:
    diagnosis = _scaled(seeded(sgd_mlp), tmp_path, 60, 65536.0, range(2, 60, 3))
    found = only(diagnosis, "scaler-starvation")
    assert (found.first_step, found.told_step) == (2, 32)  # the eleventh of them


def test_a_scaler_that_never_finds_a_scale_names_the_origin(tmp_path: Path) -> None:
    diagnosis = _scaled(seeded(sgd_mlp), tmp_path, 60, 65536.0, range(4, 60))
    found = only(diagnosis, "nonfinite-origin")
    assert (found.place, found.first_step, found.told_step) == ("2", 4, 24)
    assert "scaler-starvation" in found.explains


def test_an_evaluation_between_backward_and_step_is_no_finding(tmp_path: Path) -> None:
    training = seeded(wine_dropout)
    optimizer = training.optimizers[0]
    optimizer.register_step_pre_hook(lambda *_: training.model.eval() and None)
    training.also = lambda step: training.model.train() and None
    assert diagnosed(training, tmp_path).findings == ()


def test_frozen_batch_norms_and_dropout_of_0_in_evaluation_mode_are_no_finding(tmp_path: Path) -> None:
    training = seeded(cnn)
    training.model[2].requires_grad_(False)
    training.model.append(nn.Dropout(0.0))
    training.model.eval()
    assert diagnosed(training, tmp_path).findings == ()
