"""Adam's eps and second moment: made-up runs that fire, stay clear, or sit on the limit. Oracle: numbers put in by hand."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.diagnosis.made import NAN, block, found, outcome, step_rows
from weighbridge.diagnosis import Outcome
from weighbridge.diagnosis.registry import rule
from weighbridge.diagnosis.rules import (
    dominant_epsilon,
    stale_second_moment,
)

NAMES = ("a.weight", "a.bias", "b.weight", "b.bias")

ADAM = {"betas": [0.9, 0.999], "eps": 1e-3}


def _adam(
    steps: int, rms: Any, update: float, progress: float = 0.0, loss: Any = 1.0, kind: str = "Adam", eps: float = 1e-3
) -> Any:
    """Gradients of this rms; updates of this share of lr = 0.1; each step lowers the loss by `progress` of it at most."""
    arrays = {"gradient.rms": {"*": rms}, "gradient.count": {"*": 8.0}, "parameter.l2_norm": {"*": 1.0}}
    arrays |= {"update.l2_norm": {"*": update * 0.1 * np.sqrt(8)}, "update.dot_gradient_update": {"*": -progress / 4}}
    arrays |= {"update.dot_update_parameter": {"*": 0.0}}
    return block(steps, arrays, optimizer=kind, settings={**ADAM, "eps": eps}, steps=step_rows(steps, loss=loss))


EPSILON = rule("dominant-epsilon")


@pytest.mark.parametrize(
    ("rms", "update", "progress", "steps", "is_told"),
    [
        (0.9e-3, 0.09, 4e-4, 3, True),
        (0.9e-3, 0.09, 4e-4, 2, False),
        (1.1e-3, 0.09, 4e-4, 30, False),
        (0.9e-3, 0.11, 4e-4, 30, False),
        (0.9e-3, 0.09, 6e-4, 19, False),
        (0.9e-3, 0.09, 6e-4, 20, True),
        (0.9e-3, 0.09, 6e-3, 40, False),
        (0.0, 0.0, 0.0, 40, False),  # no gradients at all are another matter
    ],
)
def test_eps_above_the_gradients_is_told_where_nothing_is_learned(
    rms: float, update: float, progress: float, steps: int, is_told: bool
) -> None:
    assert [x.told_step for x in found(EPSILON, _adam(steps, rms, update, progress))] == [steps - 1] * is_told


@pytest.mark.parametrize(
    ("rate", "loss", "progress", "told"),
    [
        (0.99, 1.0, 4.9e-3, 2),  # a step as long as the rate says is 0.099 of the weights
        (1.01, 1.0, 4.9e-3, 19),
        (0.99, 1.0, 5.1e-3, -1),
        (0.99, [1.0, 1.0, 1.0, 0.89, 0.89, 0.89, 0.89] + [0.8] * 20, 4.9e-3, 2),
    ],
)
def test_a_rate_that_was_not_raised_to_match_is_told_at_once(rate: float, loss: Any, progress: float, told: int) -> None:
    """Four tensors of norm 1 and 8 numbers: sqrt(32) lr over 2."""
    of = rate * dominant_epsilon.MEANT * 2 / np.sqrt(32)
    arrays = {"gradient.rms": {"*": 0.9e-3}, "gradient.count": {"*": 8.0}, "parameter.l2_norm": {"*": 1.0}}
    arrays |= {"update.l2_norm": {"*": 0.09 * of * np.sqrt(8)}, "update.dot_gradient_update": {"*": -progress / 4}}
    arrays |= {"update.dot_update_parameter": {"*": 0.0}}
    made = block(25, arrays, optimizer="Adam", settings=ADAM, steps=step_rows(25, loss=loss, lr=of))
    assert [f.told_step for f in found(EPSILON, made)] == [told] * (told >= 0)


def test_slow_steps_that_lower_the_loss_are_slow_on_purpose() -> None:
    assert found(EPSILON, _adam(30, 0.9e-3, 0.09, 4e-3, loss=[1 - 0.008 * k for k in range(30)])) == []


def test_an_optimizer_without_eps_is_not_applicable() -> None:
    assert outcome(EPSILON, _adam(30, 1e-9, 0.0, kind="SGD")) is Outcome.NOT_APPLICABLE


def test_the_part_of_a_step_that_is_decay_is_not_adam_s() -> None:
    """AdamW: the whole update is lr * decay * w, 0.1 * 0.5 * 1 long and at right angles to nothing."""
    arrays = {"gradient.rms": {"*": 1e-6}, "gradient.count": {"*": 8.0}, "parameter.l2_norm": {"*": 1.0}}
    arrays |= {"update.l2_norm": {"*": 0.05}, "update.dot_update_parameter": {"*": -0.05}}
    arrays |= {"update.dot_gradient_update": {"*": 0.0}}
    rows = step_rows(3, weight_decay=0.5)
    assert found(EPSILON, block(3, arrays, optimizer="AdamW", settings=ADAM, steps=rows))
    assert not found(EPSILON, block(3, arrays, optimizer="Adam", settings=ADAM, steps=rows))


STALE = rule("stale-second-moment")


def _grown(times: float, steps: int = 34, rise: float = 2.0, update: float = 0.5) -> Any:
    """From step 31 on gradients are so many times larger, and the loss `rise` times, then as much again."""
    rms, loss = np.ones(steps), np.ones(steps) + 0.01 * np.arange(steps)
    rms[31:] *= times
    loss[31:] *= rise
    loss[32:] *= rise
    return _adam(steps, rms, update, loss=loss.tolist(), eps=1e-8)


def test_gradients_that_have_outgrown_their_second_moment_are_told_while_the_loss_rises() -> None:
    (told,) = found(STALE, _grown(4.0))
    assert (told.place, told.first_step, told.told_step) == ("", 31, 32)
    assert (stale_second_moment.LIMIT, stale_second_moment.PATIENCE) == (2.3, 2)
    # 31 steps of 1 and one of q: (31 + q^2) / 32 is the mean; q = 2.3 sqrt of it at q = 2.479
    assert found(STALE, _grown(3.0))
    assert not found(STALE, _grown(2.47))


@pytest.mark.parametrize(("renewed", "then", "is_told"), [(2.0, 3.1, True), (1e4, 9e5, False), (1e4, 1.1e6, True)])
def test_new_targets_that_are_far_harder_have_batches_that_differ(renewed: float, then: float, is_told: bool) -> None:
    """The loss before is 1; from a `renewed` of 10^4 two thirds of the way to what follows would be 10^6."""
    losses = np.r_[np.ones(31), renewed, then, then]
    rms = np.where(np.arange(34) < 31, 1.0, 4.0)
    assert bool(found(STALE, _adam(34, rms, 0.5, loss=losses.tolist(), eps=1e-8))) is is_told


@pytest.mark.parametrize(("ago", "is_told"), [(2, False), (3, True)])
def test_what_had_risen_before_the_steps_is_none_of_their_doing(ago: int, is_told: bool) -> None:
    """A loss of 5 so many steps before gradients are too large, at step 31; after it the loss is 3.2, then 5.2."""
    losses = np.r_[np.ones(31), 3.2, 5.2, 5.2]
    losses[31 - ago] = 5.0
    rms = np.where(np.arange(34) < 31, 1.0, 4.0)
    assert bool(found(STALE, _adam(34, rms, 0.5, loss=losses.tolist(), eps=1e-8))) is is_told


@pytest.mark.parametrize(("loss", "is_told"), [(0.5, False), (None, True)])
def test_of_rivals_a_loss_that_rises_is_the_other_s_doing(loss: float | None, is_told: bool) -> None:
    """At each step another optimizer steps with this loss, or with the same."""
    made = _grown(4.0)
    both = [one for row in made.rows("steps") for one in (row, {**row, "optimizer": 1, "loss": loss or row["loss"]})]
    assert bool(found(STALE, dataclasses.replace(made, tables={**made.tables, "steps": tuple(both)}))) is is_told


def test_growth_is_healthy_while_the_loss_falls_or_updates_are_small() -> None:
    assert found(STALE, _grown(4.0, rise=0.5)) == []
    assert found(STALE, _grown(4.0, update=0.39)) == []


@pytest.mark.parametrize(("high", "is_told"), [(10, True), (11, False)])
def test_the_losses_must_be_above_all_of_the_last_few_before(high: int, is_told: bool) -> None:
    """Told at step 32, of 31 and 32; the AGO before these are steps 11 to 30. One of them was as high."""
    assert (stale_second_moment.AGO, stale_second_moment.PATIENCE) == (20, 2)
    made = _with_losses(np.where(np.arange(33) == high, 3.0, np.where(np.arange(33) < 31, 1.0, _rising(2.5))))
    assert bool(found(STALE, made)) is is_told


@pytest.mark.parametrize(("rise", "is_told"), [(1.81, True), (1.80, False)])
def test_the_losses_must_be_far_above_those_before(rise: float, is_told: bool) -> None:
    """Before it they are 0.9 and 1.1 in turn, as logarithms 0.1003 from their middle at -0.005: 4 sigmas end at 1.804."""
    assert stale_second_moment.SIGMAS == 4.0
    made = _with_losses(np.where(np.arange(33) < 31, 1.0 + 0.1 * (-1.0) ** np.arange(33), _rising(rise)))
    assert bool(found(STALE, made)) is is_told


@pytest.mark.parametrize(("high", "is_told"), [(20.0, False), (100.0, True)])
def test_losses_that_scatter_by_factors_are_high_by_factors(high: float, is_told: bool) -> None:
    """A Q-learner's: 0.3, 1 and 3 in turn, so 4 sigmas end at 3^(4 * 1.4826) = 676 less a little; of 0.5, 1 and 2 at 61."""
    for spread, told in ((3.0, False), (2.0, is_told)):
        before = spread ** np.resize([-1.0, 0.0, 1.0], 31)
        assert bool(found(STALE, _with_losses(np.r_[before, high, 1.1 * high**1.5]))) is told


def test_both_losses_must_have_risen() -> None:
    assert found(STALE, _with_losses(np.r_[np.ones(31), 1.0, 9.0])) == []
    assert found(STALE, _with_losses(np.r_[np.ones(31), 9.0, 1.0])) == []


def test_one_step_without_growth_ends_the_count() -> None:
    """Gradients are four times as large at steps 31 and 33 and usual at 32; at each of them the loss has risen."""
    rms = np.where(np.isin(np.arange(34), [31, 33]), 4.0, 1.0)
    losses = [1.0] * 31 + [2.5, 3.5, 5.5]
    assert found(STALE, _adam(34, rms, 0.5, loss=losses, eps=1e-8)) == []
    assert found(STALE, _adam(34, np.where(np.arange(34) < 32, 1.0, 4.0), 0.5, loss=losses, eps=1e-8))


def _rising(loss: float) -> np.ndarray:
    """From step 31 on: what the first of the steps that are too large does to the loss, too, shows at the next."""
    return np.where(np.arange(33) == 31, loss, loss * 1.01 * stale_second_moment.RISES)


def test_a_loss_that_rose_with_its_batches_and_rises_no_more_is_no_sign() -> None:
    for times, is_told in ((1.0, True), (1 / 1.01 / 1.01, False)):
        losses = np.where(np.arange(33) < 31, 1.0, _rising(2.5) * np.where(np.arange(33) == 32, times, 1.0))
        assert bool(found(STALE, _with_losses(losses))) is is_told


def test_a_second_moment_that_was_loaded_too_small_is_told_at_once() -> None:
    """Weighed at step 0: a hundredth of g^2, ten times what this step alone makes of it; rms(g) is 10 times its root."""
    for old, losses, is_told in (
        (0.01, [1.0, 4.0, 9.0, 9.0], True),
        (0.01, [1.0] * 4, False),
        (0.001, [1.0, 4.0, 9.0, 9.0], False),
    ):
        made = _adam(4, 1.0, 5.0, loss=losses, eps=1e-8)
        kept = np.full(made["moment2.mean"].shape, NAN)
        kept[0] = old
        told = found(STALE, replace(made, arrays={**made.arrays, "moment2.mean": kept}))
        assert [f.told_step for f in told] == ([2] if is_told else [])


def _with_losses(losses: np.ndarray) -> Any:
    """33 steps; gradients are four times as large from step 31 on."""
    return _adam(33, np.where(np.arange(33) < 31, 1.0, 4.0), 0.5, loss=losses.tolist(), eps=1e-8)


def test_a_moment_that_was_weighed_counts_more_than_what_was_followed() -> None:
    made = _grown(4.0)
    kept = np.full(made["moment2.mean"].shape, NAN)
    kept[30] = 16.0 * (1 - 0.999**31)
    made.arrays["moment2.mean"][:] = kept
    assert found(STALE, made) == []
