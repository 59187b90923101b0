"""What the hook of a module makes of what the module is given and gives. Oracle: sizes and gradients by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import weighbridge
from tests.capture.oracle import events
from tests.capture.output_oracle import EVERYTHING, output_rows
from weighbridge.capture.outputhook import OutputHook, follow
from weighbridge.records import Quantity


class Marked(torch.Tensor):
    """Of a class of somebody's own."""


@pytest.mark.parametrize(
    ("args", "axis", "samples"),
    [
        ((torch.ones(6, 2),), 0, 6),
        ((torch.ones(6, 2), torch.ones(3)), 0, 6),
        ((torch.ones(5, 6, 2),), 1, 6),  # the sequence comes first
        ((torch.ones(6, 2),), 1, 0),  # one sequence, of no batch
        ((torch.tensor(1.0),), 0, 0),
        ((torch.ones(6, 2).as_subclass(Marked),), 0, 0),
        ((["words"],), 0, 0),
        ((), 0, 0),  # by keyword alone
        ((torch.ones(6, 2),), -1, 0),  # not this module's to say
    ],
)
def test_a_module_says_of_how_many_samples_a_pass_is_where_it_can(args: Any, axis: int, samples: int) -> None:
    scene = SimpleNamespace(samples=0)
    hook: Any = SimpleNamespace(state=SimpleNamespace(samples_axis=axis), outputs=SimpleNamespace(scene=scene))
    OutputHook._count_samples(hook, args)
    assert scene.samples == samples
    scene.samples = 4  # another one has said it
    OutputHook._count_samples(hook, args)
    assert scene.samples == 4


class Giving(nn.Module):
    """Gives its parameter itself: it needs a gradient, and has no history."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(1.0, 4.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.last = Giving(), nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.last(x * self.scale(x))
        return y


def test_a_module_that_gives_its_parameter_is_weighed_and_ends_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Scaled()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    sums = []
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=EVERYTHING) as run:
        run.watch(model)
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).sum().backward()
            sums.append(float(model.scale.weight.detach().double().sum()))
            optimizer.step()
    rows = output_rows(run.path)
    assert events(run.path, "warned") == []
    for name, quantity in (("scale/out", Quantity.ACTIVATION), ("last/out", Quantity.ACTIVATION_GRADIENT)):
        assert [step for step, one, what in sorted(rows) if (one, what) == (name, quantity)] == [0, 1, 2, 3]
    assert [rows[step, "scale/out", Quantity.ACTIVATION]["sum"] for step in range(4)] == pytest.approx(sums)


def test_the_user_s_own_hooks_on_an_output_stay_what_they_were() -> None:
    x = torch.ones(3, requires_grad=True)
    y, met = x * 2, []
    y.register_hook(lambda gradient: met.append("theirs"))
    theirs = y._backward_hooks
    follow(y, {0: lambda gradient: met.append("ours")})
    assert y._backward_hooks is theirs
    y.sum().backward()
    assert sorted(met) == ["ours", "theirs"]
    follow(x, {0: lambda gradient: met.append("never")})  # of no history
    assert x._backward_hooks is None
