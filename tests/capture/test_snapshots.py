"""Hands that change parameters between steps, and a bounded memory for copies. Oracle: clones around `step`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import weighbridge
from tests.capture.oracle import GRADIENT, PARAMETER, UPDATE, Oracle, check, events, recorded_rows, steps_of
from tests.capture.oracle import train as train_watched

SMALL, LARGE = 60, 90  # 3,600 elements are compared byte by byte, 8,100 are not


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(SMALL, SMALL), nn.Linear(SMALL, LARGE), nn.Linear(LARGE, LARGE))


def train(
    model: nn.Module, folder: Path, between: Callable[[int], None], steps: int = 6, plan: weighbridge.Plan | None = None
) -> tuple[Path, Oracle]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss: Callable[[int], torch.Tensor] = lambda step: model(torch.ones(2, SMALL)).square().mean()
    return train_watched(folder, model, optimizer, loss, steps, between=between, plan=plan)


def scale(p: nn.Parameter) -> None:
    p.data.mul_(0.5)


def write(p: nn.Parameter) -> None:
    p.data[0] = 7.0


def in_place(p: nn.Parameter) -> None:
    with torch.no_grad():
        p.add_(1.0)


def exchange(p: nn.Parameter) -> None:
    p.data = p.data * 2


def through_numpy(p: nn.Parameter) -> None:
    p.detach().numpy()[...] += 0.25


def restore(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    model.load_state_dict(state)


EDITS = {f.__name__: f for f in (scale, write, in_place, exchange, through_numpy)}


@pytest.mark.parametrize("edit", EDITS)
def test_a_hand_edit_is_noted_and_the_update_is_still_the_optimizers_own(edit: str, tmp_path: Path) -> None:
    model = network()
    path, oracle = train(model, tmp_path, lambda step: EDITS[edit](model[0].weight) if step in (2, 4) else None)
    check(path, oracle)
    (changed,) = events(path, "changed")  # the first time in words, the total at the end
    assert (changed.step, changed.tensor) == (2, weighbridge.open_run(path).tensor("0.weight").id)
    assert "0.weight" in changed.message
    (total,) = events(path, "changes")
    assert total.detail == {"0.weight": 2}


def test_an_edit_of_a_large_tensor_under_no_grad_is_noted(tmp_path: Path) -> None:
    model = network()
    path, oracle = train(model, tmp_path, lambda step: in_place(model[2].weight) if step == 3 else None)
    check(path, oracle)
    assert [event.step for event in events(path, "changed")] == [3]


def test_load_state_dict_in_the_middle_is_noted_for_every_tensor(tmp_path: Path) -> None:
    model = network()
    first = copy.deepcopy(model.state_dict())
    path, oracle = train(model, tmp_path, lambda step: restore(model, first) if step == 3 else None)
    check(path, oracle)
    assert len(events(path, "changed")) == 6


def test_what_happens_before_the_first_step_is_no_change(tmp_path: Path) -> None:
    model = network()
    path, oracle = train(model, tmp_path, lambda step: scale(model[0].weight) if step == 0 else None)
    check(path, oracle)
    assert not events(path, "changed")


def test_a_small_snapshot_budget_leaves_rows_out_and_none_wrong(tmp_path: Path) -> None:
    """1 KB holds no large copy at all: those tensors have parameter and gradient rows, and no update."""
    model = network()
    model.unused = nn.Parameter(torch.ones(5000))  # no gradient
    edit: Callable[[int], None] = lambda step: in_place(model[2].weight) if step == 3 else None
    path, oracle = train(model, tmp_path, edit, plan=weighbridge.Plan(snapshot="1 KB"))
    check(path, oracle, may_lack=lambda key: key[2] == UPDATE)
    assert [event.step for event in events(path, "changed")] == [3]
    rows = recorded_rows(path)
    assert steps_of(rows, "0.weight", UPDATE) == [*range(6)]
    assert not steps_of(rows, "2.weight", UPDATE)
    assert steps_of(rows, "2.weight", GRADIENT) == [*range(6)]
    (said,) = events(path, "reduced")
    assert "not weighed" in said.message
    assert said.detail == {"tensors": ["unused", "1.weight", "2.weight"]}


def test_tensors_without_a_copy_have_the_rows_of_the_plan_s_steps(tmp_path: Path) -> None:
    model = network()
    plan = weighbridge.Plan(snapshot="1 KB", parameters=2, gradients=3, updates=2)
    path, oracle = train(model, tmp_path, lambda step: None, plan=plan)
    check(path, oracle, may_lack=lambda key: True)
    rows = recorded_rows(path)
    for name, updates in (("0.weight", [0, 2, 4]), ("2.weight", [])):
        steps = [steps_of(rows, name, quantity) for quantity in (PARAMETER, GRADIENT, UPDATE)]
        assert steps == [[0, 2, 4, 6], [0, 3], updates], name


def test_a_middling_snapshot_budget_lets_large_tensors_take_turns(tmp_path: Path) -> None:
    model = network()
    small = sum(p.numel() for p in model.parameters() if p.numel() <= 4096)
    budget = 4 * (small + LARGE * LARGE + 200)  # the small ones and one large one at a time
    edit: Callable[[int], None] = lambda step: in_place(model[2].weight) if step == 3 else None
    path, oracle = train(model, tmp_path, edit, steps=8, plan=weighbridge.Plan(snapshot=budget))
    check(path, oracle, may_lack=lambda key: key[2] == UPDATE)
    rows = recorded_rows(path)
    turns = [steps_of(rows, name, UPDATE) for name in ("1.weight", "2.weight")]
    assert sorted(turns[0] + turns[1]) == [*range(8)]
    assert len(turns[0]) == len(turns[1]) == 4
    assert steps_of(rows, "2.weight", PARAMETER) == [*range(9)]
    (said,) = events(path, "reduced")
    assert "each at one step in 2" in said.message


def test_a_slice_is_weighed_as_it_is_after_every_edit_and_in_every_form(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2, bias=False)
    model.weight = nn.Parameter(torch.randn(2, 6)[:, ::2])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss: Callable[[int], torch.Tensor] = lambda step: model(torch.ones(1, 3, dtype=model.weight.dtype)).square().mean()

    def slice_gradient(p: torch.Tensor) -> None:
        whole = torch.zeros(2, 6, dtype=p.dtype)
        whole[:, ::2] = p.grad
        p.grad = whole[:, ::2]

    model.weight.register_post_accumulate_grad_hook(slice_gradient)
    edits: dict[int, Callable[[], object]] = {2: lambda: scale(model.weight), 4: model.double}
    path, oracle = train_watched(tmp_path, model, optimizer, loss, 6, between=lambda step: edits.get(step, int)())
    check(path, oracle)
    (total,) = events(path, "changes")
    assert total.detail == {"weight": 2}
