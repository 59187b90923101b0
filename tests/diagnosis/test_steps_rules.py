"""Rules about steps: made-up runs that fire, stay clear, or sit on the limit. Oracle: numbers put in by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.diagnosis.made import NAN, block, found, outcome, step_rows, tensor
from weighbridge.diagnosis import Finding, Outcome
from weighbridge.diagnosis.registry import rule
from weighbridge.diagnosis.rules import (
    gradient_underflow,
    overtight_clipping,
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
        (0.01, 0.09 * STOPPED, 3, True),  # unclipped nine times STOPPED, and a tenth of it as it is
        (0.1, 0.09 * STOPPED, 3, False),  # of so low a rate the step is short in any case
        (0.05, 0.11 * STOPPED, 3, False),
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
