"""Settings of optimizers of any kind, as the table of steps has them. Oracle: the numbers that the test itself put in."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import weighbridge

NAN = math.nan


class Own(torch.optim.Optimizer):
    """A stranger's optimizer, with whatever settings it likes."""

    def __init__(self, parameters: Any, **settings: Any) -> None:
        super().__init__(parameters, settings)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter -= 0.25 * parameter.grad


def told(folder: Path, optimizer_of: Any) -> list[tuple[list[float], list[float], list[float]]]:
    """lr, momentum and weight decay of the groups, at each of two steps."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = optimizer_of(model.parameters())
    with weighbridge.init(dir=folder, name="run", quiet=True) as run:
        run.watch(model)
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).square().mean().backward()
            optimizer.step()
    rows = weighbridge.open_run(run.path).steps_table().to_pylist()
    return [(row["lr"], row["momentum"], row["weight_decay"]) for row in rows]


SETTINGS: dict[str, tuple[dict[str, Any], tuple[float, float, float]]] = {
    "none": ({}, (NAN, NAN, NAN)),
    "plain": ({"lr": 0.25, "momentum": 0.5, "weight_decay": 0.125}, (0.25, 0.5, 0.125)),
    "whole": ({"lr": 1, "momentum": 0, "weight_decay": 2}, (1.0, 0.0, 2.0)),
    "betas": ({"lr": 0.25, "betas": (0.75, 0.5)}, (0.25, 0.75, NAN)),
    "momentum before betas": ({"momentum": 0.5, "betas": (0.75, 0.5)}, (NAN, 0.5, NAN)),
    "betas in a list": ({"betas": [0.75]}, (NAN, 0.75, NAN)),
    "betas of another kind": ({"lr": 0.25, "betas": 0.5}, (0.25, NAN, NAN)),
    "no betas": ({"lr": 0.25, "betas": None}, (0.25, NAN, NAN)),
    "empty betas": ({"lr": 0.25, "betas": ()}, (0.25, NAN, NAN)),
    "of numpy": ({"lr": np.float32(0.25), "weight_decay": np.int64(2)}, (0.25, NAN, 2.0)),
    "tensors": ({"lr": torch.tensor(0.25), "weight_decay": torch.tensor([0.5])}, (0.25, NAN, 0.5)),
    "a rate that is learned": ({"lr": torch.tensor(0.25, requires_grad=True)}, (0.25, NAN, NAN)),
    "a rate for each row": ({"lr": torch.tensor([0.25, 0.5])}, (NAN, NAN, NAN)),
    "on a device": ({"lr": torch.empty((), device="meta")}, (NAN, NAN, NAN)),
    "words": ({"lr": "fast", "weight_decay": None}, (NAN, NAN, NAN)),
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_settings_of_any_kind_are_the_numbers_that_they_are_or_not_known(tmp_path: Path, kind: str) -> None:
    settings, expected = SETTINGS[kind]
    rows = told(tmp_path, lambda parameters: Own(parameters, **settings))
    assert len(rows) == 2
    for row in rows:
        assert [one for (one,) in row] == pytest.approx([*expected], nan_ok=True, abs=0)


def test_settings_that_are_no_plain_values_are_left_out_of_the_groups(tmp_path: Path) -> None:
    kept = {"nesterov": True, "eps": 1e-8, "mode": "slow", "betas": [0.5, 0.75], "shape": [1, 2], "nothing": None}
    mixed = {"tensor": torch.zeros(2), "call": len, "list of tensors": [torch.zeros(1)], "lr": 0.5}
    told(tmp_path, lambda parameters: Own(parameters, **kept, **mixed))
    (group,) = weighbridge.open_run(tmp_path / "run").optimizer_groups()
    assert dict(group.settings) == kept


def test_a_group_holds_what_is_watched_of_it(tmp_path: Path) -> None:
    model, other = nn.Linear(3, 1), nn.Parameter(torch.zeros(2))
    other.grad = torch.ones(2)
    optimizer = Own([*model.parameters(), other], lr=0.25)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        model(torch.ones(2, 3)).square().mean().backward()
        optimizer.step()
    (group,) = weighbridge.open_run(run.path).optimizer_groups()
    assert group.tensors == ("weight", "bias")
