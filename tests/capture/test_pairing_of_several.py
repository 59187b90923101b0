"""Models that are given several tensors: which of them are the inputs. Oracle: data made dependent or not by the test."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weighbridge
from weighbridge.capture import pairing
from weighbridge.capture.pairing import Pairing


def _score(rows: list[dict[str, Any]], name: str) -> float:
    return sum(row[name] for row in rows) / math.sqrt(sum(row[f"{name}_variance"] for row in rows))


class _OnGraph(nn.Module):
    """Given an adjacency first, as many graph networks are."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.head = nn.Linear(3, 8), nn.Linear(8, 4)

    def forward(self, adjacency: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.mix(adjacency @ x)).mean(1))


@pytest.mark.parametrize("is_batched", [True, False])
def test_an_adjacency_that_is_the_same_for_all_samples_hides_no_input_beside_it(is_batched: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    y = torch.randint(0, 4, (1000,))
    x = torch.randn(1000, 6, 3) + F.one_hot(y, 6)[:, :, None]
    graph = torch.eye(6).expand(32, 6, 6) if is_batched else torch.eye(6)
    for name, targets in (("together", y), ("apart", y[torch.randperm(1000)])):
        model = _OnGraph()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        with weighbridge.watch(model, run=weighbridge.init(dir=tmp_path, name=name)) as run:
            for _ in range(25):
                rows = torch.randint(0, 1000, (32,))
                optimizer.zero_grad()
                F.cross_entropy(model(graph, x[rows]), targets[rows]).backward()
                optimizer.step()
        rows_of = weighbridge.open_run(run.path).whole("pairing").to_pylist()
        assert len(rows_of) >= 15
        assert min(row["samples"] for row in rows_of) > 16
        assert (_score(rows_of, "distance") > 6) is (name == "together")
        assert (_score(rows_of, "neighbour") > 6) is (name == "together")


def _seen(inputs: tuple[torch.Tensor, ...], targets: torch.Tensor) -> dict[str, float]:
    seen, weights = Pairing(), torch.zeros(len(targets), 4, requires_grad=True)
    found = dict.fromkeys(("distance", "distance_variance", "neighbour", "neighbour_variance"), 0.0)
    for i in range(0, len(targets), 40):
        seen.meet_batch(tuple(one[i : i + 40] for one in inputs))
        seen.on_backward(F.cross_entropy(weights[i : i + 40], targets[i : i + 40]))
        (row,) = seen.rows(0, 0)
        for name, value in zip(found, row[3:7], strict=True):
            found[name] += value
    return found


@pytest.mark.parametrize("beside", ["noise", "tokens", "one number", "nothing"])
def test_what_goes_with_the_targets_is_seen_in_any_of_the_inputs(beside: str) -> None:
    torch.manual_seed(0)
    y = torch.randint(0, 4, (400,))
    signal, noise = torch.randn(400, 6) + 1.5 * F.one_hot(y, 6), torch.randn(400, 50)
    other = {"noise": noise, "tokens": torch.randint(0, 9, (400, 7)), "one number": torch.rand(400), "nothing": noise * 0}
    found = _seen((other[beside], signal), y)
    for name in ("distance", "neighbour"):
        assert found[name] / math.sqrt(found[f"{name}_variance"]) > 6, name


def test_targets_that_are_given_to_the_model_are_no_sign_that_its_inputs_go_with_them() -> None:
    """A conditional model and a decoder: labels as they are, and tokens moved by one."""
    torch.manual_seed(0)
    x, y = torch.randn(400, 6), torch.randint(0, 4, (400,))
    found = _seen((x, y), y)
    for name in ("distance", "neighbour"):
        assert abs(found[name]) / math.sqrt(found[f"{name}_variance"]) < 4, name
    wanted = np.random.default_rng(0).integers(0, 9, (40, 6))
    assert pairing._holds(wanted, wanted)
    assert pairing._holds(np.insert(wanted, 0, 1, axis=1)[:, :-1], wanted)  # behind a token that begins
    assert pairing._holds(np.append(wanted, wanted[:, :1], axis=1), wanted)  # tokens whose followers are asked for
    assert not pairing._holds(wanted[::-1].copy(), wanted)
