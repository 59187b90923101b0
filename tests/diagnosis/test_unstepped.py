"""One of two optimizers that steps no more. Oracle: small trainings in which the test itself lets one step out, or does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weighbridge
from tests.diagnosis.made import asked, block, step_rows
from weighbridge.diagnosis.registry import rule

NOT_TAKEN = rule("step-not-taken")
STEPS, AT = 75, 25


class _Loop:
    """A trunk and a head with an optimizer each, and what a kind of training does with them."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.ModuleDict({"trunk": nn.Linear(6, 8), "head": nn.Linear(8, 3)})
        self.trunk = torch.optim.Adam(self.model["trunk"].parameters(), lr=1e-3)
        self.head = torch.optim.SGD(self.model["head"].parameters(), lr=0.1)
        self.x, self.y = torch.randn(16, 6), torch.randint(0, 3, (16,))
        self.has_trunk = True

    def backward(self, weight: float = 1.0) -> None:
        hidden = self.model["trunk"](self.x)
        hidden = hidden if self.has_trunk else hidden.detach()
        (weight * F.cross_entropy(self.model["head"](hidden.relu()), self.y)).backward()

    def clear(self, set_to_none: bool = True) -> None:
        self.trunk.zero_grad(set_to_none)
        self.head.zero_grad(set_to_none)


def _together(loop: _Loop, trunk_steps: bool, set_to_none: bool = True) -> None:
    loop.clear(set_to_none)
    _pass_and_step(loop, trunk_steps)


def _pass_and_step(loop: _Loop, trunk_steps: bool) -> None:
    loop.backward()
    loop.head.step()
    if trunk_steps:
        loop.trunk.step()


def stops(loop: _Loop, step: int) -> None:
    _together(loop, step < AT)


def stops_and_zeroes_in_place(loop: _Loop, step: int) -> None:
    _together(loop, step < AT, set_to_none=False)


def is_done_with(loop: _Loop, step: int) -> None:
    """Nobody touches its optimizer any more; its gradients are taken away with all others."""
    for parameter in loop.model.parameters():
        if parameter.grad is not None:
            parameter.grad.zero_()
    _pass_and_step(loop, step < AT)


def is_done_with_by_the_model(loop: _Loop, step: int) -> None:
    loop.model.zero_grad()
    _pass_and_step(loop, step < AT)


def stops_after_every_second(loop: _Loop, step: int) -> None:
    _together(loop, step < AT and step % 2 == 0)


def goes_on(loop: _Loop, step: int) -> None:
    _together(loop, True)


def every_seventh(loop: _Loop, step: int) -> None:
    _together(loop, step % 7 == 0)


def comes_back(loop: _Loop, step: int) -> None:
    _together(loop, not AT <= step < AT + 9)


def is_frozen(loop: _Loop, step: int) -> None:
    loop.model["trunk"].requires_grad_(step < AT or step > AT + 40)
    _together(loop, step < AT or step > AT + 40)


def is_cut_off(loop: _Loop, step: int) -> None:
    """Its last gradient is still there, and nobody takes it away."""
    loop.has_trunk = step < AT
    piles_up(loop, step)


def is_cut_off_and_emptied(loop: _Loop, step: int) -> None:
    loop.has_trunk = step < AT
    _together(loop, step < AT, set_to_none=False)


def piles_up(loop: _Loop, step: int) -> None:
    """Somebody has done with it."""
    loop.head.zero_grad()
    if step < AT:
        loop.trunk.zero_grad()
    loop.backward()
    loop.head.step()
    if step < AT:
        loop.trunk.step()


def takes_turns(loop: _Loop, step: int) -> None:
    loop.clear()
    loop.backward()
    (loop.trunk if step // AT % 2 == 0 else loop.head).step()


def rivals(loop: _Loop, step: int) -> None:
    """Each has a loss of its own; the phase of one is over."""
    for optimizer, weight in ((loop.trunk, -1.0), (loop.head, 1.0)):
        loop.clear()
        loop.backward(weight)
        if optimizer is loop.head or step < AT:
            optimizer.step()


ILL: list[tuple[Callable[[_Loop, int], None], int, int]] = [
    (stops, AT, AT + 10),
    (stops_and_zeroes_in_place, AT, AT + 10),
    (stops_after_every_second, AT, AT + 10),
]
HEALTHY = [goes_on, every_seventh, comes_back, is_frozen, is_cut_off, is_cut_off_and_emptied, piles_up, takes_turns, rivals]


@pytest.mark.parametrize(
    ("turn", "expected"),
    [*((turn, [("trunk", first, told)]) for turn, first, told in ILL), *((turn, []) for turn in HEALTHY)],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_one_of_two_optimizers_steps_no_more(
    turn: Callable[[_Loop, int], None], expected: list[tuple[str, int, int]], tmp_path: Path
) -> None:
    loop = _Loop()
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(loop.model)
        for step in range(STEPS):
            turn(loop, step)
    told = weighbridge.diagnose(run.path, select=["step-not-taken"])
    assert [(f.place, f.first_step, f.told_step) for f in told] == expected
    assert {f.severity for f in told} <= {"warning"}


@pytest.mark.parametrize("turn", [is_done_with, is_done_with_by_the_model])
def test_a_part_whose_optimizer_nobody_touches_is_a_note(turn: Callable[[_Loop, int], None], tmp_path: Path) -> None:
    loop, of_torch = _Loop(), torch.optim.Optimizer.zero_grad
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(loop.model)
        for step in range(STEPS):
            turn(loop, step)
    told = weighbridge.diagnose(run.path, select=["step-not-taken"])
    assert [(f.severity, f.place, f.first_step, f.told_step) for f in told] == [("note", "trunk", AT, AT + 10)]
    assert torch.optim.Optimizer.zero_grad is of_torch


@pytest.mark.parametrize("last", [AT + 10, AT + 11], ids=["still looked for", "told"])
def test_torch_s_own_function_is_back_when_the_run_ends(last: int, tmp_path: Path) -> None:
    loop, of_torch = _Loop(), torch.optim.Optimizer.zero_grad
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(loop.model)
        for step in range(last):
            stops(loop, step)
        assert (torch.optim.Optimizer.zero_grad is of_torch) is (last != AT + 10)
    assert torch.optim.Optimizer.zero_grad is of_torch


@pytest.mark.parametrize(("shared", "taken", "is_told"), [(10, 10, True), (9, 9, False), (18, 20, True), (17, 20, False)])
def test_it_has_to_have_followed_the_same_loss(shared: int, taken: int, is_told: bool) -> None:
    """The other optimizer has number 1, and a loss of its own where the two part."""
    steps = [*step_rows(taken, loss=2.0)]
    steps += [{**row, "optimizer": 1, "loss": None if row["step"] < shared else 1.0} for row in step_rows(taken + 12)]
    steps.sort(key=lambda row: (row["step"], row["optimizer"]))
    event = {"step": taken + 10, "kind": "unstepped", "tensor": -1, "message": "", "detail": {"optimizer": 0, "missed": 10}}
    made = block(taken + 12, steps=steps, events=[event])
    for cuts in ((), range(taken + 12)):
        told = asked(NOT_TAKEN, made, *cuts).findings
        assert [(f.first_step, f.told_step) for f in told] == ([(taken, taken + 10)] if is_told else [])
