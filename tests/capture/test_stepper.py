"""When a step is a step. Oracle: clones around `step` at the clock reading that the decisions give."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import weighbridge
from tests.capture.oracle import PARAMETER, UPDATE, Oracle, check, recorded_rows, steps_of, train, watched
from weighbridge.capture.plan import Plan
from weighbridge.capture.ranks import open_place
from weighbridge.capture.run import Run


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def loss_of(model: nn.Module, x: torch.Tensor | None = None) -> torch.Tensor:
    return model(torch.ones(2, 3) if x is None else x).square().mean()


def backward(model: nn.Module, x: torch.Tensor | None = None) -> None:
    model.zero_grad()
    loss_of(model, x).backward()


@pytest.mark.parametrize("every", [1, 5], ids=["1:1", "5:1"])
def test_two_models_with_two_optimizers_share_one_clock(every: int, tmp_path: Path) -> None:
    critic, generator = small(0), small(1)
    optimizers = [torch.optim.Adam(critic.parameters()), torch.optim.SGD(generator.parameters(), lr=0.1)]
    oracle = Oracle(critic, generator)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(critic, name="critic")
        run.watch(generator, name="generator")
        for step in range(10):
            backward(critic)
            oracle.step(optimizers[0], at=step)
            if step % every == every - 1:
                backward(generator)
                oracle.step(optimizers[1], at=step)
        oracle.close()
    check(run.path, oracle)
    rows = recorded_rows(run.path)
    assert steps_of(rows, "0.weight", UPDATE) == [*range(10)]
    assert steps_of(rows, "2:0.weight", UPDATE) == [*range(every - 1, 10, every)]
    record = weighbridge.open_run(run.path)
    assert {t.model for t in record.tensors} == {"critic", "generator"}
    own = [r for r in record.steps_table().to_pylist() if r["optimizer"] == 1]
    assert [r["optimizer_step"] for r in own] == [*range(10 // every)]


def test_names_of_several_models_are_made_different(tmp_path: Path) -> None:
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        models = [small(), small(), small()]
        for model in models:
            run.watch(model)
        run.watch(models[0])  # a second time is no second model
    assert {t.model for t in weighbridge.open_run(run.path).tensors} == {"model", "model-2", "model-3"}


def test_two_runs_watching_one_model_record_the_same(tmp_path: Path) -> None:
    model = small()
    optimizer = torch.optim.Adam(model.parameters())
    oracle = Oracle(model)
    runs = [Run(open_place(tmp_path, name, {}), Plan(), True, None, False) for name in ("a", "b")]
    for run in runs:
        run.watch(model)
    for _ in range(5):
        backward(model)
        oracle.step(optimizer)
    oracle.close()
    for run in runs:
        run.finish()
        check(run.path, oracle)


def test_a_second_run_begins_its_own_count(tmp_path: Path) -> None:
    model = small()
    optimizer = torch.optim.Adam(model.parameters())
    for name in ("a", "b"):
        oracle = Oracle(model)
        run = weighbridge.init(dir=tmp_path, name=name, quiet=True)
        run.watch(model)
        for _ in range(3):
            backward(model)
            oracle.step(optimizer)
        oracle.close()
        run.finish()
        check(run.path, oracle)


def test_after_an_exception_inside_step_the_rows_go_on_right(tmp_path: Path) -> None:
    class Moody(torch.optim.SGD):
        angry = False

        def step(self, closure: Any = None) -> Any:
            found = super().step(closure)
            if self.angry:
                raise RuntimeError("after it had moved the weights")
            return found

    model = small()
    optimizer = Moody(model.parameters(), lr=0.1)
    with watched(tmp_path, model) as (_run, oracle):
        for step in range(6):
            backward(model)
            optimizer.angry = step == 3
            if optimizer.angry:
                with pytest.raises(RuntimeError, match="moved the weights"):
                    optimizer.step()
            else:
                oracle.step(optimizer)
    assert oracle.clock == 5


def test_a_closure_that_raises_leaves_the_next_step_whole(tmp_path: Path) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def broken() -> float:
        raise ValueError("theirs")

    with watched(tmp_path, model) as (_run, oracle):
        for step in range(4):
            backward(model)
            if step == 1:
                with pytest.raises(ValueError, match="theirs"):
                    optimizer.step(broken)
            oracle.step(optimizer)


def test_a_step_that_calls_the_step_of_its_base_is_one_step(tmp_path: Path) -> None:
    class Outer(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            found = super().step(closure)
            with torch.no_grad():
                for group in self.param_groups:
                    for p in group["params"]:
                        p.mul_(0.9)
            return found

    torch.optim.SGD(small().parameters())  # torch puts its hooks around a class's step when the first of it is made
    model = small()
    optimizer = Outer(model.parameters(), lr=0.1)
    check(*train(tmp_path, model, optimizer, lambda step: loss_of(model), 5))


class Lookahead(torch.optim.Optimizer):
    """Lookahead, SAM and the like hold an inner optimizer over the same parameters; the outer step is what counts."""

    is_angry = False

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner = inner
        super().__init__(inner.param_groups, {})

    def step(self, closure: Any = None) -> Any:
        found = self.inner.step(closure)
        if self.is_angry:
            raise RuntimeError("between the two")
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.mul_(0.5)
        return found


def test_an_optimizer_around_another_one_is_one_step(tmp_path: Path) -> None:
    model = small()
    optimizer = Lookahead(torch.optim.SGD(model.parameters(), lr=0.1))
    check(*train(tmp_path, model, optimizer, lambda step: loss_of(model), 5))


def test_after_an_outer_step_has_raised_the_inner_one_s_own_steps_count(tmp_path: Path) -> None:
    model = small()
    outer = Lookahead(torch.optim.SGD(model.parameters(), lr=0.1))
    with watched(tmp_path, model) as (_run, oracle):
        backward(model)
        oracle.step(outer)
        outer.is_angry = True
        with pytest.raises(RuntimeError, match="between the two"):
            outer.step()
        for _ in range(3):
            backward(model)
            oracle.step(outer.inner)


def test_a_step_inside_that_of_an_optimizer_of_other_parameters_counts_too(tmp_path: Path) -> None:
    model, other = small(0), small(1)
    inner = torch.optim.SGD(other.parameters(), lr=0.1)

    class Calling(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            oracle.step(inner, at=step)
            return super().step(closure)

    outer = Calling(model.parameters(), lr=0.1)
    with watched(tmp_path, model, other) as (_run, oracle):
        for step in range(3):
            backward(model)
            backward(other)
            oracle.step(outer, at=step)


def test_two_optimizers_over_one_parameter_never_write_one_row_twice(tmp_path: Path) -> None:
    model = small()
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1), torch.optim.Adam(model.parameters())]
    with watched(tmp_path, model) as (_run, oracle):
        for step in range(4):
            for n, optimizer in enumerate(optimizers):
                backward(model)
                oracle.step(optimizer, at=2 * step + n)


def test_two_optimizers_over_one_parameter_take_two_steps_whether_it_is_weighed_or_not(tmp_path: Path) -> None:
    model = small()
    shared = [*model[0].parameters()]
    optimizers = [torch.optim.SGD([*shared, last], lr=0.1) for last in model[2].parameters()]
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=Plan(exclude="0.*")) as run:
        run.watch(model)
        for step in range(4):
            backward(model)
            optimizers[step % 2].step()
    rows = recorded_rows(run.path)
    assert [steps_of(rows, name, UPDATE) for name in ("2.weight", "2.bias")] == [[0, 2], [1, 3]]


def test_the_optimizer_of_a_parameter_that_came_in_another_s_place_begins_a_step(tmp_path: Path) -> None:
    model = nn.Linear(3, 1, bias=False)
    former = torch.optim.SGD(model.parameters(), lr=0.1)
    with watched(tmp_path, model) as (_run, oracle):
        backward(model)
        oracle.step(former, at=0)
        model.weight = nn.Parameter(torch.ones(1, 3))
        latter = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in (1, 2):
            backward(model)
            oracle.step(latter, at=step)


def test_an_optimizer_stepping_inside_backward_gives_one_step_per_iteration(tmp_path: Path) -> None:
    model = small()
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(lambda p: optimizers[p].step())  # type: ignore[index]
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        for _ in range(5):
            backward(model)
    rows = recorded_rows(run.path)
    for name, _ in model.named_parameters():
        assert steps_of(rows, name, PARAMETER) == [*range(6)]
        assert steps_of(rows, name, UPDATE) == [*range(5)]


def test_an_optimizer_of_an_unwatched_model_leaves_no_step(tmp_path: Path) -> None:
    model, other = small(0), small(1)
    mine, theirs = torch.optim.SGD(model.parameters(), lr=0.1), torch.optim.SGD(other.parameters(), lr=0.1)
    with watched(tmp_path, model) as (run, oracle):
        for _ in range(5):
            backward(other)
            theirs.step()
            backward(model)
            oracle.step(mine)
    assert [row["optimizer_step"] for row in weighbridge.open_run(run.path).steps_table().to_pylist()] == [*range(5)]


def test_many_optimizers_that_come_and_go_keep_their_own_numbers(tmp_path: Path) -> None:
    model = small()
    with watched(tmp_path, model) as (run, oracle):
        for step in range(6):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)  # anew in each step, where the last one was
            backward(model)
            oracle.step(optimizer, at=step)
            del optimizer
    assert weighbridge.open_run(run.path).steps_table().column("optimizer").to_pylist() == [*range(6)]


def test_unwatch_ends_the_rows_of_one_model_and_not_of_the_other(tmp_path: Path) -> None:
    model, other = small(0), small(1)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, other)]
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        run.watch(other)
        for step in range(4):
            if step == 2:
                run.unwatch(other)
            for m, optimizer in zip((model, other), optimizers, strict=True):
                backward(m)
                optimizer.step()
    rows = recorded_rows(run.path)
    assert steps_of(rows, "0.weight", UPDATE) == [0, 1, 2, 3]
    assert steps_of(rows, "2:0.weight", UPDATE) == [0, 1]


def test_own_cost_is_a_share_of_the_time_that_it_was_spent_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The first step brings the look at the graph and cold caches: its own time outweighs all the wall time behind it.
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    run = weighbridge.watch(model, run=weighbridge.init(dir=tmp_path))
    for _ in range(3):
        model(torch.ones(4, 2)).sum().backward()
        optimizer.step()
    run.finish()
    record = weighbridge.open_run(run.path)
    own, wall = record.own_cost()
    assert 0 < own < wall
    [end] = [event for event in record.events() if event.kind == "finished"]
    assert 0 < end.detail["own_seconds"] < end.detail["wall_seconds"]
    assert end.detail["wall_seconds"] == pytest.approx(wall, abs=0.05)  # another clock
    said = re.search(r"own cost ([\d.]+) %", capsys.readouterr().err)
    assert said is not None
    assert float(said[1]) == pytest.approx(100 * end.detail["own_seconds"] / end.detail["wall_seconds"], abs=0.06)


def test_one_step_has_no_own_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Linear(2, 1)
    run = weighbridge.watch(model, run=weighbridge.init(dir=tmp_path))
    model(torch.ones(4, 2)).sum().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    run.finish()
    assert weighbridge.open_run(run.path).own_cost() == (0, 0)
    assert "own cost" not in capsys.readouterr().err
