"""Gradients that nobody takes away between steps. Oracle: the loop itself, which zeroes them or does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import weighbridge
from weighbridge.capture import leftovers
from weighbridge.capture.leftovers import KIND, Leftover, Leftovers
from weighbridge.capture.stepped import Stepped
from weighbridge.store.record import open_run


class Loop:
    """Two networks without biases, an optimizer each, and what is done to their gradients before each pass."""

    def __init__(
        self,
        zero: Callable[[Loop, int], None],
        where: Path,
        after_pass: Callable[[Loop, int], None] = lambda loop, step: None,
        plan: weighbridge.Plan | None = None,
    ) -> None:
        torch.manual_seed(0)
        self.steps = 8
        self.model = nn.ModuleDict({"a": nn.Linear(3, 4, bias=False), "b": nn.Linear(4, 1, bias=False)})
        self.one, self.two = (torch.optim.SGD(self.model[k].parameters(), lr=0.01) for k in "ab")
        weighbridge.init(dir=where, name="run", plan=plan)
        with weighbridge.watch(self.model) as run:
            for step in range(self.steps):
                zero(self, step)
                self.model["b"](self.model["a"](torch.randn(5, 3))).square().mean().backward()
                after_pass(self, step)
                self.one.step()
                self.two.step()
        self.path = run.path

    def events(self) -> list[tuple[int, int]]:
        """(step, optimizer) of each event; every step is recorded, whatever was found."""
        assert set(open_run(self.path).steps_table().column("step").to_pylist()) == set(range(self.steps))
        rows = open_run(self.path).whole("events").to_pylist()
        return [(row["step"], json.loads(row["detail"])["optimizer"]) for row in rows if row["kind"] == KIND]


def _all(loop: Loop, step: int) -> None:
    loop.model.zero_grad()


def _in_place(loop: Loop, step: int) -> None:
    loop.model.zero_grad(set_to_none=False)


def _by_data(loop: Loop, step: int) -> None:
    for p in loop.model.parameters():
        if p.grad is not None:
            p.grad.data.zero_()  # changes no version


@pytest.mark.parametrize("zero", [_all, _in_place, _by_data])
def test_what_is_zeroed_in_any_way_is_clean(zero: Callable[[Loop, int], None], tmp_path: Path) -> None:
    assert Loop(zero, tmp_path).events() == []


def test_an_optimizer_whose_gradients_stay_is_told_at_the_third_step_that_uses_them(tmp_path: Path) -> None:
    assert Loop(lambda loop, step: None, tmp_path).events() == [(3, 0), (3, 1)]


def test_only_the_one_that_is_forgotten(tmp_path: Path) -> None:
    assert Loop(lambda loop, step: loop.one.zero_grad(), tmp_path).events() == [(3, 1)]


def test_from_the_step_on_in_which_zeroing_ends(tmp_path: Path) -> None:
    assert Loop(lambda loop, step: loop.model.zero_grad() if step < 4 else None, tmp_path).events() == [(6, 0), (6, 1)]


def test_one_step_without_zeroing_breaks_no_silence(tmp_path: Path) -> None:
    assert Loop(lambda loop, step: loop.model.zero_grad() if step % 3 else None, tmp_path).events() == []


def test_micro_steps_and_a_second_pass_add_up_on_purpose(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1, bias=False)
    optimizer = torch.optim.Adam(model.parameters())
    weighbridge.init(dir=tmp_path, name="run")
    with weighbridge.watch(model) as run:
        for step in range(24):
            model(torch.randn(4, 3)).square().mean().backward()
            if step % 4 == 3:
                optimizer.step()
                optimizer.zero_grad(set_to_none=False)
    assert [r for r in open_run(run.path).whole("events").to_pylist() if r["kind"] == KIND] == []


def test_a_critic_is_left_with_the_generator_s_gradient_and_zeroes_it_before_its_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"g": nn.Linear(2, 2, bias=False), "d": nn.Linear(2, 1, bias=False)})
    g, d = (torch.optim.Adam(model[k].parameters(), lr=1e-3) for k in "gd")
    weighbridge.init(dir=tmp_path, name="run")
    with weighbridge.watch(model) as run:
        for _ in range(10):
            fake = model["g"](torch.randn(8, 2))
            d.zero_grad(set_to_none=False)
            (model["d"](fake.detach()).mean() - model["d"](torch.randn(8, 2)).mean()).backward()
            d.step()
            g.zero_grad(set_to_none=False)
            (-model["d"](fake)).mean().backward()
            g.step()
    assert [r for r in open_run(run.path).whole("events").to_pylist() if r["kind"] == KIND] == []


def test_steps_without_a_pass_between_add_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    weighbridge.init(dir=tmp_path, name="run")
    with weighbridge.watch(model) as run:
        model(torch.randn(4, 3)).square().mean().backward()
        for _ in range(6):
            optimizer.step()
    assert [r for r in open_run(run.path).whole("events").to_pylist() if r["kind"] == KIND] == []


def test_gradients_that_are_taken_away_before_the_step_are_none_of_an_earlier_one(tmp_path: Path) -> None:
    """Zeroed at the wrong place in every second step: nothing is left for the optimizer, and the recording goes on."""
    done = Loop(lambda loop, step: None, tmp_path, lambda loop, step: loop.model.zero_grad() if step % 2 else None)
    assert done.events() == []


def test_an_optimizer_of_which_nothing_is_weighed_is_not_asked(tmp_path: Path) -> None:
    done = Loop(lambda loop, step: None, tmp_path, plan=weighbridge.Plan(exclude="b.*"))
    assert done.events() == [(3, 0)]


def test_an_optimizer_whose_tensors_all_lie_elsewhere_is_not_asked() -> None:
    """Another rank weighs them, or a device."""
    stepped, leftovers_of_all = Stepped(0, torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)), Leftovers()
    assert not leftovers_of_all.after_step(stepped)
    leftovers_of_all.before_pass()
    assert not leftovers_of_all.after_step(stepped)


class Mixed(nn.Module):
    """From the smallest on: no gradient, one of zeros, a sparse one, one to look at."""

    def __init__(self) -> None:
        super().__init__()
        self.unused, self.zeroed = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(2))
        self.sparse, self.plain = nn.Embedding(3, 1, sparse=True), nn.Linear(4, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.plain(x).sum() + self.sparse(torch.arange(2)).sum() + (0 * self.zeroed).sum()


@pytest.mark.parametrize(("small", "found"), [(4, ["plain.weight"]), (3, [])])
def test_the_smallest_with_a_gradient_that_can_be_read_is_looked_at(
    small: int, found: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "SMALL", small)
    model = Mixed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        for _ in range(6):
            model(torch.ones(2, 4)).backward()
            optimizer.step()
    record = open_run(run.path)
    names = {tensor.id: tensor.name for tensor in record.tensors}
    assert record.steps_table().num_rows == 6
    assert [names[row["tensor"]] for row in record.whole("events").to_pylist() if row["kind"] == KIND] == found


@pytest.mark.parametrize(
    ("has_stepped", "is_in_step", "has_gradient", "in_a_row", "is_clean"),
    [
        (True, True, True, 0, True),  # what is there now is of the pass that has begun: it was gone before
        (True, False, True, 0, False),  # it is of the last step: the next pass shows whether it stays
        (True, False, False, 0, True),
        (False, True, True, 2, True),  # no step since: what was counted stands
        (False, False, False, 2, False),
    ],
)
def test_what_c_has_done_without_us_ends_a_row_and_its_last_gradient_is_asked_for(
    has_stepped: bool, is_in_step: bool, has_gradient: bool, in_a_row: int, is_clean: bool
) -> None:
    one = Leftover()
    one.parameter, one.in_a_row, one.is_clean = nn.Parameter(torch.ones(2)), 2, False
    if has_gradient:
        one.parameter.grad = torch.ones(2).mul_(3)
    one.was_clean(has_stepped, is_in_step)
    assert (one.in_a_row, one.is_clean) == (in_a_row, is_clean)
    if has_stepped and not is_in_step:
        assert one.version == (1 if has_gradient else -1)
    one.parameter = None  # nothing is looked at yet
    one.was_clean(has_stepped, is_in_step)
