"""Faults in the ways in which strangers make them: by hand, by function calls, in mid-run, through time. Each with its twin.

Oracle: what the test itself puts into the training, or numbers of closed form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weighbridge
from tests.diagnosis.graphs import Drawing, rows
from tests.diagnosis.made import block, found, step_rows, tensor
from tests.diagnosis.trainings import data, seeded, sgd_mlp, train
from tests.diagnosis.ways import told_by
from weighbridge.diagnosis.registry import rule
from weighbridge.diagnosis.rules import diverged_replicas, vanishing_gradient
from weighbridge.diagnosis.rules.doubled_output_activation import DoubledOutputActivation
from weighbridge.diagnosis.rules.missing_activation import MissingActivation
from weighbridge.firstpass import Parameter, Start

# ---- vanishing-gradient, through time ----


def _time(norms: list[float], losses: object, steps: int = 60, **tables: object) -> list[int]:
    event = {"step": 0, "kind": "through_time", "tensor": -1, "detail": {"module": "r", "parameter": "r.w", "norms": norms}}
    made = block(steps, tensors=(tensor(0, "r.weight"),), steps=step_rows(steps, loss=losses), events=[event], **tables)  # type: ignore[arg-type]
    return [f.told_step for f in found(vanishing_gradient.VanishingGradient, made)]


def test_what_comes_early_is_lost_and_the_loss_stands() -> None:
    limit = vanishing_gradient.LIMIT
    flat = 1.0 + 0.01 * np.random.default_rng(0).standard_normal(60)
    faded = [limit / 2] * 4 + [1.0] * 12
    assert len(_time(faded, flat)) == 1
    assert _time([limit] * 4 + [1.0] * 12, flat) == []  # exactly on it
    assert _time([1e-9] * 3 + [1.0] * 13, flat) == []  # less than a quarter of the time
    assert _time(faded, np.linspace(1.0, 0.2, 60)) == []  # a memory that is long enough for the task
    assert _time([0.0] * 16, flat) == []
    assert _time([float("nan")] * 16, flat) == []


@pytest.mark.parametrize(("share", "is_told"), [(0.48, False), (0.52, True)])
def test_a_loss_that_stands_far_below_a_constant_answers_has_learnt(share: float, is_told: bool) -> None:
    assert vanishing_gradient.LEARNT == 0.5
    made = Drawing()
    loss = made.op("NllLoss", [made.op("LogSoftmax", [made.linear("a", None, 32, 8, 4)], (32, 4), dim=1)], ())
    graph = rows(made.done([Start("cross-entropy", loss, "a", 1.4, 1.386, 0.1, 32)]))
    flat = 1.386 * share * (1.0 + 0.01 * np.random.default_rng(0).standard_normal(60))
    faded = [vanishing_gradient.LIMIT / 2] * 4 + [1.0] * 12
    assert bool(_time(faded, flat, graph=graph)) is is_told


class _Reader(nn.Module):
    def __init__(self, gain: float) -> None:
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(8, 8), nn.RNN(8, 16, batch_first=True), nn.Linear(16, 4)
        nn.init.orthogonal_(self.rnn.weight_hh_l0, gain)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(self.embed(x))[0][:, -1])


@pytest.mark.parametrize("gain", [0.2, 1.0])
def test_an_rnn_that_forgets_the_first_letter(gain: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = _Reader(gain)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def step(_: int) -> None:
        x = torch.randint(4, 8, (32, 16))
        x[:, 0] = y = torch.randint(0, 4, (32,))
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    told = told_by(model, step, tmp_path, 70, "vanishing-gradient")
    assert [place for place, _, _ in told] == (["rnn"] if gain < 1 else [])


# ---- gradients-not-zeroed where no bias tells ----


@pytest.mark.parametrize("is_ill", [True, False])
def test_a_zero_grad_without_parentheses(is_ill: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = _Reader(1.0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def step(_: int) -> None:
        optimizer.zero_grad if is_ill else optimizer.zero_grad()
        F.cross_entropy(model(torch.randint(0, 8, (8, 12))), torch.randint(0, 4, (8,))).backward()
        optimizer.step()

    assert told_by(model, step, tmp_path, 12, "gradients-not-zeroed") == ([("", 3, "error")] if is_ill else [])


# ---- by hand: the sign of the update, decay, an output that begins elsewhere ----


@pytest.mark.parametrize("rate", [0.05, -0.05])
def test_an_update_by_hand_that_goes_uphill(rate: float, tmp_path: Path) -> None:
    training = seeded(sgd_mlp)

    def step(_: int) -> None:
        loss = training.loss(next(training.batches))
        training.model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for p in training.model.parameters():
                p += rate * p.grad

    told = told_by(training.model, step, tmp_path, 12, "wrong-loss-sign")
    assert told == ([("", 2, "error")] if rate > 0 else [])


@pytest.mark.parametrize("factor", [2.0, 1e-4])
def test_decay_that_is_added_to_the_gradients(factor: float, tmp_path: Path) -> None:
    training = seeded(sgd_mlp)

    def decay(*_: object) -> None:
        for p in training.model.parameters():
            p.grad.add_(p.detach(), alpha=factor)

    training.optimizers = [torch.optim.SGD(training.model.parameters(), lr=0.05)]
    training.optimizers[0].register_step_pre_hook(decay)
    told = [f for f in weighbridge.diagnose(train(training, tmp_path, 30)) if f.rule == "excessive-weight-decay"]
    assert [f.told_step for f in told] == ([2] if factor > 1 else [])


@pytest.mark.parametrize(("start", "mean", "severity"), [(100.0, 0.0, "warning"), (0.0, 100.0, "note"), (0.0, 0.0, "")])
def test_an_output_that_begins_far_off_and_targets_that_lie_far_off(
    start: float, mean: float, severity: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    x, y = data("diabetes")
    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 1))
    nn.init.constant_(model[2].bias, start)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step(_: int) -> None:
        optimizer.zero_grad()
        F.mse_loss(model(x[:64]), y[:64] + mean).backward()
        optimizer.step()

    told = told_by(model, step, tmp_path, 3, "high-initial-loss")
    assert [f[2] for f in told] == ([severity] if severity else [])


def test_predictions_off_the_targets_of_a_frozen_model_are_a_note() -> None:
    made = Drawing()
    made.op("MseLoss", [made.linear("a", None, 32, 8, 1)], ())
    start = Start("squared error", 3, "a", 100.0, 1.0, 0.1, 64, 0.5, 1.0, target_mean=1.0, target_std=1.0)
    for is_trainable, severity in ((True, "warning"), (False, "note")):
        first = replace(made.done(), starts=(start,))
        one = Parameter("b.weight", "b", "Linear", (2, 2), 16, is_trainable)
        first = replace(first, parameters=(*first.parameters, one))
        assert [f.severity for f in found(rule("high-initial-loss"), block(1, graph=rows(first)))] == [severity]


# ---- graphs: dropout and softmax by function calls ----


def _graph_of(model: nn.Module, loss_of: Callable[[nn.Module], torch.Tensor], where: Path, rule_id: str) -> list[str]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step(_: int) -> None:
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()

    return [severity for _, _, severity in told_by(model, step, where, 2, rule_id)]


@pytest.mark.parametrize(
    ("between", "is_told"),
    [
        (lambda h: F.dropout(h, 0.3), True),
        (lambda h: h * (h > 0).float(), False),  # an activation by hand
        (lambda h: torch.relu(F.dropout(h, 0.3)), False),
    ],
)
def test_dropout_by_a_function_is_no_activation(
    between: Callable[[torch.Tensor], torch.Tensor], is_told: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = nn.ModuleList([nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3)])
    x, y = torch.randn(32, 8), torch.randint(0, 3, (32,))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return model[2](between(model[1](torch.relu(model[0](x)))))

    told = _graph_of(Net(), lambda net: F.cross_entropy(net(x), y), tmp_path, MissingActivation.id)
    assert told == (["warning"] if is_told else [])


def _by_hand(z: torch.Tensor) -> torch.Tensor:
    e = (z - z.max(1, keepdim=True).values).exp()
    return e / e.sum(1, keepdim=True)


def _of_something_else(z: torch.Tensor) -> torch.Tensor:
    return z.exp() / (2 * z).exp().sum(1, keepdim=True)


@pytest.mark.parametrize(("output", "is_told"), [(_by_hand, True), (_of_something_else, False), (lambda z: z, False)])
def test_a_softmax_by_hand_before_cross_entropy(
    output: Callable[[torch.Tensor], torch.Tensor], is_told: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(32, 8), torch.randint(0, 3, (32,))
    told = _graph_of(nn.Linear(8, 3), lambda m: F.cross_entropy(output(m(x)), y), tmp_path, DoubledOutputActivation.id)
    assert told == (["error"] if is_told else [])


# ---- saturated-units: a clamp in place of tanh ----


@pytest.mark.parametrize(("factor", "is_told"), [(300.0, True), (1.0, False)])
def test_hidden_numbers_cut_off_at_both_ends(factor: float, is_told: bool, tmp_path: Path) -> None:
    training = seeded(sgd_mlp)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(64, 32), nn.Linear(32, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b((factor * self.a(x)).clamp(-1, 1))

    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step(_: int) -> None:
        x, y = next(training.batches)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    assert [place for place, _, _ in told_by(model, step, tmp_path, 6, "saturated-units")] == (["a"] if is_told else [])


# ---- low-learning-rate: a warm-up that never gets anywhere ----


@pytest.mark.parametrize(("over", "is_told"), [(1e8, True), (1e4, False)])
def test_a_warm_up_that_never_ends(over: float, is_told: bool, tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    training.optimizers = [torch.optim.SGD(training.model.parameters(), lr=1.0)]
    training.schedule = torch.optim.lr_scheduler.LambdaLR(training.optimizers[0], lambda s: min(1.0, (s + 1) / over))
    told = [f for f in weighbridge.diagnose(train(training, tmp_path, 60)) if f.rule == "low-learning-rate"]
    assert bool(told) == is_told


# ---- diverged-replicas: nobody averages ----


def _ranks(sums: list[float], used: list[float]) -> list[tuple[str, int]]:
    from weighbridge.diagnosis.ranked import Ranked
    from weighbridge.records import LOCAL

    steps = len(sums)
    ranks = []
    for number in range(2):
        arrays = {name: np.full((steps, 1), 1.0) for name in diverged_replicas.SUMS}
        arrays |= {name: np.full((steps, 1), 0.5) for name in diverged_replicas.USED}
        if number:
            for name in diverged_replicas.SUMS:
                arrays[name][:, 0] = sums
            for name in diverged_replicas.USED:
                arrays[name][:, 0] = used
        ranks.append(Ranked(number, arrays, (LOCAL,), np.full(steps, np.nan), ()))
    made = replace(block(steps, tensors=(tensor(0, "a.weight"),)), ranks=tuple(ranks))
    return [(f.severity, f.told_step) for f in found(diverged_replicas.DivergedReplicas, made)]


def test_the_same_start_and_gradients_that_never_agree() -> None:
    apart = diverged_replicas.APART
    assert _ranks([1.0] + [1.5] * apart, [0.7] * (apart + 1)) == [("warning", apart)]
    assert _ranks([1.0] + [1.5] * (apart - 1), [0.7] * apart) == []  # a step less
    assert _ranks([1.5] * 40, [0.7] * 40) == []  # models of their own
    assert _ranks(([1.5] * 7 + [1.0]) * 6, [0.7] * 48) == []  # averaged now and then: local SGD
