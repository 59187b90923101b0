"""Which batch a pass belongs to, and which passes leave no row. Oracle: the checksums of the batches that the test gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weighbridge
from tests.capture.oracle import table
from weighbridge.capture import pairing
from weighbridge.capture.pairing import Pairing
from weighbridge.capture.targets import Targets

INPUTS, TARGETS = 7, 8  # columns of a row: the checksums


def _sum(values: torch.Tensor) -> float:
    return sum(v * math.cos(i) for i, v in enumerate(values.flatten().tolist()))


def _loss(y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(torch.zeros(len(y), 3, requires_grad=True), y)


def _batch(seed: int, size: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(size, 4, generator=chance), torch.randint(0, 3, (size,), generator=chance)


def test_of_two_passes_of_a_step_the_first_is_compared() -> None:
    seen = Pairing()
    for seed in (0, 1):
        x, y = _batch(seed)
        seen.meet_batch((x,))
        seen.on_backward(_loss(y))
    (row,) = seen.rows(0, 0)
    x, y = _batch(0)
    assert (row[INPUTS], row[TARGETS]) == (pytest.approx(_sum(x)), pytest.approx(_sum(y)))
    assert seen.rows(1, 0) == []


def _of_no_target(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.ones(6, requires_grad=True).square().mean()


def _empty(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(torch.zeros(0, 3, requires_grad=True), y[:0], reduction="sum")


def _of_others(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return _loss(y[:4])


@pytest.mark.parametrize("loss", [_of_no_target, _empty, _of_others])
def test_a_pass_without_a_target_for_each_sample_leaves_no_row(loss: Any) -> None:
    seen, (x, y) = Pairing(), _batch(0)
    seen.meet_batch((x,))
    seen.on_backward(loss(x, y))
    assert seen.rows(0, 0) == []


def test_a_batch_that_is_not_finite_leaves_no_row() -> None:
    seen, (x, y) = Pairing(), _batch(0)
    x[0, 0] = math.inf
    seen.meet_batch((x,))
    seen.on_backward(_loss(y))
    assert seen.rows(0, 0) == []


def test_targets_worked_out_from_differences_have_no_checksum() -> None:
    """They hold the rounding of the outputs: equal targets would have another sum at each step."""
    seen, (x, _) = Pairing(), _batch(0)
    seen.meet_batch((x,))
    out = F.linear(x, torch.ones(2, 4, requires_grad=True), torch.zeros(2, requires_grad=True))
    seen.on_backward(((out - torch.randn(6, 2)) ** 2).mean())
    (row,) = seen.rows(0, 0)
    assert math.isnan(row[TARGETS])


@pytest.mark.parametrize("ways", ["once", "twice", "a part again", "without a tensor"])
def test_the_batch_is_what_the_model_itself_was_given_once(ways: str) -> None:
    """Its first layer is called first, with something else perhaps; a model that is called twice has seen no whole batch."""
    seen, (x, y), (inner, _) = Pairing(), _batch(0), _batch(1)
    seen.meet_batch((inner,), met_by=7)
    if ways == "a part again":
        seen.meet_again(7)
    else:
        seen.meet_again(8)
        seen.meet_whole(() if ways == "without a tensor" else (x,))
    if ways == "twice":
        seen.meet_whole((x,))
    seen.on_backward(_loss(y))
    expected = {"once": [_sum(x)], "without a tensor": [_sum(inner)]}.get(ways, [])
    assert [row[INPUTS] for row in seen.rows(0, 0)] == pytest.approx(expected)


ODD: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "a number": lambda x: torch.tensor(1.0),
    "one sample": lambda x: x[:1],
    "complex": lambda x: x.to(torch.complex64),
    "sparse": lambda x: x.to_sparse(),
    "without numbers": lambda x: torch.ones(6, device="meta"),
    "a subclass": lambda x: x.as_subclass(Other),
}


class Other(torch.Tensor):
    pass


@pytest.mark.parametrize("odd", ODD)
def test_only_tensors_with_a_row_for_each_of_several_samples_are_inputs(odd: str) -> None:
    seen, (x, _) = Pairing(), _batch(0)
    seen.meet_batch((ODD[odd](x), x))
    assert [one.features.tolist() for one in seen.inputs] == [x.tolist()]


def test_one_number_for_each_sample_is_no_input_alone() -> None:
    seen, (x, y) = Pairing(), _batch(0)
    seen.meet_batch((x[:, 0],))
    seen.on_backward(_loss(y))
    assert seen.rows(0, 0) == []


class Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, adjacency: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self.layer(torch.sparse.mm(adjacency, x))


def test_a_model_that_is_given_a_sparse_adjacency_is_weighed_as_any(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, (x, y) = Graph(), _batch(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(model(torch.eye(6).to_sparse(), x), y).backward()
            optimizer.step()
    assert "error of ours" not in capsys.readouterr().err
    assert table(run.path, "pairing")


def test_numbers_that_are_the_targets_by_chance_are_not_those_that_the_model_was_given() -> None:
    """Of another kind, or of another length than tokens moved by one; a column alone has nothing to be moved by."""
    wanted = np.random.default_rng(0).integers(0, 9, (40, 3))
    assert pairing._holds(wanted, wanted)
    assert not pairing._holds(wanted.astype(np.float64), wanted)
    assert not pairing._holds(np.concatenate([wanted, wanted], axis=1), wanted)
    with np.errstate(all="raise"):
        assert not pairing._holds(wanted[::-1, :1].copy(), wanted[:, :1])


def test_three_samples_say_nothing_about_distances() -> None:
    seen, (x, y) = Pairing(), _batch(0, 3)
    seen.meet_batch((x,))
    seen.on_backward(_loss(y))
    (row,) = seen.rows(0, 0)
    assert row[3:5] == (0.0, 0.0)


def test_targets_that_are_all_the_same_agree_with_nothing() -> None:
    seen = Pairing()
    for seed in (0, 1):
        x, _ = _batch(seed)
        seen.meet_batch((x,))
        seen.on_backward(F.mse_loss(torch.zeros(6, 1, requires_grad=True), torch.full((6, 1), 2.0)))
        (row,) = seen.rows(seed, 0)
    assert row[5] == 0


def test_of_many_rows_the_first_the_last_and_those_evenly_between_are_taken() -> None:
    rows = np.arange(12).reshape(6, 2)
    assert pairing._evenly(rows, 6) is rows
    assert pairing._evenly(rows, 4)[:, 0].tolist() == [0, 2, 6, 10]
    assert pairing._evenly(rows, 2)[:, 0].tolist() == [0, 10]


def _of_squares(root: Any, mean_square: float) -> float:
    return pairing._factor(torch.tensor(root), Targets("MseLoss", None, mean_square))


def test_a_factor_is_that_of_a_squared_error_or_1() -> None:
    assert _of_squares(6.0, 4.0) == 1.5
    assert _of_squares(6.0, math.nan) == 1.0  # of another loss
    assert _of_squares(6.0, 0.0) == 1.0
    assert _of_squares([6.0, 1.0], 4.0) == 1.0
    assert _of_squares(0.0, 4.0) == _of_squares(-6.0, 4.0) == 1.0  # less something else: no factor of a square
    assert _of_squares(math.nan, 4.0) == 1.0
