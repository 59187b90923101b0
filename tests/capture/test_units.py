"""Sums of each unit, and what a bias adds beside the rest. Oracle: NumPy on what the module gave."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import weighbridge
from tests.capture.oracle import table
from tests.capture.output_oracle import data, train
from weighbridge.capture.plan import Schedule
from weighbridge.records import Quantity

ACTIVATION, GRADIENT = Quantity.ACTIVATION, Quantity.ACTIVATION_GRADIENT


@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 4), (1, 4)])
def test_the_sums_of_each_unit(tmp_path: Path, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
    seen: dict[tuple[int, str], torch.Tensor] = {}

    def by_hand(step: int) -> None:
        seen[step, "0/out"] = model[0](data(step, *shape)).detach()
        seen[step, "1/out"] = seen[step, "0/out"].relu()

    path = train(tmp_path, model, lambda step: model(data(step, *shape)).square().sum(), truth=by_hand)
    names = {t.id: t.name for t in weighbridge.open_run(path).outputs}
    rows = {(row["step"], names[row["tensor"]]): row for row in table(path, "units")}
    assert set(rows) == set(seen)
    for key, row in rows.items():
        y = seen[key].reshape(-1, 6)
        assert (row["n"], row["steps"]) == (len(y), 1)
        assert row["active"] == (y > 0).sum(0).tolist()
        assert row["sum"] == pytest.approx(y.double().sum(0).tolist(), rel=1e-6, abs=1e-9)
        assert row["sum_sq"] == pytest.approx(y.double().square().sum(0).tolist(), rel=1e-6)
        assert row["max"] == pytest.approx(y.abs().amax(0).tolist())


def test_units_are_summed_over_the_steps_since_their_last_row(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, total = nn.Linear(4, 3), torch.zeros(3, dtype=torch.float64)
    plan = weighbridge.Plan(activations=True, units=Schedule(every=5))

    def by_hand(step: int) -> None:
        if 0 < step <= 5:
            total.add_(model(data(step, 2, 4)).detach().double().sum(0))

    path = train(tmp_path, model, lambda step: model(data(step, 2, 4)).sum(), steps=7, plan=plan, truth=by_hand)
    rows = {row["step"]: row for row in table(path, "units")}
    assert {step: (row["steps"], row["n"]) for step, row in rows.items()} == {0: (1, 2), 5: (5, 10)}
    assert rows[5]["sum"] == pytest.approx(total.tolist(), rel=1e-6)


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_what_a_bias_adds_beside_the_rest(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    module = nn.Linear(4, 3) if kind == "linear" else nn.Conv2d(2, 3, 2)
    shape = (5, 4) if kind == "linear" else (5, 2, 4, 4)
    model, seen = nn.Sequential(module, nn.Tanh()), {}

    def by_hand(step: int) -> None:
        y = module(data(step, *shape)).detach().double()
        b = module.bias.detach().double().reshape((1, 3) if kind == "linear" else (1, 3, 1, 1)).expand_as(y)
        seen[step] = (float((b * b).sum()), float(((y - b) ** 2).sum()), float((b * (y - b)).sum()), y.numel() // 3)

    path = train(tmp_path, model, lambda step: model(data(step, *shape)).square().sum(), truth=by_hand)
    rows = {row["step"]: row for row in table(path, "biases")}
    assert set(rows) == set(seen)
    bias = weighbridge.open_run(path).tensor("0.bias")
    for step, row in rows.items():
        assert row["tensor"] == bias.id
        assert (row["bias_sq"], row["rest_sq"], row["dot"], row["n"]) == pytest.approx(seen[step], rel=1e-5, abs=1e-6)
