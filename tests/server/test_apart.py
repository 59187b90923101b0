"""Oracle: made-up series that part at a known step, chance alone, and two trainings that differ in their seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.server.conftest import client_of
from tests.server.test_versus import STEPS, train
from weighbridge.server import apart

LENGTH = 1000


def noise(seed: int, alike: int = 1) -> np.ndarray:
    """Of size 1; `alike`: neighbours that share their number."""
    return np.repeat(np.random.default_rng(seed).normal(size=LENGTH // alike), alike)


@pytest.mark.parametrize("at", [0, 500, 900])
@pytest.mark.parametrize("side", [-1, 1])
def test_a_shift_is_found_at_its_block(at: int, side: int) -> None:
    shifted = noise(0) + side * 3.0 * (np.arange(LENGTH) >= at)
    found = apart.first_apart(np.arange(LENGTH), shifted)
    assert found is not None
    assert abs(found[0] - at) <= apart.BLOCK
    assert found[1] == pytest.approx(3.0 * side, abs=0.3)


@pytest.mark.parametrize("alike", [1, 5])
def test_chance_parts_nothing(alike: int) -> None:
    assert [seed for seed in range(200) if apart.first_apart(np.arange(LENGTH), noise(seed, alike))] == []


def test_a_difference_that_goes_back_is_none() -> None:
    back = noise(0) + 5.0 * ((np.arange(LENGTH) >= 300) & (np.arange(LENGTH) < 600))
    assert apart.first_apart(np.arange(LENGTH), back) is None


def test_what_is_not_finite_is_left_out_and_few_steps_say_nothing() -> None:
    shifted = noise(0) + 3.0
    shifted[::2] = np.nan
    assert apart.first_apart(np.arange(LENGTH), shifted) is not None
    assert apart.first_apart(np.arange(70), shifted[:70]) is None


def test_a_small_difference_without_noise_is_no_news_of_a_gradient() -> None:
    steady = np.full(LENGTH, 0.01)
    assert apart.first_apart(np.arange(LENGTH), steady) == (0, pytest.approx(0.01))
    assert apart.first_apart(np.arange(LENGTH), steady, least=apart.LARGE) is None


def test_runs_with_other_seeds_are_told_beyond_their_noise(tmp_path: Path) -> None:
    train(tmp_path, "a")
    train(tmp_path, "b", seed=1)
    client = client_of(tmp_path, tmp_path)
    told = client.get("/api/compare?run=a&run=b").json()
    assert f"fewer than {apart.LASTING * apart.BLOCK} steps" in told["said"]["text"], "they have only 40"
    assert STEPS < apart.LASTING * apart.BLOCK
    assert "apart" not in client.get("/api/compare?run=a&run=a").json()


def test_where_it_is_known_it_is_said() -> None:
    told = {"known": True, "loss": (125, -0.2), "tensors": [("2.bias", 50, 1.5), ("0.weight", 75, 0.5)]}
    words = apart.in_words(told)
    assert "their losses part at step 125: from there on B is lower." in words
    assert words.endswith("stay a quarter or more apart: 2.bias (B ×1.5), from step 50.")
    assert "do not part beyond the noise" in apart.in_words({"known": True, "loss": None, "tensors": []})
