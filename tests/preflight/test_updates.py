"""What the next step would add. Oracles: the formulas by hand, and the user's own optimizer stepping a copy of the training."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook

import weighbridge
from tests.preflight.test_untouched import drawn, same, state
from weighbridge.preflight.inspect import inspect
from weighbridge.preflight.records import Layer


def network() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3))


X, Y = torch.linspace(-1, 1, 96).view(16, 6).sin(), torch.arange(16) % 3


def rms(t: torch.Tensor) -> float:
    return float(t.detach().double().square().mean().sqrt())


def ratios(model: nn.Module, optimizer: Any) -> dict[str, float | None]:
    return {one.module: one.update_ratio for one in inspect(model, (X, Y), F.cross_entropy, optimizer).layers}


def test_adams_first_step_is_the_learning_rate_for_every_element() -> None:
    model = network()
    found = ratios(model, torch.optim.Adam(model.parameters(), lr=0.003, eps=1e-12))
    for index in (0, 2):
        assert found[str(index)] == pytest.approx(0.003 / rms(model[index].weight), rel=1e-4)
    assert found["1"] is None


def test_sgds_step_is_the_learning_rate_times_gradient_and_decay_of_each_group() -> None:
    model = network()
    groups = [{"params": model[0].parameters(), "lr": 0.5}, {"params": model[2].parameters(), "weight_decay": 0.1}]
    found = ratios(model, torch.optim.SGD(groups, lr=0.02))
    other = copy.deepcopy(model)
    F.cross_entropy(other(X), Y).backward()
    first, last = other[0].weight, other[2].weight
    assert found["0"] == pytest.approx(0.5 * rms(first.grad) / rms(first), rel=1e-5)
    assert found["2"] == pytest.approx(0.02 * rms(last.grad + 0.1 * last) / rms(last), rel=1e-5)


MAKERS: dict[str, Any] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.3),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "foreach": lambda p: torch.optim.Adam(p, lr=0.01, foreach=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True, momentum=0.5),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "warm-up from 0": lambda p: torch.optim.SGD(p, lr=0.0),
}


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("name", MAKERS)
def test_it_is_what_the_users_optimizer_does_at_its_next_step(name: str, steps: int) -> None:
    model = network()
    optimizer = MAKERS[name](model.parameters())
    torch.optim.lr_scheduler.LinearLR(optimizer)  # puts a step of its own onto the optimizer

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()

    for _ in range(steps):
        step()
    found = ratios(model, optimizer)
    before = [model[i].weight.detach().clone() for i in (0, 2)]
    step()
    expected = [rms(model[i].weight - w) / rms(w) for i, w in zip((0, 2), before, strict=True)]
    assert [found["0"], found["2"]] == pytest.approx(expected, rel=1e-4)


def test_user_and_optimizer_stay_bit_for_bit() -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    F.cross_entropy(model(X), Y).backward()
    optimizer.step()
    before, kept, random_before = state(model), copy.deepcopy(optimizer.state_dict()), drawn()
    inspect(model, (X, Y), F.cross_entropy, optimizer)
    after = optimizer.state_dict()
    assert same(state(model), before)
    assert drawn() == random_before
    assert str(after["param_groups"]) == str(kept["param_groups"])
    for index, one in kept["state"].items():
        assert all(torch.equal(one[key], after["state"][index][key]) for key in one)


def test_no_hook_sees_the_step_of_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    called: list[str] = []
    handle = register_optimizer_step_post_hook(lambda *_: called.append("any"))
    optimizer.register_step_pre_hook(lambda *_: called.append("its own"))
    with weighbridge.watch(model) as run:
        inspect(model, (X, Y), F.cross_entropy, optimizer)
        assert called == []
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
    handle.remove()
    assert weighbridge.open_run(run.path).info.steps == 1


calls: list[str] = []


class Own(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        calls.append("somebody else's code")


@pytest.mark.parametrize("make", [lambda p: torch.optim.LBFGS(p), lambda p: Own(p, lr=0.1)])
def test_where_the_step_is_not_torchs_own_or_needs_the_loss_there_is_no_number(make: Any) -> None:
    model = network()
    assert set(ratios(model, make(model.parameters())).values()) == {None}
    assert calls == []


def test_without_an_optimizer_and_of_what_none_holds_there_is_no_number() -> None:
    model = network()
    assert set(ratios(model, None).values()) == {None}
    elsewhere = nn.Linear(3, 3)  # another model's, in the same optimizer
    found = ratios(model, torch.optim.SGD([*model[2].parameters(), *elsewhere.parameters()], lr=0.1))
    assert (found["0"], found["2"] is None) == (None, False)


def test_a_layer_without_a_gradient_has_no_update() -> None:
    model = network()
    model.add_module("aside", nn.Identity())
    model[0].requires_grad_(False)
    found = ratios(model, torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1))
    assert (found["0"], found["2"] is None) == (None, False)


def test_two_optimizers_share_a_model() -> None:
    model = network()
    both = [torch.optim.SGD(model[0].parameters(), lr=0.1), torch.optim.Adam(model[2].parameters(), lr=0.1)]
    assert all(ratios(model, both)[name] is not None for name in ("0", "2"))


def duplicated(rows: int) -> nn.Module:
    model = network()
    with torch.no_grad():
        model[0].weight[:rows] = model[0].weight[0]
        model[0].bias[:rows] = model[0].bias[0]
        model[2].weight[:, :rows] = model[2].weight[:, :1]
    return model  # type: ignore[no-any-return]


def layers(model: nn.Module) -> dict[str, Layer]:
    return {one.module: one for one in inspect(model, (X, Y), F.cross_entropy).layers}


@pytest.mark.parametrize(("rows", "share"), [(1, 0.0), (2, 0.2), (4, 0.4), (10, 1.0)])
def test_units_that_are_alike_are_counted(rows: int, share: float) -> None:
    found = layers(duplicated(rows))
    assert found["0"].symmetric_share == pytest.approx(share)
    assert (found["1"].symmetric_share, found["2"].symmetric_share) == (None, 0.0)


def test_units_with_the_same_weights_and_other_gradients_are_not_alike() -> None:
    model: Any = duplicated(4)
    with torch.no_grad():
        model[2].weight.normal_()
    assert layers(model)["0"].symmetric_share == 0


def test_rows_of_zeros_are_not_counted() -> None:
    model = network()
    with torch.no_grad():  # two units of zeros that get the same gradient
        model[0].weight[:2] = 0
        model[0].bias[:2] = 0
        model[2].weight[:, 1] = model[2].weight[:, 0]
    assert layers(model)["0"].symmetric_share == 0
