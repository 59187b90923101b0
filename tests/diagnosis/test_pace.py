"""What a step promises. Oracle: quadratic losses, whose value after the step is known in closed form; scipy for ranks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from tests.diagnosis.made import block, step_rows, tensor
from weighbridge.diagnosis.depth import steepest
from weighbridge.diagnosis.pace import Step, matrices, steps_taken
from weighbridge.diagnosis.ranktest import z_of_fall
from weighbridge.diagnosis.stream import Block, summed
from weighbridge.diagnosis.worse import Worse

WEIGHT = (tensor(0, "a.weight", shape=(2, 4)), tensor(1, "a.bias", count=2))


def _only(made: Block) -> Step:
    (step,) = steps_taken(made, matrices(made.tensors))
    return step


def _run(loss: float, gradient: float, update: float, dot: float, size: float = 2.0, **rows: float) -> Block:
    arrays = {"gradient.l2_norm": {"*": gradient}, "update.l2_norm": {"*": update}, "parameter.l2_norm": {"*": size}}
    arrays |= {"update.dot_gradient_update": {"*": dot}}
    return block(1, arrays, WEIGHT, steps=step_rows(1, loss=loss, **rows))


def test_promise_pace_and_leverage_are_pure_numbers() -> None:
    step = _only(_run(loss=4.0, gradient=3.0, update=0.3, dot=-0.9))
    assert (step.promise, step.pace, step.leverage) == pytest.approx((2 * 0.9 / 4.0, 0.3 / 2.0, 3.0 * 2.0 / 4.0))
    assert step.is_whole
    assert step.parts.tolist() == pytest.approx([0.9, 0.9])


def test_what_clipping_took_from_the_gradient_is_given_back() -> None:
    clipped, plain = _only(_run(4.0, 0.3, 0.03, -0.009, clip_factor=0.1)), _only(_run(4.0, 3.0, 0.03, -0.09))
    assert (clipped.promise, clipped.leverage) == pytest.approx((plain.promise, plain.leverage))


@pytest.mark.parametrize("loss", [0.0, -1.0])
def test_of_a_loss_that_is_not_above_zero_no_share_is_known(loss: float) -> None:
    step = _only(_run(loss, 1.0, 1.0, -1.0))
    assert math.isnan(step.promise)
    assert math.isnan(step.leverage)


def test_steps_that_were_left_out_and_line_searches_are_no_steps() -> None:
    left_out = _run(1.0, 1.0, 1.0, -1.0, skipped=True)
    assert not [*steps_taken(left_out, matrices(left_out.tensors))]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.floats(0.01, 4.0), st.integers(0, 10**6))
def test_the_loss_after_a_step_is_at_least_what_the_promise_says(size: int, rate: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    root = random.normal(size=(size, size))
    curvature, least, w = root @ root.T, random.uniform(0, 1), random.normal(size=size)

    def loss(at: np.ndarray) -> float:
        return float(at @ curvature @ at / 2 + least)

    update = -rate * curvature @ w
    promise = -float((curvature @ w) @ update) / loss(w)
    assert loss(w + update) >= loss(w) * (1 - promise / 2) ** 2 * (1 - 1e-9) - 1e-12
    assert promise <= 2 * rate * np.linalg.eigvalsh(curvature)[-1] + 1e-9


def test_the_rank_test_is_that_of_scipy() -> None:
    random = np.random.default_rng(0)
    for shift in (0.0, 0.5, -2.0):
        first, last = random.normal(size=20), random.normal(size=15) + shift
        ours = z_of_fall(first, last)
        p = mannwhitneyu(last, first, alternative="greater", method="asymptotic", use_continuity=False).pvalue
        assert 0.5 * math.erfc(ours / math.sqrt(2)) == pytest.approx(p, rel=1e-6)


def test_the_steepest_place_and_its_share() -> None:
    assert steepest([1.0, 10.0, 1000.0]) == (1, pytest.approx(2 / 3))
    assert steepest([1.0, 1.0]) == (0, 0.0)


def test_matrices_are_what_has_two_axes_else_all() -> None:
    flat = block(1, tensors=(tensor(0, "scale"), tensor(1, "shift")))
    assert matrices(flat.tensors).all()
    assert matrices(block(1, tensors=WEIGHT).tensors).tolist() == [True, False]
    assert torch.nn.Linear(4, 2).weight.shape == WEIGHT[0].shape


@pytest.mark.parametrize(
    ("losses", "is_worse"),
    [
        ([1.0, 10.0], False),
        ([1.0, 10.1], True),
        ([1.0, 2.1, 2.1], False),
        ([1.0, 2.1, 2.1, 2.1], True),
        ([1.0, math.nan], True),
    ],
)
def test_a_loss_is_worse_when_it_is_so_by_far_or_three_times(losses: list[float], is_worse: bool) -> None:
    worse = Worse()
    assert [worse.read(loss) for loss in losses][-1] is is_worse


def test_a_first_loss_that_is_not_above_zero_is_no_measure() -> None:
    worse = Worse()
    assert not any(worse.read(loss) for loss in [0.0, 5.0, 50.0, 500.0, None])


def test_sums_over_tensors_are_the_same_to_the_last_bit_however_steps_are_cut() -> None:
    """A choice of columns lies in memory by column, one row of it by row: NumPy would add in another order."""
    array = np.random.default_rng(0).lognormal(size=(40, 37))
    columns = np.arange(1, 36, 2)
    whole = summed(array[:, columns])
    assert whole.tobytes() == np.concatenate([summed(array[i : i + 1, columns]) for i in range(40)]).tobytes()
    assert whole.tobytes() != array[:, columns].sum(axis=1).tobytes()
