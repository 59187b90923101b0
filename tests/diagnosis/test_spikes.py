"""Spikes of loss and gradient: made-up runs that fire, stay clear, or sit on the limit. Oracle: numbers put in by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.diagnosis.made import NAN, block, found, outcome, step_rows
from weighbridge.diagnosis import Outcome
from weighbridge.diagnosis.registry import rule
from weighbridge.diagnosis.rules import (
    gradient_spike,
    loss_spike,
)

NAMES = ("a.weight", "a.bias", "b.weight", "b.bias")

LOSS, GRADIENT = rule("loss-spike"), rule("gradient-spike")


def _series(steps: int, at: int, times: float, scatter: float = 0.05, seed: int = 0) -> np.ndarray:
    values = np.exp(np.random.default_rng(seed).normal(0.0, scatter, steps))
    values[at] = values[at - 7 : at].mean() * times
    return values


@pytest.mark.parametrize(("times", "is_told"), [(2.2, True), (1.9, False)])
def test_a_loss_that_doubles_is_a_spike_and_less_is_not(times: float, is_told: bool) -> None:
    told = found(LOSS, block(40, steps=step_rows(40, loss=_series(40, 30, times).tolist())))
    assert [(x.first_step, x.told_step) for x in told] == [(30, 30)] * is_told


def test_a_spike_has_to_stand_out_of_the_scatter_and_of_the_extremes_before() -> None:
    wide = _series(40, 30, 4.0, scatter=0.5)
    assert found(LOSS, block(40, steps=step_rows(40, loss=wide.tolist()))) == []
    twice = _series(60, 30, 2.2)
    twice[20] *= 1.9  # half as far out, and no spike yet
    assert found(LOSS, block(60, steps=step_rows(60, loss=twice.tolist()))) == []


def test_not_in_the_first_steps_and_not_of_losses_below_0() -> None:
    assert outcome(LOSS, block(10, steps=step_rows(10, loss=_series(10, 9, 50.0).tolist()))) is Outcome.NOT_ENOUGH_DATA
    assert outcome(LOSS, block(40, steps=step_rows(40, loss=[-1.0, *_series(39, 30, 50.0)]))) is Outcome.NOT_APPLICABLE


def test_a_hard_batch_of_a_model_that_fits_the_others_undoes_little() -> None:
    falls = np.r_[np.full(5, 2.0), _series(55, 40, 100.0) * 1e-3]
    assert found(LOSS, block(60, steps=step_rows(60, loss=falls.tolist()))) == []  # 0.1 of 2.0
    falls[45] *= 10
    assert len(found(LOSS, block(60, steps=step_rows(60, loss=falls.tolist())))) == 1


@pytest.mark.parametrize(
    ("first", "times", "is_told"), [(2.4, 2.5, True), (2.6, 2.5, False), (6.0, 2.9, False), (6.0, 3.1, True), (2.4, 1.9, False)]
)
def test_a_loss_that_a_renewed_target_doubles_is_no_spike_below_its_first_value(
    first: float, times: float, is_told: bool
) -> None:
    """It begins at `first`, has come down to 1, and is `times` as large in one step, which undoes more than UNDONE."""
    assert (loss_spike.LEAST, loss_spike.FAR) == (2.0, 3.0)
    losses = np.ones(60)
    losses[:3], losses[3:20] = first, np.linspace(first, 1.0, 17)
    losses[40] = times
    assert bool(found(LOSS, block(60, steps=step_rows(60, loss=losses.tolist())))) is is_told


@pytest.mark.parametrize(
    ("after", "told_step"),
    [
        ([], None),  # the run ends
        ([1.0], 41),
        ([3.5, 1.9], 42),  # the limit is twice what it was
        ([3.5, 2.1], None),
        ([3.5, 3.5, 1.0], None),  # too late: what is asked for has changed, and is being learnt
        ([3.5, 6.5, 17.9, 6.5], None),  # it may pass its first value on the way
        ([3.5, 18.1], 42),  # but not by FAR: that is one of its own
    ],
)
def test_a_jump_that_stays_below_the_first_value_is_a_change_of_what_is_asked_for(
    after: list[float], told_step: int | None
) -> None:
    """From 6 down to 1, then 4 at step 40."""
    assert (loss_spike.BACK, loss_spike.FAR) == (2, 3.0)
    losses = [6.0] * 3 + np.linspace(6.0, 1.0, 17).tolist() + [1.0] * 20 + [4.0] + after
    told = found(LOSS, block(len(losses), steps=step_rows(len(losses), loss=losses)))
    assert [x.told_step for x in told] == ([] if told_step is None else [told_step])
    assert all(x.first_step == (40 if losses[-1] < 6.0 else told_step) for x in told)


@pytest.mark.parametrize(
    ("times", "after", "told_step"),
    [
        (6.0, [0.9, 0.9, 2.0], None),  # too late
        (6.0, [0.9, 1.2], 32),
        (6.0, [1.2], 31),
        (6.0, [1.0, 1.0], None),  # as high as before
        (6.0, [], None),
        (11.0, [0.9], 30),  # no batch does that
        (6.0, [NAN], 31),  # not known: it may be
    ],
)
def test_a_small_spike_of_the_gradient_is_told_where_the_loss_gets_worse(
    times: float, after: list[float], told_step: int | None
) -> None:
    assert (gradient_spike.GREAT, gradient_spike.SHOWS) == (10.0, 2)
    losses = [1.0] * 30 + [0.9] + after
    norms = _series(len(losses), 30, times)
    told = found(
        GRADIENT, block(len(losses), {"gradient.l2_norm": {"a.weight": norms}}, steps=step_rows(len(losses), loss=losses))
    )
    assert [(x.first_step, x.told_step) for x in told] == ([] if told_step is None else [(30, told_step)])


@pytest.mark.parametrize(
    ("after", "told_step"),
    [
        ([4.0, 3.9, 3.8], None),  # new targets of a Q-learner, a head begun anew
        ([3.0, 2.2, 0.1], None),  # sqrt(4 x 1) is half of the way
        ([1.9], 31),  # the next batch is one of the usual ones
        ([3.0, 1.9], 32),
        ([11.9, 5.0], None),
        ([12.1], 31),  # weights that were thrown
        ([NAN], 31),  # not known
        ([], None),
    ],
)
def test_what_is_asked_for_anew_stays_hard_and_has_gradients_of_its_own(after: list[float], told_step: int | None) -> None:
    """At step 30 the gradient is 50 times as large, and the loss 4 times what it was; from then on gradients are large."""
    assert (gradient_spike.LEAST, gradient_spike.SHOWS) == (3.0, 2)
    losses = [2.0] * 3 + [1.0] * 27 + [4.0] + after
    norms = _series(len(losses), 30, 50.0)
    norms[31:] = norms[30] * 1.1  # the largest so far, again and again
    told = found(
        GRADIENT, block(len(losses), {"gradient.l2_norm": {"a.weight": norms}}, steps=step_rows(len(losses), loss=losses))
    )
    assert [(x.first_step, x.told_step) for x in told] == ([] if told_step is None else [(30, told_step)])


@pytest.mark.parametrize(("loss", "is_told"), [(2.18, False), (2.25, True)])
def test_the_few_samples_that_an_epoch_leaves_over_are_no_spike(loss: float, is_told: bool) -> None:
    """Losses of 2 with a median deviation of 0.04: 4 robust sigmas above are 2.237. The gradient is 3.3 times as large."""
    assert gradient_spike.SIGMAS == 4.0
    losses = [2.0 + 0.04 * (-1) ** step for step in range(30)] + [loss, 2.0, 2.0]
    losses[25] = 2.1
    norms = _series(33, 30, 3.3)
    assert bool(found(GRADIENT, block(33, {"gradient.l2_norm": {"*": norms}}, steps=step_rows(33, loss=losses)))) is is_told


@pytest.mark.parametrize(("few", "rest", "is_told"), [(16, 2.0, False), (16, 7.0, True), (NAN, 2.0, True), (2, 3.5, False)])
def test_a_loss_over_few_samples_counts_as_if_they_stood_among_as_many_as_usual(few: float, rest: float, is_told: bool) -> None:
    """Batches of 64 with a loss of 1; at step 30 it is 1 + rest, over `few` samples: as one of 64, 1 + rest * few / 64."""
    losses = np.exp(np.random.default_rng(0).normal(0.0, 0.01, 40))
    losses[30] = 1 + rest
    sizes = [None if few != few else int(few) if step == 30 else 64 for step in range(40)]
    told = found(LOSS, block(40, steps=step_rows(40, loss=losses.tolist(), samples=sizes)))
    assert [x.first_step for x in told] == [30] * is_told
    assert all(f"×{1 + rest:.1f}"[:3] in x.message for x in told)  # the words are of the loss as it was


@pytest.mark.parametrize(("few", "is_told"), [(8, False), (64, True)])
def test_a_gradient_over_few_samples_counts_as_if_they_stood_among_as_many_as_usual(few: int, is_told: bool) -> None:
    """14 times as large over 8 of 64 samples: among 64 at most 1 + 13 / 8 = 2.6 times."""
    sizes = [few if step == 30 else 64 for step in range(40)]
    steps = step_rows(40, samples=sizes)
    told = found(GRADIENT, block(40, {"gradient.l2_norm": {"*": _series(40, 30, 14.0)}}, steps=steps))
    assert [(x.first_step, "×14" in x.message) for x in told] == [(30, True)] * is_told


@pytest.mark.parametrize(("update", "is_told"), [(9.9, False), (10.1, True)])
def test_a_step_as_long_as_the_weights_themselves_is_told_at_once(update: float, is_told: bool) -> None:
    """The loss stays up, as that of a new task does. The weights have a norm of 10."""
    assert gradient_spike.THROWN == 1.0
    losses = [2.0] * 3 + [1.0] * 27 + [4.0, 3.9, 3.8]
    moves = np.where(np.arange(33) == 30, update, 0.01)
    arrays = {"gradient.l2_norm": _series(33, 30, 50.0), "update.l2_norm": moves, "parameter.l2_norm": np.full(33, 10.0)}
    told = found(GRADIENT, block(33, {name: {"a.weight": x} for name, x in arrays.items()}, steps=step_rows(33, loss=losses)))
    assert [(x.first_step, x.told_step) for x in told] == [(30, 30)] * is_told


def test_the_norm_of_more_tensors_is_no_spike_of_fewer() -> None:
    """b is thawed at step 30: what had no gradient before has one."""
    usual, thawed = _series(60, 30, 1.0), _series(60, 50, 1.0, seed=1) * 10
    later = {"a.weight": usual, "b.weight": np.where(np.arange(60) < 30, NAN, thawed)}
    assert found(GRADIENT, block(60, {"gradient.l2_norm": later})) == []
    later["b.weight"] = np.where(np.arange(60) == 50, 400.0, later["b.weight"])
    (told,) = found(GRADIENT, block(60, {"gradient.l2_norm": later}))
    assert (told.place, told.first_step) == ("b.weight", 50)


def test_a_gradient_spike_is_the_tensor_s_with_the_largest_share() -> None:
    usual, jump = _series(40, 30, 1.0), _series(40, 30, 40.0, seed=1)
    (told,) = found(GRADIENT, block(40, {"gradient.l2_norm": {"*": usual, "b.weight": jump}}))
    assert (told.place, told.first_step) == ("b.weight", 30)
    assert told.evidence[2].rows[0][2] > 0.99  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("update", "after", "told_step"),
    [
        (1.0, [60.0, 50.0, 40.0, 30.0], None),  # other data: each step learns its share
        (1.0, [11.0, 10.1, 8.0], None),  # half of ln 100 is ln 10: the limit
        (1.0, [9.9, 9.0, 8.0], 41),  # most of it was this batch's
        (1.0, [60.0, 1.0], 42),
        (1.0, [1000.0, 900.0], None),  # the next batch of the other data may be worse
        (3.1, [60.0, 50.0], 40),  # the weights have left their way
        (2.9, [60.0, 50.0], None),
        (NAN, [60.0, 50.0], 40),  # not known
    ],
)
def test_other_data_stay_hard_and_a_bad_batch_is_over(update: float, after: list[float], told_step: int | None) -> None:
    """From 6 down to 1, then 100 at step 40, above the first; `update` is the size of the step before, in those usual."""
    assert (loss_spike.BACK, loss_spike.THROWN) == (2, 3.0)
    losses = [6.0] * 3 + np.linspace(6.0, 1.0, 17).tolist() + [1.0] * 20 + [100.0] + after
    updates = np.full(len(losses), 1.0 if update == update else NAN)
    updates[39], updates[40:] = update, 50.0  # plain descent takes the long gradients of other data
    told = found(LOSS, block(len(losses), {"update.l2_norm": {"*": updates}}, steps=step_rows(len(losses), loss=losses)))
    assert [(x.first_step, x.told_step) for x in told] == ([] if told_step is None else [(40, told_step)])


def test_a_gradient_no_larger_than_at_the_beginning_is_no_spike() -> None:
    early = np.r_[_series(8, 7, 1.0) * 100, _series(40, 30, 40.0)]
    assert found(GRADIENT, block(48, {"gradient.l2_norm": {"*": early}})) == []
    assert (gradient_spike.EARLY, loss_spike.LEAST) == (3, 2.0)


def test_chance_alone_makes_no_spike() -> None:
    """Normal and exponential logarithms, 10 times 2,000 steps each."""
    random = np.random.default_rng(3)
    for draw in (random.normal, random.exponential):
        for _ in range(10):
            losses = np.exp(np.clip(0.3 * draw(size=2_000), -30, 30))
            assert found(LOSS, block(2_000, steps=step_rows(2_000, loss=losses.tolist()))) == []
