"""Models that are given several tensors: which of them are the inputs. Oracle: data made dependent or not by the test."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from weighbridge.capture import pairing
from weighbridge.capture.pairing import Pairing


def _seen(inputs: tuple[torch.Tensor, ...], targets: torch.Tensor) -> dict[str, float]:
    seen, weights = Pairing(), torch.zeros(len(targets), 4, requires_grad=True)
    found = dict.fromkeys(("distance", "distance_variance", "neighbour", "neighbour_variance"), 0.0)
    for i in range(0, len(targets), 40):
        seen.meet_batch(tuple(one[i : i + 40] if len(one) == len(targets) else one for one in inputs))
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


@pytest.mark.parametrize("is_batched", [True, False])
def test_an_adjacency_that_is_the_same_for_all_samples_hides_no_input_beside_it(is_batched: bool) -> None:
    torch.manual_seed(0)
    y = torch.randint(0, 4, (400,))
    x = torch.randn(400, 6, 3) + F.one_hot(y, 6)[:, :, None]
    graph = torch.eye(6).expand(400, 6, 6) if is_batched else torch.eye(6)
    for targets, goes in ((y, True), (y[torch.randperm(400)], False)):
        found = _seen((graph, x), targets)
        for name in ("distance", "neighbour"):
            assert (found[name] / math.sqrt(found[f"{name}_variance"]) > 5) is goes, name
