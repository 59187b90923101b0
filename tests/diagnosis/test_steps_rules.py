"""Rules about steps: made-up runs that fire, stay clear, or sit on the limit. Oracle: numbers put in by hand."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.diagnosis.made import NAN, block, found, outcome, step_rows, tensor
from weighbridge.diagnosis import Finding, Outcome
from weighbridge.diagnosis.registry import rule
from weighbridge.diagnosis.rules import (
    dominant_epsilon,
    gradient_spike,
    gradient_underflow,
    loss_spike,
    overtight_clipping,
    stale_second_moment,
)

NAMES = ("a.weight", "a.bias", "b.weight", "b.bias")

# ---- overtight-clipping: four tensors, each <g, u> = -FALL, the loss 1 ----

CLIPPING = rule("overtight-clipping")


def _clipped(f: Any, progress: float, steps: int = 3, rows: dict[str, Any] | None = None, **more: Any) -> list[Finding]:
    """Steps with a factor of clipping f, that lower the loss by `progress` of it at most."""
    falls = progress * np.nan_to_num(np.array(f, float), nan=1.0) / 4
    arrays = {"update.dot_gradient_update": {"*": -falls}, "update.l2_norm": {"*": more.pop("update", 1e-6)}}
    arrays |= {"gradient.count": {"*": 8.0}, "parameter.l2_norm": {"*": 1.0}, **more.pop("arrays", {})}
    return found(CLIPPING, block(steps, arrays, steps=step_rows(steps, clip_factor=f, **(rows or {})), **more))


STOPPED = overtight_clipping.STOPPED


@pytest.mark.parametrize(
    ("f", "progress", "steps", "is_told"),
    [
        (0.01, 0.9 * STOPPED, 3, True),
        (0.01, 0.9 * STOPPED, 2, False),
        (0.01, 1.1 * STOPPED, 3, False),
        (0.1, STOPPED, 3, True),
        (0.11, STOPPED, 3, False),
        (0.1, 0.9 * STOPPED, 3, False),  # unclipped, it would be slow as well
        (0.01, 0.9 * overtight_clipping.SLOW, 20, True),
        (0.01, 0.9 * overtight_clipping.SLOW, 19, False),
        (NAN, 0.9 * STOPPED, 30, False),
    ],
)
def test_clipping_that_leaves_next_to_nothing_is_told(f: float, progress: float, steps: int, is_told: bool) -> None:
    assert [(x.place, x.first_step, x.told_step) for x in _clipped(f, progress, steps)] == [("", 0, steps - 1)] * is_told


def test_one_step_that_is_not_clipped_breaks_the_row_of_steps() -> None:
    assert _clipped([0.01, 0.01, 1.0, 0.01, 0.01], 0.9 * STOPPED, 5) == []


def test_slow_progress_is_none_of_clipping_s_while_the_loss_falls() -> None:
    falling = {"loss": [1.0 - 0.005 * k for k in range(30)]}
    assert _clipped(0.01, 0.9 * overtight_clipping.SLOW, 30, falling) == []


@pytest.mark.parametrize(
    ("norms", "f", "told"),
    [
        ([1.0, *[1e-3] * 4], [1.0, NAN, NAN, NAN, 1e-3], [4]),  # held at a limit from step 1 on, measured at step 4
        ([1.0, *[1e-3] * 4], [1.0, NAN, NAN, NAN, NAN], []),  # they may have become so small by themselves,
        ([1.0, *[1e-3] * 4], [1.0, NAN, NAN, NAN, 1.0], []),  # as these have
        ([1.0, 1e-3, 1e-3, 1.1e-3, 1e-3], [1.0, NAN, NAN, NAN, 1e-3], []),
    ],
)
def test_a_norm_that_is_held_counts_between_measures(norms: list[float], f: list[float], told: list[int]) -> None:
    """SGD with momentum, whose updates still go the way of what was not clipped: not these are judged."""
    arrays = {"gradient.l2_norm": {"*": [n / 2 for n in norms]}, "update.dot_gradient_update": {"*": 0.1}}
    steps = step_rows(5, clip_factor=f, loss=1.0, lr=0.01, momentum=0.9)
    assert [x.told_step for x in found(CLIPPING, block(5, arrays, steps=steps))] == told


def test_momentum_makes_more_of_each_step() -> None:
    assert _clipped(0.01, 0.9 * STOPPED, 3, {"momentum": 0.9}) == []


def test_steps_while_the_learning_rate_rises_or_ends_do_not_count() -> None:
    assert _clipped(0.01, 0.9 * STOPPED, 9, {"lr": [0.01 * k for k in range(9)]}) == []
    assert _clipped(0.01, 0.9 * STOPPED, 9, {"lr": [1.0] * 2 + [0.09] * 7}) == []


@pytest.mark.parametrize(("pace", "is_told"), [(0.11, False), (0.09, True)])
def test_clipping_changes_nothing_where_adam_divides_by_the_size(pace: float, is_told: bool) -> None:
    update = pace * 0.1 * np.sqrt(8.0)  # four tensors of 8 elements, lr = 0.1
    told = _clipped(0.01, 0.9 * STOPPED, 3, optimizer="Adam", settings={"betas": [0.9, 0.999], "eps": 1e-8}, update=update)
    assert bool(told) is is_told


@pytest.mark.parametrize(
    ("mean", "update", "steps", "is_told"),
    [
        (0.9, 0.9e-4, 20, True),
        (0.9, 0.9e-4, 19, False),
        (0.9, 0.9e-5, 3, True),
        (0.9, 1.1e-4, 30, False),
        (0.4, 0.9e-4, 30, False),
    ],
)
def test_clipping_by_value_leaves_most_at_one_bound(mean: float, update: float, steps: int, is_told: bool) -> None:
    of_values = {"gradient.abs_max": {"*": 1e-3}, "gradient.l1_norm": {"*": 8e-3 * mean}}
    assert bool(_clipped(NAN, 1.0, steps, update=update, arrays=of_values)) is is_told
    apart = {**of_values, "gradient.abs_max": {"a.weight": 1e-3, "*": 1.1e-3, "b.weight": 1.2e-3, "b.bias": 1.3e-3}}
    assert _clipped(NAN, 1.0, 40, update=update, arrays=apart) == []


@pytest.mark.parametrize(("limit", "is_told"), [(0.099, True), (0.101, False)])
def test_clipping_by_value_that_begins_has_to_take_most_of_what_was_usual(limit: float, is_told: bool) -> None:
    """Five steps are not clipped; their largest gradients are 1, of each tensor another. From then on all are at the limit."""
    steps = 5 + overtight_clipping.LONG
    largest = {
        name: [free] * 5 + [limit] * (steps - 5)
        for name, free in (("a.weight", 1.0), ("a.bias", 0.9), ("b.weight", 0.8), ("b.bias", 0.7))
    }
    sums = {name: [8 * 0.2] * 5 + [8 * 0.9 * limit] * (steps - 5) for name in largest}
    of_values = {"gradient.abs_max": largest, "gradient.l1_norm": sums}
    told = _clipped(NAN, 1.0, steps, update=0.9e-5, arrays=of_values)
    assert [f.first_step for f in told] == ([5] if is_told else [])


@pytest.mark.parametrize(("held", "is_told"), [(["a.weight", "a.bias"], True), (["a.weight"], False)])
def test_one_tensor_always_has_the_largest_gradient_of_all(held: list[str], is_told: bool) -> None:
    arrays = {"gradient.abs_max": {"*": 1e-3}, "gradient.l1_norm": {"*": 8e-3 * 0.9}, "gradient.count": {"*": 8.0}}
    arrays |= {"parameter.l2_norm": {"*": 1.0}, "update.l2_norm": {"*": 1e-5 * 0.9}}
    assert bool(found(CLIPPING, block(20, arrays, held=held, steps=step_rows(20, loss=1.0)))) is is_told


def test_a_run_without_clipping_is_not_applicable() -> None:
    assert outcome(CLIPPING, block(9, steps=step_rows(9))) is Outcome.NOT_APPLICABLE


# ---- excessive-weight-decay ----

DECAY = rule("excessive-weight-decay")


def _decayed(cosine: float, rate: Any, steps: int = 3, decay: float = 1.0, loss: Any = 1.0, norm: Any = 2.0) -> list[Finding]:
    """All tensors have this norm; their update is rate / |cosine| of it long and has this cosine with them."""
    weight = np.broadcast_to(np.array(norm, float), steps)
    update = weight * rate / abs(cosine)
    arrays = {"parameter.l2_norm": {"*": weight}, "update.l2_norm": {"*": update}}
    arrays |= {"update.dot_update_parameter": {"*": cosine * weight * update}}
    return found(DECAY, block(steps, arrays, steps=step_rows(steps, weight_decay=decay, loss=loss)))


@pytest.mark.parametrize(
    ("cosine", "rate", "steps", "is_told"),
    [(-0.71, 0.011, 3, True), (-0.71, 0.011, 2, False), (-0.69, 0.011, 30, False), (-0.71, 0.009, 30, False)],
)
def test_updates_that_point_back_along_the_weights_are_told(cosine: float, rate: float, steps: int, is_told: bool) -> None:
    assert [(x.place, x.told_step) for x in _decayed(cosine, rate, steps)] == [("", steps - 1)] * is_told


@pytest.mark.parametrize(("apart", "is_told"), [(1.2, True), (1.3, False)])
def test_shrinking_without_decay_is_none_of_its_unless_all_shrink_alike(apart: float, is_told: bool) -> None:
    sizes = {"a.weight": 0.1, "*": 0.1 * apart}
    arrays = {"parameter.l2_norm": {"*": 1.0}, "update.l2_norm": sizes}
    arrays |= {"update.dot_update_parameter": {name: -size for name, size in sizes.items()}}
    told = found(DECAY, block(9, arrays, steps=step_rows(9, weight_decay=0.0, loss=1.0)))
    assert [f.told_step for f in told] == [2] * is_told


def test_a_model_that_has_learned_may_shrink() -> None:
    """Updates point back from step 10 on, when the loss has come down."""
    rate = [0.0001] * 10 + [0.02] * 20
    assert _decayed(-0.9, np.array(rate), 30, loss=[1.0] * 3 + [0.69] * 27) == []
    assert len(_decayed(-0.9, np.array(rate), 30, loss=[1.0] * 3 + [0.71] * 27)) == 1


@pytest.mark.parametrize(("left", "decay", "is_told"), [(0.49, 1.0, True), (0.51, 1.0, False), (0.49, 0.2, False)])
def test_half_of_the_norm_lost_to_decay_is_told(left: float, decay: float, is_told: bool) -> None:
    """Ten steps with lr = 0.1: decay alone would leave exp(-1) = 0.37 of the norm, or with a fifth of it 0.82."""
    assert bool(_decayed(-0.1, 0.001, 10, decay, norm=[2.0] * 9 + [2.0 * left])) is is_told


# ---- spikes ----

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


# ---- Adam ----

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


@pytest.mark.parametrize(("rise", "is_told"), [(1.60, True), (1.59, False)])
def test_the_losses_must_be_far_above_those_before(rise: float, is_told: bool) -> None:
    """Before it they are 0.9 and 1.1 in turn: a median of 1, a median distance of 0.1, so 4 sigmas end at 1.593."""
    assert stale_second_moment.SIGMAS == 4.0
    made = _with_losses(np.where(np.arange(33) < 31, 1.0 + 0.1 * (-1.0) ** np.arange(33), _rising(rise)))
    assert bool(found(STALE, made)) is is_told


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


# ---- gradient-underflow ----

UNDERFLOW = rule("gradient-underflow")
HALVES = tuple(tensor(i, name, dtype="float16", count=100) for i, name in enumerate(NAMES))


def _half(mean: Any, subnormal: float = 1.0, zeros: float = 20.0, steps: int = 3, loss: Any = 1.0) -> list[Finding]:
    """100 elements a tensor; those that are not 0 have this mean size in smallest numbers."""
    rest = 100.0 - zeros
    arrays = {"gradient.count": {"*": 100.0}, "gradient.zero_count": {"*": zeros}}
    arrays |= {"gradient.subnormal_count": {"*": subnormal * rest}, "gradient.l1_norm": {"*": mean * 2.0**-24 * rest}}
    return found(UNDERFLOW, block(steps, arrays, HALVES, steps=step_rows(steps, loss=loss)))


@pytest.mark.parametrize(
    ("mean", "subnormal", "steps", "is_told"),
    [(7.9, 1.0, 3, True), (7.9, 1.0, 2, False), (8.1, 1.0, 9, False), (7.9, 0.89, 9, False)],
)
def test_gradients_at_the_lower_end_of_float16_are_told(mean: float, subnormal: float, steps: int, is_told: bool) -> None:
    assert [(x.place, x.told_step) for x in _half(mean, subnormal, steps=steps)] == [("", steps - 1)] * is_told


def test_gradients_that_are_all_0_in_float16_are_told() -> None:
    assert len(_half(0.0, zeros=100.0)) == 1
    assert gradient_underflow.MOST == 0.5


def test_a_model_that_has_converged_needs_no_gradients() -> None:
    """Gradients are at the lower end from step 10 on, when the loss has come down."""
    mean = np.array([1000.0] * 10 + [4.0] * 10)
    assert _half(mean, steps=20, loss=[1.0] * 3 + [0.49] * 17) == []
    assert len(_half(mean, steps=20, loss=[1.0] * 3 + [0.51] * 17)) == 1


def test_float32_is_not_applicable() -> None:
    assert outcome(UNDERFLOW, block(9)) is Outcome.NOT_APPLICABLE


def test_the_loss_scale_is_put_back_into_what_outputs_are_sent() -> None:
    """The run takes the scale out of the loss's gradients by outputs; float16 saw them with it."""
    outputs = (tensor(0, "a.weight"), tensor(1, "a/out", dtype="float16", count=100))
    arrays = {"activation_gradient.count": {"*": 100.0}, "activation_gradient.zero_count": {"*": 0.0}}
    arrays |= {"activation_gradient.subnormal_count": {"*": 95.0}, "activation_gradient.l1_norm": {"*": 4 * 2.0**-24 * 100}}
    assert found(UNDERFLOW, block(3, arrays, outputs))
    assert not found(UNDERFLOW, block(3, arrays, outputs, steps=step_rows(3, loss_scale=1024.0)))
