"""What healthy programs of the kinds that people train taught, and what of each must still be told.

Oracles: numbers of closed form, PyTorch's own graph, and small trainings.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weighbridge
from tests.diagnosis.looks import NET, A, B, C, looked, spread
from tests.diagnosis.made import block, found, step_rows, tensor
from tests.diagnosis.paces import with_paces, with_weights
from tests.diagnosis.trainings import Training, batches, data, seeded, sgd_mlp, train
from weighbridge.diagnosis import Outcome
from weighbridge.diagnosis.registry import rule
from weighbridge.diagnosis.spreads import BATCH
from weighbridge.store.record import open_run

# ---- plain numbers in the graph ----


class _Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(64, 16), nn.RMSNorm(16, eps=1e-5), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        out: torch.Tensor = self.head(F.silu(self.norm(h) + 0.5 * h.pow(2).mean(-1, keepdim=True).add(1e-5).rsqrt()) / 2)
        return out


def test_no_rule_fails_on_sums_and_quotients_with_plain_numbers(tmp_path: Path) -> None:
    """A root mean square by hand, and the cross-entropy of soft targets, which torch divides by the number of samples."""
    torch.manual_seed(0)
    model = _Normed()
    soft = lambda y: F.one_hot(y, 10).float() * 0.9 + 0.01
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    training = Training(model, [optimizer], lambda b: F.cross_entropy(model(b[0]), soft(b[1])), batches(*data("digits")))
    told = weighbridge.diagnose(train(training, tmp_path, 12))
    assert [(a.rule, a.reason) for a in told.answers if a.outcome is Outcome.FAILED] == []
    assert [f.rule for f in told if f.severity != "note"] == []


def test_the_sign_of_soft_targets_is_known_through_the_quotient(tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    training.loss = lambda b: -F.cross_entropy(training.model(b[0]), F.one_hot(b[1], 10).float())
    told = weighbridge.diagnose(train(training, tmp_path, 12))
    assert [f.told_step for f in told if f.rule == "wrong-loss-sign"] == [2]


# ---- exploding-gradient: a mean and a deviation per weight ----

LAYERS = tuple(
    tensor(2 * i + k, f"{i}.{leaf}", module="Bayes", shape=(8, 8), count=64)
    for i in range(4)
    for k, leaf in enumerate(("mu", "rho"))
)


@pytest.mark.parametrize(("first", "places"), [(1.0, []), (31.0, ["0.mu"])])
def test_a_deviation_is_no_last_layer(first: float, places: list[str]) -> None:
    """Deviations have a hundredth of the gradient of the means: of softplus at -4, e^-4."""
    sizes = {f"{i}.{leaf}": by * (first if i == 0 else 1.0) for i in range(4) for leaf, by in (("mu", 1.0), ("rho", 0.01))}
    made = block(4, {"gradient.l2_norm": sizes}, LAYERS)
    assert [f.place.partition(".")[0] for f in found(rule("exploding-gradient"), made)] == [p.partition(".")[0] for p in places]


def test_weights_of_one_module_are_each_a_layer() -> None:
    tensors = tuple(tensor(i, f"w{i}", shape=(4, 4), module="Net") for i in range(8))
    made = block(4, {"gradient.l2_norm": {f"w{i}": 40.0 if i == 0 else 1.0 for i in range(8)}}, tensors)
    assert len(found(rule("exploding-gradient"), made)) == 1


# ---- excessive-weight-decay: one number has only two directions ----


@pytest.mark.parametrize(("count", "is_told"), [(1, False), (9, False), (10, True)])
def test_the_cosine_of_few_numbers_proves_no_decay(count: int, is_told: bool) -> None:
    table = [tensor(0, "a.weight", shape=(count, 1), count=count)]
    norms = {"parameter.l2_norm": 1.0, "update.l2_norm": 0.02, "update.dot_update_parameter": -0.02}
    decayed = step_rows(6, weight_decay=0.2, lr=0.1)
    made = block(6, {name: {"a.weight": value} for name, value in norms.items()}, table, steps=decayed)
    assert bool(found(rule("excessive-weight-decay"), made)) is is_told


# ---- high-learning-rate: what is 0 has no scale ----


@pytest.mark.parametrize(("size", "is_told"), [(0.0, False), (1.0, True)])
def test_the_slope_at_zero_tells_nothing_of_a_step(size: float, is_told: bool) -> None:
    """Tokens that begin at 0, in front of a norm: its gradient is divided by eps."""
    made = with_paces([50.0] + [0.01] * 12, [0.1] + [0.01] * 12, 1.0)
    arrays = dict(made.arrays)
    column, other = made.tensors.column[0], made.tensors.column[2]
    parts = arrays["update.dot_gradient_update"].copy()
    parts[:, column], parts[:, other] = parts[:, column] + parts[:, other], 0.0
    norms = arrays["parameter.l2_norm"].copy()
    norms[0, column] = size
    arrays |= {"update.dot_gradient_update": parts, "parameter.l2_norm": norms}
    assert bool(found(rule("high-learning-rate"), dataclasses.replace(made, arrays=arrays))) is is_told


# ---- exploding-weights and collapsed-output: a critic whose returns grow ----


@pytest.mark.parametrize(("power", "is_told"), [(1.0, False), (3.0, True)])
def test_a_way_at_a_constant_pace_is_no_explosion_however_the_loss_goes(power: float, is_told: bool) -> None:
    """From 0.5: at a constant pace each doubling takes twice as long, as the cube of the step it takes ever less of it."""
    rms = 0.5 + 0.05 * (np.arange(90) / 10) ** power * 10 ** (power == 1.0)
    assert bool(found(rule("exploding-weights"), with_weights(rms, [1.0] + [3.0] * 89))) is is_told


@pytest.mark.parametrize(("growth", "is_told"), [(1.2, False), (1.05, True)])
def test_few_outputs_on_their_way_have_not_come_to_rest(growth: float, is_told: bool) -> None:
    of = [(step, 0.5 if step < 3 else 1e-3 / growth**step, growth**step) for step in range(9)]
    own = [spread(step, C, features=1) | {"sum_sq": 320.0 * by, "sample_sq": 320.0 * by * share} for step, share, by in of]
    made = looked(*[spread(step, -1) for step in range(9)], *own, steps=9, loss=1.0)
    assert bool(found(rule("collapsed-output"), made)) is is_told


# ---- rank-collapse: what frozen layers give ----


@pytest.mark.parametrize("is_frozen", [True, False])
def test_what_a_frozen_backbone_gives_are_data(is_frozen: bool) -> None:
    table = tuple(
        tensor(t.id, t.name, t.module, shape=t.shape, order=t.order, requires_grad=not (is_frozen and t.name[0] in "ab"))
        for t in NET
    )
    looks = [spread(s, c, directions=9.0 if c == BATCH else 1.2) for s in range(30) for c in (BATCH, A, B)]
    made = looked(*looks, *[spread(s, C) for s in range(30)], steps=30, tensors=table, loss=1.0)
    assert bool(found(rule("rank-collapse"), made)) is not is_frozen


# ---- step-not-taken: clients ----


def test_a_model_that_takes_the_mean_of_its_copies_needs_no_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    training = seeded(sgd_mlp)
    model, clients = training.model, [copy.deepcopy(training.model) for _ in range(2)]
    weighbridge.init(dir=tmp_path, name="run")
    with weighbridge.watch(model) as run:
        for _ in range(5):
            states: list[dict[str, Any]] = []
            for client in clients:
                client.load_state_dict(model.state_dict())
                optimizer = torch.optim.SGD(client.parameters(), lr=0.1)
                for _ in range(5):
                    x, y = next(training.batches)
                    optimizer.zero_grad()
                    F.cross_entropy(client(x), y).backward()
                    optimizer.step()
                states.append(client.state_dict())
            model.load_state_dict({name: (states[0][name] + states[1][name]) / 2 for name in states[0]})
    assert "neither a backward pass through this model" in capsys.readouterr().err
    assert open_run(run.path).whole("passes").num_rows == 0
    assert not weighbridge.diagnose(run.path).findings
