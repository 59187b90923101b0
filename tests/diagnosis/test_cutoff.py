"""Gradients that end in mid-run. Oracle: what the training itself does to its graph, and from which step on."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weighbridge
from weighbridge.diagnosis import Finding
from weighbridge.diagnosis.cutoff import fed
from weighbridge.lossgraph import Graph, Node

ONSET = 45


class Net(nn.Module):
    """A trunk, a branch beside it, a head and another head; `step` says what is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 16), nn.Tanh())
        self.branch, self.head, self.other = nn.Linear(16, 16), nn.Linear(16, 3), nn.Linear(16, 1)

    def forward(self, x: torch.Tensor, how: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        h = self.trunk(x)
        h = torch.tensor(h.tolist()) if how == "cut" else h
        h = h if how == "skipped" else h + torch.tanh(self.branch(h))
        return self.head(h), None if how == "one head" else self.other(h)


class Experts(nn.Module):
    """Two, one of which is not asked any more."""

    def __init__(self) -> None:
        super().__init__()
        self.experts, self.head = nn.ModuleList([nn.Linear(8, 16), nn.Linear(8, 16)]), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor, how: str) -> tuple[torch.Tensor, None]:
        asked = self.experts[:1] if how == "one expert" else self.experts
        return self.head(torch.tanh(sum(expert(x) for expert in asked))), None


def told(
    model: nn.Module, where: Path, how: Callable[[int], str], onset: Callable[[nn.Module], None] | None = None, **zero: bool
) -> list[Finding]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 8, generator=generator)
    y, z = x[:, :3].argmax(dim=1), x[:, :1]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with weighbridge.watch(model, run=weighbridge.init(dir=where, name="run")) as run:
        for step in range(90):
            if step == ONSET and onset is not None:
                onset(model)
            rows = torch.randint(256, (32,), generator=generator)
            answer, other = model(x[rows], how(step))
            loss = F.cross_entropy(answer, y[rows])
            loss = loss if other is None else loss + F.mse_loss(other, z[rows])
            optimizer.zero_grad(**zero)
            loss.backward()
            optimizer.step()
    return [one for one in weighbridge.diagnose(run.path) if one.rule == "parameter-without-gradient"]


def after(way: str) -> Callable[[int], str]:
    return lambda step: way if step >= ONSET else ""


@pytest.mark.parametrize("in_place", [False, True])
def test_a_trunk_that_is_cut_off_is_told_within_steps(in_place: bool, tmp_path: Path) -> None:
    torch.manual_seed(1)
    (found,) = told(Net(), tmp_path, after("cut"), set_to_none=not in_place)
    assert (found.severity or "warning", found.place, found.first_step) == ("warning", "trunk", ONSET)
    assert found.told_step <= ONSET + 5 if in_place else found.told_step == ONSET + 2


def test_a_branch_that_is_skipped_is_told_after_a_while(tmp_path: Path) -> None:
    torch.manual_seed(1)
    (found,) = told(Net(), tmp_path, after("skipped"))
    assert (found.place, found.first_step, found.told_step) == ("branch", ONSET, ONSET + 19)


def test_a_head_whose_loss_is_over_is_no_fault(tmp_path: Path) -> None:
    torch.manual_seed(1)
    assert not told(Net(), tmp_path, after("one head"))


def test_one_of_several_experts_that_is_not_asked_is_no_fault(tmp_path: Path) -> None:
    torch.manual_seed(1)
    assert not told(Experts(), tmp_path, after("one expert"))


def test_a_branch_that_is_dropped_by_chance_is_no_fault(tmp_path: Path) -> None:
    torch.manual_seed(1)
    chance = random.Random(3)
    assert not told(Net(), tmp_path, lambda _: "skipped" if chance.random() < 0.5 else "")


def test_freezing_is_no_fault(tmp_path: Path) -> None:
    torch.manual_seed(1)

    def freeze(model: nn.Module) -> None:
        model.get_submodule("trunk").requires_grad_(False)

    assert not told(Net(), tmp_path, lambda _: "", freeze)


def test_a_second_phase_in_which_others_begin_to_learn_is_no_fault(tmp_path: Path) -> None:
    """First an autoencoder, then a head on what its encoder gives, detached."""
    torch.manual_seed(1)
    model = nn.ModuleDict({"encode": nn.Linear(8, 8), "decode": nn.Linear(8, 8), "head": nn.Linear(8, 3)})
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with weighbridge.watch(model, run=weighbridge.init(dir=tmp_path, name="run")) as run:
        for step in range(90):
            x = torch.randn(32, 8)
            code = torch.tanh(model["encode"](x))
            whole = F.mse_loss(model["decode"](code), x)
            loss = whole if step < ONSET else F.cross_entropy(model["head"](code.detach()), x[:, :3].argmax(dim=1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert not [f for f in weighbridge.diagnose(run.path) if f.rule == "parameter-without-gradient" and f.first_step >= ONSET]


def test_what_a_parameter_feeds_is_read_off_the_graph() -> None:
    leaf = [Node("Parameter", (), ((2, 2),), parameter=name) for name in "abp"]
    wide = ((4, 2),)
    nodes = (*leaf, Node("Mm", (None, (0, 0)), wide), Node("T", ((1, 0),), wide), Node("Mm", ((3, 0), (4, 0)), wide))
    graph = Graph((*nodes, Node("Sum", ((5, 0),), ((),)), Node("Mul", ((6, 0), (2, 0)), ((),))))
    assert fed(graph, {"a"}, {"b", "p"}) == {"b"}  # p weighs the loss, which is one number
    assert not fed(graph, {"b"}, {"a", "p"})
