"""Rules that read units and spreads: made-up looks that must fire, stay clear, or sit on the limit; one ill training of each
kind and its twin. Oracle: the numbers put in by hand; of trainings what the test itself did to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weighbridge
from tests.diagnosis.graphs import Drawing
from tests.diagnosis.graphs import rows as graph_rows
from tests.diagnosis.made import NAN, asked, block, found, outcome, said, step_rows, tensor
from tests.diagnosis.trainings import Training, data, seeded, sgd_mlp, train
from tests.diagnosis.trainings import batches as drawn
from weighbridge.diagnosis import Outcome
from weighbridge.diagnosis.registry import rule
from weighbridge.diagnosis.rules import attention_logit_growth, collapsed_output, dead_units, rank_collapse
from weighbridge.diagnosis.stream import Block

DEAD, SATURATED, SYMMETRIC = rule("dead-units"), rule("saturated-units"), rule("symmetric-initialisation")
COLLAPSED, RANK, LOGITS = rule("collapsed-output"), rule("rank-collapse"), rule("attention-logit-growth")
UNITS, BATCH = 40, 32
# a: Linear(16, 40), an activation, b: Linear(40, 40), another one, c: the last layer.
NET = (
    *(tensor(0, "a.weight", shape=(UNITS, 16)), tensor(1, "a.bias", shape=(UNITS,))),
    *(tensor(2, "b.weight", shape=(UNITS, UNITS)), tensor(3, "b.bias", shape=(UNITS,))),
    *(tensor(4, "c.weight", shape=(10, UNITS)), tensor(5, "a/out", order=0, shape=(BATCH, UNITS))),
    *(tensor(6, "a1/out", "ReLU", order=1, shape=(BATCH, UNITS)), tensor(7, "b/out", order=2, shape=(BATCH, UNITS))),
    *(tensor(8, "b1/out", "Tanh", order=3, shape=(BATCH, UNITS)), tensor(9, "c/out", order=4, shape=(BATCH, 10))),
)
A, RELU, B, TANH, C = 5, 6, 7, 8, 9


def units(step: int, of: int, active: Any, n: int = BATCH, **more: Any) -> dict[str, Any]:
    """A look at the units of an output; usual numbers where none are given."""
    fired = np.asarray(active)
    row = {"step": step, "tensor": of, "quantity": 5, "steps": 1, "n": n, "active": fired, "sum": 1.0 * fired}
    return row | {"sum_sq": 1.0 * fired, "max": np.where(fired > 0, 1.0, 0.0)} | more


def fired(dead: int, number: int = UNITS) -> np.ndarray:
    """So many units silent, the others firing on half of the inputs."""
    return np.where(np.arange(number) < dead, 0, BATCH // 2)


def of_units(looks: Sequence[dict[str, Any]], arrays: Any = None, steps: int = 12, **more: Any) -> Block:
    return block(steps, arrays, NET, units=looks, **more)


# ---- dead-units ----


LONG = 40
FALLS = step_rows(LONG, loss=[1.0 / (1 + step) for step in range(LONG)])
FLAT = step_rows(LONG, loss=[1.0] * LONG)


@pytest.mark.parametrize(("dead", "places"), [(30, ["a"]), (29, []), (0, [])])
def test_more_than_chance_fallen_silent_one_by_one_is_told_where_the_loss_has_not_fallen(dead: int, places: list[str]) -> None:
    looks = [units(step, RELU, fired(min(2 * step, dead))) for step in range(LONG)]
    made = block(LONG, None, NET, units=looks, steps=FLAT)
    assert [(f.place, f.told_step) for f in found(DEAD, made)] == [(place, dead_units.LONG - 1) for place in places]
    assert outcome(DEAD, made) is (Outcome.FOUND if places else Outcome.CLEAR)
    assert found(DEAD, block(LONG, None, NET, units=looks, steps=FALLS)) == []  # no harm is seen, and chance may do as much


@pytest.mark.parametrize(("dead", "apart", "places"), [(30, 0, ["a"]), (30, 1, ["a"]), (29, 0, []), (30, 2, [])])
def test_a_step_that_kills_more_than_chance_is_told_whatever_the_loss_does(dead: int, apart: int, places: list[str]) -> None:
    """10, 20, 30 units at the steps 2, 2 + apart, 2 + 2 apart: a step that went too far, and those that follow from it."""
    gone = lambda step: sum(step >= 2 + i * apart for i in range(3)) * dead // 3
    looks = [units(step, RELU, fired(gone(step))) for step in range(16)]
    assert [f.place for f in found(DEAD, block(LONG, None, NET, units=looks, steps=FALLS))] == places


@pytest.mark.parametrize(("number", "is_told"), [(9, False), (10, True)])
def test_all_of_a_small_layer_may_be_dead_by_the_signs_of_its_units(number: int, is_told: bool) -> None:
    """2^-9 is no proof. Each dies at a look of its own."""
    looks = [units(step, RELU, [0 if step >= 3 * i else 5 for i in range(number)], n=60) for step in range(40)]
    assert bool(found(DEAD, block(LONG, None, NET, units=looks, steps=FALLS))) is is_told


@pytest.mark.parametrize(("dead", "places"), [(30, ["a"]), (29, [])])
def test_of_units_dead_from_the_start_a_half_may_be_by_the_signs_of_their_biases(dead: int, places: list[str]) -> None:
    """40 units, each dead with a chance of 1/2: 20 and three standard deviations of 3.16 are 29.5."""
    made = of_units([units(step, RELU, fired(dead)) for step in range(8)])
    assert [f.place for f in found(DEAD, made)] == places


def test_units_of_a_run_that_is_not_finite_are_not_judged() -> None:
    nothing = np.full(UNITS, np.nan)
    made = of_units([units(step, RELU, fired(40), sum=nothing, sum_sq=nothing) for step in range(8)])
    assert found(DEAD, made) == []
    looks = [units(step, RELU, fired(40)) for step in range(8)]  # sums leave out what is not finite
    is_nan = {"activation.nonfinite_count": {"a1/out": [0.0, 0.0] + [UNITS * BATCH] * 10}}
    assert [f.told_step for f in found(DEAD, of_units(looks))] == [1]
    assert found(DEAD, of_units(looks[2:], is_nan)) == []


def test_how_long_it_takes_follows_from_the_rule_of_three() -> None:
    told = found(DEAD, of_units([units(step, RELU, fired(30)) for step in range(8)]))
    assert pytest.approx(600) == dead_units.EXPOSURES
    assert [(f.first_step, f.told_step) for f in told] == [(0, 1)]  # 30 units x 32 inputs after the first look
    told = found(DEAD, of_units([units(step, RELU, fired(30), n=4) for step in range(12)]))
    assert told[0].told_step == 5  # 30 x 4 x 5 = 600, and 20 inputs of each
    told = found(DEAD, of_units([units(step, RELU, fired(40), n=1) for step in range(20)], steps=20))
    assert told[0].told_step == dead_units.SAMPLES  # of so many inputs, however many units


def test_units_that_fire_again_are_sparse_and_not_dead() -> None:
    looks = [np.where(np.arange(UNITS) % 10 == step % 10, 3, 0) for step in range(12)]  # 90 % silent, others each time
    assert found(DEAD, of_units([units(step, RELU, looks[step]) for step in range(12)])) == []


def test_half_of_a_tiny_layer_is_no_wonder_and_all_of_it_is_an_error_where_the_loss_does_not_fall() -> None:
    for active, steps, severities in (([0, 0, 0, 5], FLAT, []), ([0, 0, 0, 0], FLAT, ["error"]), ([0, 0, 0, 0], FALLS, [])):
        looks = [units(step, RELU, active, n=60) for step in range(LONG)]
        assert [f.severity for f in found(DEAD, block(LONG, None, NET, units=looks, steps=steps))] == severities


@pytest.mark.parametrize(("zeros", "places"), [(30 / UNITS, ["b"]), (29 / UNITS, []), (NAN, []), (1.0, [])])
def test_without_a_module_for_the_activation_the_gradient_is_the_proof(zeros: float, places: list[str]) -> None:
    looks = [units(step, B, fired(30)) for step in range(8)]
    made = of_units(looks, {"gradient.zero_fraction": {"b.bias": zeros, "b.weight": zeros}})
    assert [f.place for f in found(DEAD, made)] == places


@pytest.mark.parametrize(("share", "function", "is_told"), [(0.55, "gelu", True), (0.5, "silu", False), (0.9, "tanh", False)])
def test_a_smooth_activation_is_dead_where_it_has_no_slope(share: float, function: str, is_told: bool) -> None:
    looks = [spread(step, A, bend=function, flat=0.9, flat_units=0.9, asleep_units=share) for step in range(8)]
    told = found(DEAD, looked(*looks))
    assert [(f.place, f.first_step, f.told_step) for f in told] == ([("a", 0, 1)] if is_told else [])  # 22 x 32 = 704 > 600


def test_a_layer_that_loses_its_gradients_between_two_looks_is_told_at_the_third_step() -> None:
    looks = [units(step, RELU, fired(2)) for step in (0, 1, 2, 3)]
    zeros = [2 / UNITS] * 15 + [0.9] * 10
    losses = [1.0] * 15 + [5.0] * 10
    arrays = {"gradient.zero_fraction": {"a.bias": zeros}}
    told = found(DEAD, block(25, arrays, NET, units=looks, steps=step_rows(25, loss=losses)))
    assert [(f.place, f.first_step, f.told_step) for f in told] == [("a", 15, 17)]
    better = step_rows(25, loss=[1.0 - 0.03 * i for i in range(25)])
    assert found(DEAD, block(25, arrays, NET, units=looks, steps=better)) == []
    flicker = {"gradient.zero_fraction": {"a.bias": [2 / UNITS] * 15 + [0.9, 0.9, 2 / UNITS] * 3 + [0.9]}}
    assert found(DEAD, block(25, flicker, NET, units=looks, steps=step_rows(25, loss=losses))) == []


def test_frozen_layers_are_not_judged() -> None:
    net = tuple(tensor(t.id, t.name, t.module, order=t.order, shape=t.shape, requires_grad=t.id > 1) for t in NET)
    assert found(DEAD, block(8, None, net, units=[units(step, RELU, fired(39)) for step in range(8)])) == []


# ---- saturated-units ----


def bent(step: int, flat: float, flat_units: float = 0.0, function: str = "tanh") -> dict[str, Any]:
    """A look at an output that is given through a function."""
    return spread(step, A, bend=function, flat=flat, flat_units=flat_units, asleep_units=0.0)


@pytest.mark.parametrize(("flat", "is_told"), [(0.51, True), (0.5, False)])
def test_at_the_start_it_is_enough_that_most_numbers_are_flat(flat: float, is_told: bool) -> None:
    told = found(SATURATED, looked(*(bent(step, flat) for step in range(4))))
    assert [(f.place, f.first_step, f.told_step) for f in told] == ([("a", 0, 1)] if is_told else [])


@pytest.mark.parametrize(
    ("flat", "units", "is_told"), [(0.6, 0.51, True), (0.6, 0.5, False), (0.76, 0.0, True), (0.75, 0.0, False)]
)
def test_later_it_takes_most_units_or_much_of_the_numbers(flat: float, units: float, is_told: bool) -> None:
    looks = [bent(step, 0.1) for step in range(5)] + [bent(step, flat, units) for step in range(5, 9)]
    assert [(f.first_step, f.told_step) for f in found(SATURATED, looked(*looks))] == ([(5, 6)] if is_told else [])


def test_once_the_loss_has_fallen_saturation_is_what_was_learned() -> None:
    looks = [bent(step, 0.1) for step in range(5)] + [bent(step, 0.99, 0.9) for step in range(5, 12)]
    assert found(SATURATED, looked(*looks))
    assert found(SATURATED, looked(*looks, loss=[1.0 / (1 + i) for i in range(12)])) == []


@pytest.mark.parametrize(
    ("before", "flat", "at", "loss", "told"),
    [
        (0.5, 0.76, (20, 21), 1.6, [(20, 21)]),
        (0.5, 0.76, (20, 21), 1.4, []),  # not far above the lowest: what a batch does by chance
        (0.51, 0.76, (20, 21), 1.6, []),  # it was nearly so before
        (0.5, 0.75, (20, 21), 1.6, []),
        (0.5, 0.76, (20, 30), 1.6, []),  # between looks that lie apart it may have come slowly
    ],
)
def test_saturation_that_came_at_once_is_told_while_the_loss_still_falls(
    before: float, flat: float, at: tuple[int, int], loss: float, told: list[tuple[int, int]]
) -> None:
    """From 10 to 1 in 20 steps; then far above that for two steps, but the mean of five is no sign yet."""
    losses = [10.0 - 9.0 * min(step, 14) / 14 for step in range(20)] + [loss, loss] + [1.0] * 8 + [loss] + [1.0] * 4
    looks = [bent(step, before) for step in (1, 10)] + [bent(step, flat) for step in at]
    made = block(35, None, NET, spread=looks, steps=step_rows(35, loss=losses))
    assert [(f.first_step, f.told_step) for f in found(SATURATED, made)] == told


def test_other_functions_do_not_saturate() -> None:
    made = looked(*(bent(step, 0.99, 0.99, "relu") for step in range(4)))
    assert outcome(SATURATED, made) is Outcome.NOT_APPLICABLE


# ---- symmetric-initialisation ----


def alike(step: int, of: int = A, other: float = 0.0, square: float = 40.0) -> dict[str, Any]:
    """Units that are one, or one of them `other` more."""
    total = np.full(UNITS, 3.0)
    total[-1] += other
    return units(step, of, np.full(UNITS, 16), sum=total, sum_sq=np.full(UNITS, square), max=np.full(UNITS, 2.0))


MOVES = {"update.zero_fraction": {"a.weight": 0.0}}


@pytest.mark.parametrize(("other", "is_told"), [(0.0, True), (1e-4, True), (1e-3, False)])
def test_equal_units_are_told_at_step_2_once_they_have_moved(other: float, is_told: bool) -> None:
    looks = [alike(step, other=other) for step in range(5)]
    told = found(SYMMETRIC, of_units(looks, MOVES))
    expected = [("a", "error", "proof", 0, 2)] if is_told else []
    assert [(f.place, f.severity, f.certainty, f.first_step, f.told_step) for f in told] == expected
    assert found(SYMMETRIC, of_units(looks, {"update.zero_fraction": {"a.weight": 1.0}})) == []


def test_units_that_start_as_one_and_part_are_a_warning() -> None:
    told = found(SYMMETRIC, of_units([alike(0), alike(1, other=0.5), alike(2, other=0.7)], MOVES))
    assert [(f.severity, f.certainty, f.told_step) for f in told] == [("warning", "test", 1)]


def test_a_head_that_starts_at_0_gives_the_same_for_all_inputs_and_is_none() -> None:
    constant = {"sum": np.full(UNITS, 32.0), "sum_sq": np.full(UNITS, 32.0), "max": np.ones(UNITS)}
    looks = [units(step, A, np.full(UNITS, 32)) | constant for step in range(2)] + [alike(2, other=0.5)]
    assert found(SYMMETRIC, of_units(looks, MOVES)) == []
    nothing = {name: np.zeros(UNITS) for name in ("active", "sum", "sum_sq", "max")}
    assert found(SYMMETRIC, of_units([units(step, A, np.zeros(UNITS)) | nothing for step in range(5)], MOVES)) == []


@pytest.mark.parametrize(("steps", "layers", "places"), [(3, "ab", ["a", "b"]), (2, "ab", []), (3, "a", [])])
def test_zeros_that_wait_for_each_other_are_told_after_three_steps(steps: int, layers: str, places: list[str]) -> None:
    names = [f"{layer}.weight" for layer in layers]
    arrays = {"parameter.abs_max": dict.fromkeys(names, 0.0), "gradient.zero_fraction": dict.fromkeys(names, 1.0)}
    assert [f.place for f in found(SYMMETRIC, of_units([], arrays, steps))] == places
    rising = step_rows(steps, lr=0.0)
    assert found(SYMMETRIC, block(steps, arrays, NET, steps=rising)) == []  # nobody has taken a step yet


# ---- collapsed-output, rank-collapse, attention-logit-growth ----


def spread(step: int, of: int, varies: float = 0.5, directions: float = 9.0, **more: Any) -> dict[str, Any]:
    """A look at 32 samples of 10 features with a mean square of 1 and this share of variance over samples."""
    row = {"step": step, "tensor": of, "samples": 32, "positions": 1, "features": 10, "sum_sq": 320.0, "vectors": 32}
    row |= {"sample_sq": 320.0 * varies, "position_sq": 0.0, "trace": 320.0, "trace_sq": 320.0**2 / directions, "logit": NAN}
    row |= {"bend": "", "flat": NAN, "flat_units": NAN, "asleep_units": NAN}
    return row | more


def looked(*looks: dict[str, Any], steps: int = 12, arrays: Any = None, tensors: Any = NET, **columns: Any) -> Block:
    return block(steps, arrays, tensors, spread=looks, steps=step_rows(steps, **columns))


INPUTS = tuple(spread(step, -1) for step in range(12))
SAME, ALIKE = collapsed_output.SAME, collapsed_output.ALIKE


@pytest.mark.parametrize(("varies", "is_told"), [(0.99 * ALIKE, True), (1.01 * ALIKE, False)])
def test_an_output_that_no_longer_differs_is_told_at_the_second_look(varies: float, is_told: bool) -> None:
    looks = [spread(step, C) for step in range(3)] + [spread(step, C, varies) for step in range(3, 6)]
    told = found(COLLAPSED, looked(*INPUTS, *looks))
    assert [(f.place, f.first_step, f.told_step) for f in told] == ([("c", 3, 4)] if is_told else [])


def test_the_place_is_the_first_that_collapsed_in_order_of_execution() -> None:
    looks = [spread(step, of, 0.5 if step < 3 else SAME / 2) for step in range(6) for of in (B, C)]
    assert [f.place for f in found(COLLAPSED, looked(*INPUTS, *looks))] == ["b"]


def test_inputs_that_are_all_alike_or_not_known_are_no_fault_of_the_network() -> None:
    looks = [spread(step, C, 0.5 if step < 3 else SAME / 2) for step in range(6)]
    assert found(COLLAPSED, looked(*looks)) == []
    assert found(COLLAPSED, looked(*(spread(step, -1, 0.0) for step in range(6)), *looks)) == []
    assert found(COLLAPSED, looked(*looks, *(spread(step, A) for step in range(6))))  # an earlier output differs


@pytest.mark.parametrize(("varies", "told"), [(0.0, [3]), (SAME / 2, [collapsed_output.SEVERAL])])
def test_what_has_always_been_the_same_is_told_while_the_loss_does_not_fall(varies: float, told: list[int]) -> None:
    looks = [spread(step, of, varies) for step in range(LONG) for of in (B, C)]
    answer = found(COLLAPSED, looked(*INPUTS, *looks, *(spread(step, A) for step in range(LONG)), steps=LONG))
    assert [(f.place, f.told_step + 1) for f in answer] == [("b", *told)]
    falls = [1.0 / (1 + i) for i in range(LONG)]
    assert found(COLLAPSED, looked(*INPUTS, *looks, steps=LONG, loss=falls)) == []
    inner = [spread(step, B, varies) for step in range(LONG)] + [spread(step, C) for step in range(LONG)]
    assert found(COLLAPSED, looked(*INPUTS, *inner)) == []  # learned queries: the same for all, and the end is not


def test_one_output_far_from_0_may_vary_little_once_the_loss_has_halved() -> None:
    kelvin = [spread(s, C, 0.5 if s < 3 else SAME / 2, features=1) for s in range(8)]
    assert found(COLLAPSED, looked(*INPUTS, *kelvin))
    assert found(COLLAPSED, looked(*INPUTS, *kelvin, loss=[1.0 / (1 + i) for i in range(12)])) == []


@pytest.mark.parametrize(("varies", "is_told"), [(0.99, True), (1.01, False)])
def test_few_outputs_that_are_all_but_the_same_are_no_temperature(varies: float, is_told: bool) -> None:
    """Their mean square grows, and a loss that swings around 0 has "fallen" to many times its size."""
    share = varies * collapsed_output.NOTHING
    looks = [spread(s, C, 0.5, features=4) for s in range(3)] + [spread(s, C, share, features=4) for s in range(3, 8)]
    for s, look in enumerate(looks[3:]):
        look |= {name: look[name] * 1.2 ** (s + 1) for name in ("sum_sq", "sample_sq")}
    swings = [0.01, -0.5, 0.01, *[-0.01] * 9]
    assert bool(found(COLLAPSED, looked(*INPUTS, *looks, loss=swings))) is is_told


@pytest.mark.parametrize(("others", "losses", "is_told"), [(0.5, 2, True), (0.0, 2, False), (0.5, 1, False)])
def test_a_generator_that_gets_one_noise_for_all(others: float, losses: int, is_told: bool) -> None:
    """No inputs are known, its own loss falls, and what its rival gives differs between samples."""
    looks = [spread(step, of, 0.0) for step in range(6) for of in (B, C)] + [spread(s, A, others) for s in range(6)]
    made = looked(*looks, steps=6)
    falls = [{**row, "loss": 1.0 / (1 + row["step"])} for row in made.tables["steps"]]
    rival = [{**row, "optimizer": 1, "loss": 0.3} for row in falls] if losses > 1 else []
    both = sorted([*falls, *rival], key=lambda row: (row["step"], row["optimizer"]))
    assert bool(found(COLLAPSED, replace(made, tables={**made.tables, "steps": tuple(both)}))) is is_told


LOOKED = tuple(spread(step, -1) for step in range(LONG))


@pytest.mark.parametrize(("directions", "is_told"), [(1.49, True), (1.51, False)])
def test_one_direction_from_the_start_is_told_where_it_begins(directions: float, is_told: bool) -> None:
    looks = [spread(s, of, directions=directions) for s in range(LONG) for of in (B, TANH)]
    told = found(RANK, looked(*LOOKED, *looks, *(spread(s, of) for s in range(LONG) for of in (A, C)), steps=LONG))
    until = rank_collapse.LONG - 1
    assert [(f.place, f.first_step, f.told_step) for f in told] == ([("b", 0, until)] if is_told else [])


@pytest.mark.parametrize(("last", "is_told"), [(1.2, True), (1.45, False)])
def test_few_directions_that_grow_are_on_their_way(last: float, is_told: bool) -> None:
    """What is beyond one direction, 0.2 at first, has grown to half as much again at 1.3. The loss stands."""
    looks = [spread(s, of, directions=np.linspace(1.2, last, LONG)[s]) for s in range(LONG) for of in (B, TANH)]
    made = looked(*LOOKED, *looks, *(spread(s, of) for s in range(LONG) for of in (A, C)), steps=LONG)
    assert bool(found(RANK, made)) is is_told
    falls = looked(
        *LOOKED, *looks, *(spread(s, of) for s in range(LONG) for of in (A, C)), steps=LONG, loss=[2.0] * 5 + [1.0] * 35
    )
    assert found(RANK, falls) == []


def test_few_directions_are_right_for_few_inputs_in_a_narrow_path_and_after_learning() -> None:
    looks = [spread(s, of, directions=1.1) for s in range(LONG) for of in (B, TANH)] + [spread(s, C) for s in range(LONG)]
    assert found(RANK, looked(*LOOKED, *looks, steps=LONG))
    assert found(RANK, looked(*(spread(s, -1, directions=3.9) for s in range(LONG)), *looks, steps=LONG)) == []
    narrow = tuple(tensor(2, "b.weight", shape=(4, UNITS)) if t.id == 2 else t for t in NET)
    assert found(RANK, looked(*LOOKED, *looks, tensors=narrow, steps=LONG)) == []
    whole = [*looks, *(spread(s, of, directions=1.1) for s in range(LONG) for of in (A, RELU))]
    assert found(RANK, looked(*LOOKED, *whole, steps=LONG))
    assert found(RANK, looked(*LOOKED, *whole, tensors=narrow, steps=LONG)) == []  # behind where it begins
    later = [spread(s, of, directions=9.0 if s < 4 else 1.1) for s in range(9) for of in (B, TANH, C)]
    assert found(RANK, looked(*INPUTS, *later))
    for outputs, is_told in ((rank_collapse.NEEDS_ONE, False), (rank_collapse.NEEDS_ONE + 1, True)):
        few = tuple(tensor(9, "c/out", order=4, shape=(BATCH, outputs)) if t.id == C else t for t in NET)
        assert bool(found(RANK, looked(*INPUTS, *later, tensors=few))) is is_told
    assert found(RANK, looked(*INPUTS, *later, loss=[1.0 / (1 + i) for i in range(12)])) == []


def test_what_is_beyond_one_direction_has_to_become_something_to_be_on_its_way() -> None:
    """0.02 beyond one direction has grown fivefold, and is still nothing."""
    looks = [spread(s, of, directions=np.linspace(1.02, 1.1, LONG)[s]) for s in range(LONG) for of in (B, TANH)]
    assert found(RANK, looked(*LOOKED, *looks, *(spread(s, of) for s in range(LONG) for of in (A, C)), steps=LONG))


def test_what_a_frozen_backbone_gives_are_data() -> None:
    looks = [spread(s, of, directions=1.1) for s in range(LONG) for of in (B, TANH)] + [spread(s, C) for s in range(LONG)]
    frozen = tuple(replace(t, requires_grad=t.name.startswith("c")) for t in NET)
    assert found(RANK, looked(*LOOKED, *looks, tensors=frozen, steps=LONG)) == []


@pytest.mark.parametrize(("times", "is_told"), [(1.0, True), (3.0, False)])
def test_a_direction_that_grows_takes_nothing_from_the_others(times: float, is_told: bool) -> None:
    """From nine directions to 1.4; beside the main one lie 2 of 7 parts of the variance, which was 8 of 9 of it."""
    grown = {"sum_sq": 320.0 * times, "sample_sq": 160.0 * times}
    later = [
        spread(s, of, directions=9.0) if s < 4 else spread(s, of, directions=1.4, **grown)
        for s in range(9)
        for of in (B, TANH, C)
    ]
    assert bool(found(RANK, looked(*INPUTS, *later))) is is_told


def _alike(steps: int, *shares: float, is_stalled: bool = True, graph: Any = ()) -> Block:
    """What positions of a, its activation, b and its activation differ by; LayerNorm-like outputs of mean square 1."""
    of = (A, RELU, B, TANH)[: len(shares)]
    looks = [
        spread(s, one, positions=8, position_sq=320.0 * share)
        for s in range(steps)
        for one, share in zip(of, shares, strict=True)
    ]
    loss = 1.0 if is_stalled else [1.0 / (1 + s) for s in range(steps)]
    every = (spread(s, one) for s in range(steps) for one in (-1, C))
    return block(steps, None, NET, spread=[*looks, *every], steps=step_rows(steps, loss=loss), graph=graph)


def _attended(*pooled: bool, residual: bool = False) -> list[dict[str, Any]]:
    """The graph of attentions after one another, each with a mean behind it or not."""
    made = Drawing()
    data = last = made.linear("a", None, 8, 8, 8)
    for is_pooled in pooled:
        last = made.op("ScaledDotProductFlashAttentionForCpu", [last, last, last], (4, 2, 5, 8))
        last = made.op("Mean", [last], (4, 2, 8), dim=2) if is_pooled else last
    made.op("MseLoss", [made.op("Add", [data, last], (4, 2, 5, 8)) if residual else last, None], ())
    return graph_rows(made.done())


SEVERAL, DEEP, PLATEAU = rank_collapse.SEVERAL, rank_collapse.DEEP, rank_collapse.PLATEAU


@pytest.mark.parametrize(("share", "is_told"), [(0.9e-3, True), (1.1e-3, False)])
def test_positions_that_several_attentions_make_alike_are_told_at_the_second_look(share: float, is_told: bool) -> None:
    assert rank_collapse.ALIKE == 1e-3
    told = found(RANK, _alike(4, 0.3, 0.05, share, graph=_attended(*[False] * SEVERAL)))
    assert [(f.place, f.told_step) for f in told] == ([("b", 1)] if is_told else [])


@pytest.mark.parametrize(("first", "is_told"), [(0.051, True), (0.049, False)])
def test_positions_that_differed_little_from_the_first_are_no_loss(first: float, is_told: bool) -> None:
    assert rank_collapse.UNLIKE == 0.05
    assert bool(found(RANK, _alike(4, first, 0.01, 0.9e-3, graph=_attended(*[False] * SEVERAL)))) is is_told


@pytest.mark.parametrize(
    ("shares", "graph"),
    [
        ((0.3, 0.05, 1e-9), _attended(*[False] * (SEVERAL - 1))),  # one attention learns its way out
        ((0.3, 0.3, 1e-9), _attended(*[False] * SEVERAL)),  # lost at one place only
        ((0.3, 0.05, 1e-9), _attended(*[False] * (SEVERAL - 1), True)),  # a mean behind them: nobody asks
        ((0.3, 0.05, 1e-9), _attended(*[False] * SEVERAL, residual=True)),
        ((0.3, 0.05, 1e-9), ()),
    ],
)
def test_other_positions_that_are_alike_are_told_after_a_plateau_without_a_way_out(shares: Any, graph: Any) -> None:
    told = found(RANK, _alike(PLATEAU + 1, *shares, graph=graph))
    assert [(f.place, f.told_step) for f in told] == [("b", PLATEAU - 1)]
    assert found(RANK, _alike(PLATEAU - 1, *shares, graph=graph)) == []
    assert found(RANK, _alike(PLATEAU + 1, *shares, is_stalled=False, graph=graph)) == []


def test_a_deep_stack_with_a_mean_behind_it_is_told_sooner() -> None:
    deep, less = _attended(*[False] * (DEEP - 1), True), _attended(*[False] * (DEEP - 2), True)
    told = found(RANK, _alike(LONG, 0.3, 0.05, 1e-9, graph=deep))
    assert [(f.place, f.told_step) for f in told] == [("b", rank_collapse.LONG - 1)]
    assert found(RANK, _alike(LONG, 0.3, 0.05, 1e-9, graph=less)) == []
    assert found(RANK, _alike(LONG, 0.3, 0.05, 1e-9, is_stalled=False, graph=deep)) == []


def test_positions_that_begin_to_differ_are_on_their_way() -> None:
    more = {"positions": 8}
    looks = [spread(s, A, position_sq=100.0, **more) for s in range(PLATEAU + 9)]
    looks += [spread(s, B, position_sq=320e-9 * 1.02**s, **more) for s in range(PLATEAU + 9)]
    every = (spread(s, one) for s in range(PLATEAU + 9) for one in (-1, C))
    assert found(RANK, looked(*looks, *every, steps=PLATEAU + 9)) == []


def grows(*logits: float) -> list[dict[str, Any]]:
    return [spread(step, A, logit=logit) for step, logit in enumerate(logits)]


@pytest.mark.parametrize(
    ("logits", "is_told"),
    [
        ((2, 10, 30, 51), True),
        ((2, 10, 30, 50), False),
        ((20, 30, 60, 90), False),
        ((2, 80, 70, 60), False),
        ((51, 52, 53, 54), False),
    ],
)
def test_logits_are_told_where_they_are_large_and_have_grown_and_grow(logits: tuple[float, ...], is_told: bool) -> None:
    assert attention_logit_growth.LARGE == 50
    told = found(LOGITS, looked(*grows(*logits)))
    assert [(f.place, f.told_step) for f in told] == ([("a", 3)] if is_told else [])


def test_large_logits_may_help_and_larger_ones_never_do() -> None:
    falls = [1.0 / (1 + i) for i in range(12)]
    assert found(LOGITS, looked(*grows(2, 10, 30, 40, 60, 80, 100), loss=falls)) == []
    assert found(LOGITS, looked(*grows(2, 10, 30, 40, 60, 80, 101), loss=falls))
    assert outcome(LOGITS, looked(spread(0, A))) is Outcome.NOT_APPLICABLE


# ---- how it is cut ----


CUT: dict[str, Callable[[], Block]] = {
    "dead": lambda: of_units([units(step, RELU, fired(30)) for step in range(8)]),
    "sudden": lambda: block(
        25,
        {"gradient.zero_fraction": {"a.bias": [0.0] * 15 + [0.9] * 10}},
        NET,
        units=[units(step, RELU, fired(2)) for step in range(4)],
        steps=step_rows(25, loss=[1.0] * 15 + [5.0] * 10),
    ),
    "asleep": lambda: looked(*(spread(step, A, bend="gelu", flat=0.9, flat_units=0.9, asleep_units=0.9) for step in range(8))),
    "saturated": lambda: looked(*(bent(step, 0.1 if step < 5 else 0.99) for step in range(12))),
    "symmetric": lambda: of_units([alike(step) for step in range(5)], MOVES),
    "waiting": lambda: of_units(
        [],
        {
            "parameter.abs_max": {"a.weight": 0.0, "b.weight": 0.0},
            "gradient.zero_fraction": {"a.weight": 1.0, "b.weight": 1.0},
        },
    ),
    "collapsed": lambda: looked(*INPUTS, *(spread(s, C, 0.5 if s < 3 else SAME / 2) for s in range(6))),
    "always": lambda: looked(*INPUTS, *(spread(s, C, 0.0) for s in range(6))),
    "rank": lambda: looked(*INPUTS, *(spread(s, of, directions=9 if s < 4 else 1.1) for s in range(9) for of in (B, TANH, C))),
    "logits": lambda: looked(*grows(2, 10, 30, 51, 60)),
}
OWN = (DEAD, SATURATED, SYMMETRIC, COLLAPSED, RANK, LOGITS)


@pytest.mark.parametrize("name", CUT)
def test_how_the_looks_are_cut_changes_no_finding(name: str) -> None:
    made = CUT[name]()
    whole = {one.id: said(asked(one, made)) for one in OWN}
    assert any(text != "()" for text in whole.values())
    for cuts in ([*range(25)], [3], [1, 5, 16], [4, 17]):
        assert {one.id: said(asked(one, made, *cuts)) for one in OWN} == whole


# ---- trainings ----


def _digits(model: nn.Module, lr: float = 1e-3) -> Training:
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    return Training(model, [optimizer], lambda b: F.cross_entropy(model(b[0]), b[1]), drawn(*data("digits")))


class Bent(nn.Module):
    """Two layers and a head, the function between them functional."""

    def __init__(self, bend: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.head, self.bend = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10), bend

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.bend(self.second(self.bend(self.first(x)))))


def _same_for_all() -> nn.Module:
    model = sgd_mlp().model
    for layer in (model[0], model[2], model[4]):
        nn.init.constant_(layer.weight, 0.05)
        nn.init.zeros_(layer.bias)
    return model


def _with_bias(value: float) -> Bent:
    model = Bent(torch.relu)
    nn.init.constant_(model.second.bias, value)
    return model


def _with_weights(times: float) -> Bent:
    model = Bent(torch.tanh)
    model.second.weight.data *= times
    return model


def _pooled(dim: int | None) -> nn.Module:
    class Pooled(Bent):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.relu(self.first(x))
            return self.head(torch.relu(self.second(h if dim is None else h.mean(dim, keepdim=True).expand_as(h))))

    return Pooled(torch.relu)


@pytest.mark.parametrize(
    ("which", "ill", "healthy", "place"),
    [
        (DEAD, lambda: _with_bias(-6.0), lambda: _with_bias(0.0), "second"),
        (SATURATED, lambda: _with_weights(20.0), lambda: _with_weights(1.0), "second"),
        (SYMMETRIC, _same_for_all, lambda: sgd_mlp().model, "0"),
        (COLLAPSED, lambda: _pooled(0), lambda: _pooled(None), "second"),
    ],
    ids=["dead", "saturated", "symmetric", "collapsed"],
)
def test_a_training_with_the_illness_and_its_twin(
    which: Any, ill: Callable[[], nn.Module], healthy: Callable[[], nn.Module], place: str, tmp_path: Path
) -> None:
    told = weighbridge.diagnose(train(seeded(lambda: _digits(ill())), tmp_path, 12, name="ill"), [which])
    assert place in [f.place for f in told], told
    assert min(f.told_step for f in told) <= 2
    assert not weighbridge.diagnose(train(seeded(lambda: _digits(healthy())), tmp_path, 12, name="healthy"), [which]).findings
