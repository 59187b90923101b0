"""exploding-weights and the two symptoms, on made-up runs. Oracle: numbers put in by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.diagnosis.made import block, found, outcome, step_rows
from tests.diagnosis.paces import GROWING, STALLED, STEPS, TENSORS, WEIGHTS, loss_course, noisy_loss, with_weights
from weighbridge.diagnosis import Outcome
from weighbridge.diagnosis.rules import exploding_weights as xw
from weighbridge.diagnosis.rules import growing_loss as grows
from weighbridge.diagnosis.rules import stalled_loss as stalls


@pytest.mark.parametrize(
    ("rms", "is_told"),
    [
        (0.5 * 1.05**STEPS, True),  # doubles in 14 steps
        (0.5 * 2 ** (STEPS / 25.0), False),  # in 25
        (0.5 * (1 + np.minimum(STEPS, 60)), False),  # a constant rate, however fast
        (0.5 * (1 + np.minimum(10.0 * STEPS, 60)), False),
        (0.5 * (1 + STEPS), True),  # but by a factor of more than 64
        (0.5 + 0.01 * np.minimum(STEPS, 50) ** 2, False),  # a rate in warm-up
        (0.5 * 4.0 ** np.minimum(STEPS, 20), True),
        (0.001 * 1.05 ** np.minimum(STEPS, 60), False),  # it began all but 0, and is of usual size
    ],
)
def test_doubling_again_and_again_is_told_and_other_growth_is_not(rms: np.ndarray, is_told: bool) -> None:
    assert [f.place for f in found(WEIGHTS, with_weights(rms))] == (["a.weight"] if is_told else [])


@pytest.mark.parametrize(
    ("losses", "is_told"), [([10.0], False), ([10.1], True), ([2.1] * 3, True), ([2.1] * 2, False), ([2.0] * 9, False)]
)
def test_a_jump_is_told_where_the_loss_shows_it(losses: list[float], is_told: bool) -> None:
    made = with_weights([0.5, *[0.5 * xw.LIMIT + 0.1] * len(losses)], [1.0, *losses])
    assert bool(found(WEIGHTS, made)) is is_told


@pytest.mark.parametrize(
    ("pause", "first"), [(xw.PAUSE * xw.WITHIN, 60), (xw.PAUSE * xw.WITHIN + 1, 61 + xw.PAUSE * xw.WITHIN)]
)
def test_what_grew_long_before_a_jump_does_not_begin_it(pause: int, first: int) -> None:
    """Doubled in step 60, by healthy training; then, a pause later, ten times as large at once."""
    rms = [0.5] * 60 + [1.1] * pause + [5.0] * 3
    (told,) = found(WEIGHTS, with_weights(rms, [1.0] * (60 + pause) + [20.0] * 3))
    assert told.first_step == first


def test_a_jump_to_the_limit_is_clear() -> None:
    assert found(WEIGHTS, with_weights([0.5, 0.5 * xw.LIMIT], [1.0, 100.0])) == []


@pytest.mark.parametrize(("end", "is_told"), [(1.0, True), (1.2, True), (0.8, False)])
def test_a_loss_that_does_not_fall_is_a_note(end: float, is_told: bool) -> None:
    told = found(STALLED, loss_course(noisy_loss(2 * stalls.WINDOW, end)))
    assert [f.severity for f in told] == (["note"] if is_told else [])
    assert found(STALLED, loss_course(noisy_loss(2 * stalls.WINDOW, end)[:-1])) == []


def test_a_rate_that_rises_starts_the_count_again() -> None:
    rates = [min(1.0, i / 10) for i in range(2 * stalls.WINDOW + 9)]
    assert found(STALLED, loss_course(np.ones(len(rates)), lr=rates)) == []
    assert found(STALLED, loss_course(np.ones(len(rates) + 1), lr=[*rates, 1.0]))


@pytest.mark.parametrize(("end", "is_told"), [(1.0, False), (1.4, False), (2.5, True)])
def test_a_loss_that_grows_is_a_note(end: float, is_told: bool) -> None:
    told = found(GROWING, loss_course(noisy_loss(4 * grows.WINDOW, end)))
    assert [f.severity for f in told] == (["note"] if is_told else [])


def test_a_loss_that_scatters_widely_has_not_grown() -> None:
    scattered = [1.0] * 8 + [10.0] * (grows.WINDOW - 8)
    assert found(GROWING, loss_course([*scattered, *[2.0] * grows.WINDOW])) == []
    assert found(GROWING, loss_course([*[1.0] * grows.WINDOW, *[2.0] * grows.WINDOW]))


@pytest.mark.parametrize("which", [STALLED, GROWING])
def test_several_optimizers_and_losses_below_zero_tell_nothing(which: Any) -> None:
    rows = step_rows(80, loss=np.linspace(1, 9, 80).tolist())
    both = [{**row, "optimizer": row["step"] % 2} for row in rows]
    for made in (block(80, tensors=TENSORS, steps=both), loss_course(np.linspace(-1, 9, 80))):
        assert found(which, made) == []
        assert outcome(which, made) is Outcome.NOT_APPLICABLE
