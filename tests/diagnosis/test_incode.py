"""Fixes in the user's own code. Oracle: the code is run on the model, and its optimizer's class is the one it was made of."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

import weighbridge
from tests.diagnosis.known import RUNS
from tests.diagnosis.made import tensor
from tests.diagnosis.trainings import Training, seeded, train
from weighbridge.diagnosis import Diagnosis
from weighbridge.diagnosis.incode import setting, started
from weighbridge.diagnosis.stream import Group
from weighbridge.diagnosis.tensors import Tensors

GROUPS = [Group(0, "SGD", 0, (0, 1)), Group(0, "SGD", 1, (2,)), Group(1, "AdamW", 0, (3,))]


def test_a_setting_names_the_class_and_of_several_groups_the_one_that_is_meant() -> None:
    assert setting(GROUPS, 1, "lr", "0.001") == setting(GROUPS, 1, "lr", "0.001", 0) == "AdamW(..., lr=0.001)"
    assert setting(GROUPS, 0, "lr", "0.01") == "SGD(..., lr=0.01)"
    assert setting(GROUPS, 0, "lr", "0.01", 1) == "param_groups[1]['lr'] = 0.01 in SGD"
    assert setting([], 0, "eps", "1e-8") == "eps=1e-8 in the optimizer"


def test_a_layer_is_started_by_its_own_names() -> None:
    lstm = [tensor(0, "cell.weight_ih_l0"), tensor(1, "cell/out", "LSTM")]
    assert started(Tensors(lstm), 1) == "nn.init.kaiming_normal_(model.cell.weight_ih_l0)"
    assert started(Tensors([tensor(0, "act/out", "ReLU")]), 0) == "nn.init.kaiming_normal_(weight)"


def diagnosed(name: str, where: Path) -> tuple[Training, Diagnosis]:
    training = seeded(RUNS[name].make)
    return training, weighbridge.diagnose(train(training, where, RUNS[name].steps))


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("dead-at-birth", "dead-units"),
        ("tanh-that-begins-saturated", "saturated-units"),
        ("sigmoids-without-norm", "vanishing-gradient"),
        ("all-weights-alike", "symmetric-initialisation"),
        ("one-wild-layer", "wrong-initial-scale"),
    ],
)
def test_the_code_of_a_fix_runs_and_changes_the_layer(name: str, rule: str, tmp_path: Path) -> None:
    training, diagnosis = diagnosed(name, tmp_path)
    found = next(one for one in diagnosis if one.rule == rule)
    code = found.fix[found.fix.index("nn.init") : found.fix.rindex(")") + 1]
    code = code[: code.index("_(model") + code[code.index("_(model") :].index(")") + 1]
    weight = training.model.get_submodule(found.place).weight
    before = weight.detach().clone()
    exec(code, {"nn": nn, "torch": torch, "model": training.model})
    assert not torch.equal(before, weight)


@pytest.mark.parametrize(
    ("name", "rule", "fix"),
    [
        ("rate-raised-in-mid-run", "high-learning-rate", "SGD(..., lr=0.1)"),
        ("transformer-without-warm-up", "high-learning-rate", "AdamW(..., lr=0.1)"),
        ("rate-of-a-millionth", "low-learning-rate", "Adam(..., lr=1e-05)"),
        ("eps-of-one", "dominant-epsilon", "Adam(..., eps=1e-8)"),
        ("decay-of-one", "excessive-weight-decay", "SGD(..., weight_decay=0.01)"),
        ("decay-of-adamw", "excessive-weight-decay", "AdamW(..., weight_decay=0.3)"),
        ("gradients-that-outgrow-their-memory", "stale-second-moment", "Adam(..., betas=(0.9, 0.95))"),
    ],
)
def test_a_setting_is_that_of_the_user_s_optimizer(name: str, rule: str, fix: str, tmp_path: Path) -> None:
    _, diagnosis = diagnosed(name, tmp_path)
    found = next(one for one in diagnosis if one.rule == rule)
    assert found.fix.startswith(fix)
    assert "AdamW in place" not in found.fix


def test_a_rate_that_was_raised_is_named_with_its_step(tmp_path: Path) -> None:
    _, diagnosis = diagnosed("rate-raised-in-mid-run", tmp_path)
    (found,) = [one for one in diagnosis if one.rule == "high-learning-rate"]
    assert found.first_step == 20
    assert found.message.endswith("Its learning rate was raised ×30 at step 20.")
    assert found.fix.endswith(", as it was before step 20.")


def test_a_spike_is_clipped_at_three_times_what_was_usual(tmp_path: Path) -> None:
    _, diagnosis = diagnosed("one-layer-s-gradient-jumps", tmp_path)
    (found,) = [one for one in diagnosis if one.rule == "gradient-spike"]
    norms = dict(zip(found.evidence[1].steps, found.evidence[1].values, strict=True))  # type: ignore[union-attr]
    usual = sorted(v for s, v in norms.items() if s < 25)
    limit = float(found.fix.split("model.parameters(), ")[1].split(")")[0])
    assert 2 * usual[0] < limit < 4 * usual[-1]


def test_an_embedding_that_is_the_head_too_gets_a_start_of_its_own(tmp_path: Path) -> None:
    def tied() -> Training:
        model = nn.Sequential(nn.Embedding(30, 64), nn.Linear(64, 30, bias=False))
        model[1].weight = model[0].weight
        words = torch.randint(0, 30, (64,))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        batches = itertools.repeat((words, words.roll(1)))
        return Training(model, [optimizer], lambda batch: nn.functional.cross_entropy(model(batch[0]), batch[1]), batches)

    training = seeded(tied)
    found = next(f for f in weighbridge.diagnose(train(training, tmp_path, 3)) if f.rule == "wrong-initial-scale")
    assert "PyTorch's own start of an embedding" in found.fix
    exec(found.fix[: found.fix.index(")") + 1], {"torch": torch, "model": training.model})
    assert abs(float(training.model[0].weight.detach().std()) * 64**0.5 - 1) < 0.1
