"""Oracle: oracle.py (clones of every parameter around each step), and the optimizer's own state after it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import weighbridge
from tests.capture.oracle import (
    GRADIENT,
    PARAMETER,
    UPDATE,
    Expected,
    Oracle,
    array,
    check,
    compare,
    events,
    names,
    recorded_rows,
    table,
    train,
)
from weighbridge import Plan, Schedule
from weighbridge.errors import BadPlan
from weighbridge.records import Quantity
from weighbridge.reference import summarize

OF_QUANTITY = {PARAMETER: "parameters", GRADIENT: "gradients", UPDATE: "updates"}


def model_and_loss() -> tuple[nn.Module, Callable[[int], torch.Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 70), nn.Tanh(), nn.Linear(70, 70), nn.Linear(70, 1))
    return model, lambda step: model(torch.randn(4, 3, generator=torch.Generator().manual_seed(step))).square().mean()


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize(
    "plan",
    [
        Plan(parameters=3, gradients=2, updates=5),
        Plan(parameters=False, gradients=True, updates=False),
        Plan(parameters=7, gradients=7, updates=7),
        Plan(parameters=Schedule(first=3, per_decade=5), gradients=False, updates=Schedule(first=2, every=9)),
        Plan(parameters=4, gradients=False, updates=4, snapshot="20 KB"),
        Plan(parameters=4, gradients=False, updates=3, snapshot="24 KB"),
    ],
)
def test_rows_stand_at_the_steps_of_the_plan_and_are_those_of_their_step(
    tmp_path: Path, plan: Plan, optimizer: type[torch.optim.Optimizer]
) -> None:
    model, loss = model_and_loss()
    path, oracle = train(tmp_path, model, optimizer(model.parameters(), lr=0.01), loss, 30, plan=plan)  # type: ignore[call-arg]

    def due(key: tuple[int, str, Quantity]) -> bool:
        return plan.schedule(OF_QUANTITY[key[2]]).due(key[0])

    last = oracle.clock
    if plan.parameters is False:
        oracle.closing = {}
    in_turns = plan.snapshot != "1 GB"
    check(path, oracle, may_lack=lambda key: (key[0] != last and not due(key)) or (in_turns and key[2] is UPDATE))
    assert all(due(key) or key[0] == last for key in recorded_rows(path))
    assert events(path, "changed") == []


def test_a_change_between_steps_that_are_not_weighed_is_no_update(tmp_path: Path) -> None:
    model, loss = model_and_loss()

    def between(step: int) -> None:
        with torch.no_grad():
            model[0].weight.add_(1.0)

    plan = Plan(parameters=2, gradients=2, updates=2)
    path, oracle = train(tmp_path, model, torch.optim.SGD(model.parameters(), lr=0.01), loss, 9, between=between, plan=plan)
    check(path, oracle, may_lack=lambda key: key[0] % 2 == 1)


def test_include_and_exclude_by_glob_expression_and_function(tmp_path: Path) -> None:
    def kept(plan: Plan) -> tuple[set[str], set[str]]:
        torch.manual_seed(0)
        model = nn.ModuleDict({"encoder": nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), "head": nn.Linear(3, 1)})
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        with weighbridge.init(dir=tmp_path, quiet=True, plan=plan) as run:
            run.watch(model)
            for _ in range(2):
                model["head"](model["encoder"](torch.randn(2, 3))).sum().backward()
                optimizer.step()
        record = weighbridge.open_run(run.path)
        return {t.name for t in record.tensors}, {t.name for t in record.outputs}

    head, encoder = {"head.weight", "head.bias"}, {f"encoder.{n}.{p}" for n in (0, 1) for p in ("weight", "bias")}
    outs = {"encoder.0/out", "encoder.1/out"}
    assert kept(Plan()) == (head | encoder, outs | {"head/out"})
    assert kept(Plan(include="encoder")) == (encoder, outs)
    assert kept(Plan(include=["encoder.*"])) == (encoder, outs)
    assert kept(Plan(exclude="encoder.0")) == (head | {"encoder.1.weight", "encoder.1.bias"}, {"encoder.1/out", "head/out"})
    assert kept(Plan(exclude=re.compile(r"bias$"))) == (
        {"head.weight", "encoder.0.weight", "encoder.1.weight"},
        outs | {"head/out"},
    )
    assert kept(Plan(include="encoder", exclude=lambda name: name.endswith("weight"))) == (
        {"encoder.0.bias", "encoder.1.bias"},
        outs,
    )


def test_what_the_plan_leaves_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, loss = model_and_loss()
    path, _ = train(tmp_path, model, torch.optim.SGD(model.parameters(), lr=0.01), loss, 2, plan=Plan(exclude="2"))
    (said,) = [event for event in events(path, "reduced") if "left out" in event.message]
    assert said.message == "2 tensors are left out by Plan(include=..., exclude=...)"
    assert sorted(said.detail["tensors"]) == ["2.bias", "2.weight"]
    with weighbridge.init(dir=tmp_path, quiet=True, plan=Plan(include="nothing.*")) as run:
        run.watch(model)
    assert "leaves out every tensor" in capsys.readouterr().err


def test_a_pattern_that_raises_stops_the_weighing_and_not_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, loss = model_and_loss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with weighbridge.init(dir=tmp_path, quiet=True, plan=Plan(include=lambda name: name.no_such)) as run:  # type: ignore[attr-defined]
        run.watch(model)
        loss(0).backward()
        optimizer.step()
    assert "no_such" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"activations": -1}, "Plan(activations=-1) does not say when"),
        ({"updates": "often"}, "Plan(updates='often') does not say when"),
        ({"parameters": None}, "does not say when"),
        ({"include": [3]}, "Plan(include=...) holds 3"),
        ({"disk": "many"}, "is not a size"),
    ],
)
def test_a_plan_that_cannot_be_read_says_what_to_write(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(BadPlan, match=re.escape(text)):
        Plan(**arguments)


def test_a_schedule_that_cannot_be_read_says_what_to_write() -> None:
    with pytest.raises(BadPlan, match=re.escape("Schedule(every=-2): a number of steps is a whole number")):
        Schedule(every=-2)


@pytest.mark.parametrize(
    ("make", "first", "second"),
    [
        (lambda p: torch.optim.Adam(p, lr=0.01), "exp_avg", "exp_avg_sq"),
        (lambda p: torch.optim.AdamW(p, lr=0.01, foreach=False), "exp_avg", "exp_avg_sq"),
        (lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9), "momentum_buffer", ""),
        (lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5), "momentum_buffer", "square_avg"),
        (lambda p: torch.optim.Adagrad(p, lr=0.01), "", "sum"),
        (lambda p: torch.optim.Adamax(p, lr=0.01), "exp_avg", "exp_inf"),
        (lambda p: torch.optim.SGD(p, lr=0.01), "", ""),
    ],
)
def test_moments_are_the_optimizer_s_own_state_after_the_step(tmp_path: Path, make: Any, first: str, second: str) -> None:
    model, loss = model_and_loss()
    optimizer, oracle = make(model.parameters()), Oracle(model)
    plan, seen = Plan(moments=Schedule(first=2, every=4)), {}
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=plan) as run:
        run.watch(model)
        for step in range(10):
            optimizer.zero_grad()
            loss(step).backward()
            oracle.step(optimizer)
            for name, parameter in model.named_parameters():
                for quantity, key in ((Quantity.MOMENT1, first), (Quantity.MOMENT2, second)):
                    if key and plan.schedule("moments").due(step):
                        seen[step, name, quantity] = optimizer.state[parameter][key].clone()
        oracle.close()
    known = names(weighbridge.open_run(run.path))
    found = {
        (row["step"], known[row["tensor"]], Quantity(row["quantity"])): row
        for row in table(run.path, "rows")
        if row["quantity"] in (Quantity.MOMENT1, Quantity.MOMENT2)
    }
    assert set(found) == set(seen)
    for key, row in found.items():
        summary = summarize(array(seen[key])[0], 4)
        compare(
            key, row, Expected(summary, None, {"sum": summary.sum_abs, "sum_abs": summary.sum_abs, "sum_sq": summary.sum_sq})
        )
    check(run.path, oracle)
