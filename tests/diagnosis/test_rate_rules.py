"""Rules about the length of steps and the course of the loss. Oracle: numbers put in by hand, on both sides of each limit."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tests.diagnosis.made import NAN, asked, found, outcome, said
from tests.diagnosis.paces import GROWING, STALLED, STEPS, TENSORS, WEIGHTS, loss_course, noisy_loss, with_paces, with_weights
from weighbridge.diagnosis import Outcome
from weighbridge.diagnosis.registry import rule
from weighbridge.diagnosis.rules import high_learning_rate as high
from weighbridge.diagnosis.rules import low_learning_rate as low
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.tensors import Tensors

HIGH, LOW = rule("high-learning-rate"), rule("low-learning-rate")


# ---- high-learning-rate ----


def _leap(promise: float, pace: float, loss: float) -> Block:
    return with_paces([0.1, promise, 0.1], [0.01, pace, 0.01], [1.0, 1.0, loss])


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (_leap(2 * high.PROMISE + 0.01, 2 * high.PACE, high.RAISED + 0.01), [2]),
        (_leap(2 * high.PROMISE, 2 * high.PACE, high.RAISED + 0.01), []),
        (_leap(2 * high.PROMISE + 0.01, high.PACE, high.RAISED + 0.01), []),
        (_leap(2 * high.PROMISE + 0.01, 2 * high.PACE, high.RAISED), []),
        (_leap(2 * high.PROMISE + 0.01, 2 * high.PACE, NAN), [2]),
        (_leap(np.inf, NAN, np.inf), [2]),
    ],
)
def test_a_leap_needs_a_wild_step_and_a_loss_that_shows_it(made: Block, told: list[int]) -> None:
    assert [f.told_step for f in found(HIGH, made)] == told
    assert all(f.first_step == 1 and f.place == "" for f in found(HIGH, made))


def test_after_the_loss_has_fallen_one_batch_is_not_enough() -> None:
    losses = np.array([1.0] * 2 + [0.2] * 10 + [2.5, 0.2, 2.5, 2.5, 2.5])
    promises = np.where(np.arange(17) == 11, 3.0, 0.1)
    assert found(HIGH, with_paces(promises, 0.2, losses)) == []
    promises[13] = 3.0
    assert [f.told_step for f in found(HIGH, with_paces(promises, 0.2, losses))] == [16]


@pytest.mark.parametrize(("kind", "after", "told"), [("Adagrad", 0.5, []), ("Adagrad", 2.5, [4]), ("SGD", 0.5, [2])])
def test_where_steps_shorten_themselves_one_high_loss_is_not_enough(kind: str, after: float, told: list[int]) -> None:
    """Adagrad converges from any rate (Ward, Wu and Bottou 2020): a first leap is what it measures its steps by."""
    made = with_paces(np.where(np.arange(12) == 1, 3.0, 0.1), 0.2, np.array([1.0, 1.0, 2.5, *[after] * 9]))
    made = dataclasses.replace(made, groups=tuple(dataclasses.replace(group, kind=kind) for group in made.groups))
    assert [f.told_step for f in found(HIGH, made)] == told


@pytest.mark.parametrize(("left", "told"), [(high.STUCK, [17]), (high.STUCK - 0.01, [])])
def test_a_loss_that_is_held_up_by_wild_steps(left: float, told: list[int]) -> None:
    """Seven are behind it at step 7, and ten more pass."""
    losses = np.array([1.0] + [left] * 30)
    assert [f.told_step for f in found(HIGH, with_paces(1.5, 0.2, losses))] == told


@pytest.mark.parametrize(
    ("high", "low", "told"), [(0.8, 0.54, [9]), (0.78, 0.54, []), (0.45, 0.15, [])], ids=["swings", "less", "low"]
)
def test_a_loss_that_swings_under_wild_steps(high: float, low: float, told: list[int]) -> None:
    """From 1 it has come down, and swings by 0.26, 0.24 or 0.3, in the last case below a half."""
    losses = np.array([1.0, 0.9, *[low, high] * 10])
    assert [f.told_step for f in found(HIGH, with_paces(1.5, 0.2, losses))] == told


@pytest.mark.parametrize(("stuck", "told"), [(1.0, [high.WINDOW + 1]), (high.STUCK - 0.01, [])])
def test_a_loss_that_is_stuck_after_a_wild_step(stuck: float, told: list[int]) -> None:
    promises = np.where(np.arange(15) == 1, 5.0, 0.01)
    losses = np.array([1.0, 1.0] + [stuck] * 13)
    assert [f.told_step for f in found(HIGH, with_paces(promises, 0.2, losses))] == told


@pytest.mark.parametrize("is_rival", [True, False])
def test_rivals_hold_up_each_other_s_loss(is_rival: bool) -> None:
    """A GAN's two step at the same step, each with its loss; two optimizers of one loss are no rivals."""
    promises, losses = np.where(np.arange(15) == 1, 5.0, 0.01), np.ones(15)
    for made, is_of_game in ((with_paces(promises, 0.2, losses), True), (_leap(2.1, 0.1, 2.1), False)):
        own = list(made.rows("steps"))
        other = [{**row, "optimizer": 1, "loss": row["loss"] + (0.5 if is_rival else 0.0)} for row in own]
        both = sorted([*own, *other], key=lambda row: row["step"])
        told = found(HIGH, dataclasses.replace(made, tables={**made.tables, "steps": tuple(both)}))
        assert bool(told) is not (is_rival and is_of_game)


@pytest.mark.parametrize(
    ("promises", "rates", "first"),
    [
        ([0.1] * 12 + [5.0], None, 12),  # in one step: a batch, perhaps
        ([0.1] * 10 + [0.31, 0.5, 5.0], None, 10),  # it swung up over three
        ([0.1] * 10 + [0.29, 0.5, 5.0], None, 11),
        ([0.1] * 7 + [0.5, 5.0], None, 8),  # too few to know what is usual
        ([0.1, 5.0] + [0.1] * 10 + [5.0], None, 12),  # one long ago did no harm
        ([0.1, 5.0] + [0.1] * 9 + [5.0], None, 1),
        ([0.1] * 12 + [5.0], {10: high.SET * 1.01}, 10),  # somebody raised the rate: that was the beginning
        ([0.1] * 12 + [5.0], {10: high.SET}, 12),
        ([0.1] * 10 + [0.5, 0.1, 5.0], {11: 10.0}, 11),
        ([0.1] * 10 + [0.5, 0.5, 5.0], {11: 10.0}, 11),  # what swung before was another rate
        ([0.1] * 12 + [5.0], {12 - high.WINDOW - 1: 10.0}, 12),  # long before: it did no harm
        ([0.1, 0.1, 0.1, 5.0, 0.1, 5.0], {4: 10.0}, 4),
    ],
)
def test_since_when_the_rate_is_too_high(promises: list[float], rates: dict[int, float] | None, first: int) -> None:
    lr = [0.1] * (len(promises) + 1)
    for step, times in (rates or {}).items():
        lr[step:] = [times * 0.1] * (len(lr) - step)
    losses = [1.0] + [0.6] * (len(promises) - 1) + [20.0]
    assert [f.first_step for f in found(HIGH, with_paces([*promises, 0.1], 0.2, losses, lr=lr))] == [first]


def test_of_a_loss_below_zero_nothing_is_said() -> None:
    made = with_paces(5.0, 0.2, np.array([1.0, -1.0, 50.0, 50.0]))
    assert found(HIGH, made) == []


def test_the_group_with_the_wild_rate_is_named() -> None:
    from dataclasses import replace

    from weighbridge.diagnosis.stream import Group

    made = _leap(5.0, 0.3, 5.0)
    arrays = {k: v.copy() for k, v in made.arrays.items()}
    arrays["update.dot_gradient_update"][:, 0] = 0.0
    made = replace(made, arrays=arrays, groups=(Group(0, "SGD", 0, (0, 1)), Group(0, "SGD", 1, (2,))))
    assert [f.place for f in found(HIGH, made)] == ["b.weight"]


# ---- low-learning-rate ----


def _short(steps: int = low.WINDOW, cosine: float = 0.5, compared: int = low.COMPARED, **more: Any) -> Block:
    numbers: dict[str, Any] = {"promises": low.PROMISE / 2, "paces": low.PACE / 2, "losses": np.ones(steps)} | more
    rows = [
        {
            "step": i,
            "tensor": 0,
            "step_before": i - 1,
            "count": 8,
            "numbers": 8,
            "dot": cosine,
            "sum_sq_before": 1.0,
            "sum_sq": 1.0,
        }
        for i in range(1, 1 + compared)
    ]
    made = with_paces(**numbers)
    from dataclasses import replace

    return replace(made, tables={**made.tables, "coherence": tuple(rows)})


@pytest.mark.parametrize(
    ("made", "is_told"),
    [
        (_short(), True),
        (_short(low.WINDOW - 1), False),
        (_short(paces=1.01 * low.PACE), False),
        (_short(promises=1.01 * low.PROMISE), False),
        (_short(leverage=low.LEVERAGE / 1.5), False),
        (_short(cosine=low.COSINE), False),
        (_short(compared=low.COMPARED - 1), False),
        (_short(lr=[1e-3 * (i + 1) for i in range(low.WINDOW)]), False),
        (_short(lr=[0.0] * low.WINDOW), False),
    ],
)
def test_short_steps_along_gradients_that_agree(made: Block, is_told: bool) -> None:
    assert bool(found(LOW, made)) is is_told


def test_at_a_pace_of_nothing_noise_is_no_excuse() -> None:
    assert found(LOW, _short(paces=low.TINY / 2, promises=low.TINY, cosine=-0.1))
    assert found(LOW, _short(paces=low.TINY, promises=low.TINY, cosine=-0.1)) == []
    assert found(LOW, _short(paces=low.TINY / 2, promises=low.TINY, cosine=-0.1, leverage=low.AT_REST)) == []


def test_short_steps_that_come_late_are_those_of_a_model_that_has_learnt() -> None:
    steps = low.LATEST + 30
    for normal, told in ((low.LATEST - low.WINDOW, True), (low.LATEST - low.WINDOW + 1, False)):
        paces = np.where(np.arange(steps) < normal, 1e-2, low.PACE / 2)
        assert bool(found(LOW, _short(steps, paces=paces))) is told


def _clear(steps: int = low.AT_ONCE, cosine: float = 0.5, **more: Any) -> Block:
    short = {"paces": 0.99 * low.CLEARLY * low.PACE, "promises": 0.99 * low.CLEARLY * low.PROMISE}
    return _short(steps, cosine, compared=steps - 1, **(short | more))


@pytest.mark.parametrize(
    ("made", "is_told"),
    [
        (_clear(), True),
        (_clear(low.AT_ONCE - 1), False),
        (_clear(cosine=low.STRONGLY), False),
        (_clear(paces=1.01 * low.CLEARLY * low.PACE), False),
        (_clear(promises=1.01 * low.CLEARLY * low.PROMISE), False),
        (_clear(paces=0.99 * low.TINY, promises=low.TINY, cosine=-0.1), True),
        (_clear(paces=1.01 * low.TINY, promises=low.TINY, cosine=-0.1), False),
    ],
)
def test_three_steps_are_enough_where_it_is_clear(made: Block, is_told: bool) -> None:
    told = found(LOW, made)
    assert [f.told_step for f in told] == ([low.AT_ONCE - 1] if is_told else [])


@pytest.mark.parametrize(("initial", "is_told"), [(1e-2, True), (1.0, False)])
def test_a_rate_that_a_scheduler_holds_back_has_its_time(initial: float, is_told: bool) -> None:
    made = _clear()
    groups = tuple(dataclasses.replace(g, settings={**g.settings, "initial_lr": initial}) for g in made.groups)
    assert bool(found(LOW, dataclasses.replace(made, groups=groups))) is is_told


def test_momentum_makes_ten_steps_of_one() -> None:
    made = _clear()
    heavy = tuple({**row, "momentum": [0.9]} for row in made.tables["steps"])
    assert found(LOW, dataclasses.replace(made, tables={**made.tables, "steps": heavy})) == []


@pytest.mark.parametrize(("far", "is_told"), [(1.1, True), (0.9, False)])
def test_a_warm_up_whose_end_is_far_is_told_at_its_fourth_step(far: float, is_told: bool) -> None:
    """A pace that rises by PACE / (far FAR) at each step gets to PACE in that many steps less those taken."""
    at = np.arange(1.0, low.AT_ONCE + 2)
    rates = (1e-9 * at).tolist()
    made = _short(len(at), paces=low.PACE * at / (far * low.FAR), promises=low.TINY, compared=0, lr=rates)
    assert [f.told_step for f in found(LOW, made)] == ([low.AT_ONCE] if is_told else [])
    bent = _short(len(at), paces=low.PACE * at / (far * low.FAR), promises=low.TINY, compared=0, lr=[r**2 for r in rates])
    assert found(LOW, bent) == []


def test_where_the_rate_itself_makes_steps_short_it_was_there_before_the_pass() -> None:
    """The update's root mean square over the rate: 16 elements of 1e-6 / 2 in all."""
    own = {"paces": low.PACE / 2, "losses": np.ones(low.WINDOW)}
    rms = low.PACE / 2 * 2**0.5 / 4
    for rate, depth in ((rms / low.REACH * 0.99, low.SET), (rms / low.REACH * 1.01, 2.1)):
        assert [f.depth for f in found(LOW, _short(lr=rate, **own))] == [depth]
    made = _short(lr=rms / low.REACH * 0.99, **own)
    halves = Tensors([dataclasses.replace(t, dtype="bfloat16") for t in TENSORS])  # updates that are lost make steps short
    assert [f.depth for f in found(LOW, dataclasses.replace(made, tensors=halves))] == [2.1]


def test_without_comparisons_it_cannot_judge() -> None:
    assert outcome(LOW, _short(compared=0)) is Outcome.NOT_ENOUGH_DATA


def test_a_rate_that_was_lowered_is_the_end_of_a_schedule_that_has_done_its_work() -> None:
    lowered = [1.0] * 5 + [low.LOWERED * 0.9] * 55
    assert found(LOW, _short(60, lr=lowered, losses=[1.0] * 5 + [low.HALVED] * 55, paces=[1.0] * 5 + [1e-5] * 55)) == []
    late = [1.0] * (low.LATEST + 1) + [1e-4] * 30
    assert found(LOW, _short(71, lr=late, paces=[1.0] * (low.LATEST + 1) + [1e-5] * 30)) == []


def test_a_schedule_that_ends_before_the_training_has_begun_is_told() -> None:
    """No gradients need agree: the rate was high enough for a few steps, and the loss stands where it stood."""
    (told,) = found(LOW, _short(60, lr=[1.0] * 5 + [1e-4] * 55, paces=[1.0] * 5 + [1e-5] * 55, compared=0))
    assert (told.first_step, told.told_step) == (5, 4 + low.WINDOW)


# ---- how the run is cut ----

SPOKEN = [
    (HIGH, _leap(5.0, 0.3, 5.0)),
    (HIGH, with_paces(1.5, 0.2, np.ones(24))),
    (LOW, _short()),
    (WEIGHTS, with_weights(0.5 * 1.05**STEPS)),
    (STALLED, loss_course(np.ones(70))),
    (GROWING, loss_course(noisy_loss(60, 3.0))),
]


@pytest.mark.parametrize(("which", "made"), SPOKEN, ids=[one.id for one, _ in SPOKEN])
def test_cutting_changes_no_finding(which: Any, made: Block) -> None:
    whole = said(asked(which, made))
    assert asked(which, made).findings
    for cuts in ([*range(len(made))], [1], [7, 9, 30]):
        assert said(asked(which, made, *cuts)) == whole
