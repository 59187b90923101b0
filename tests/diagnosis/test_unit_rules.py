"""Rules that read how units fire: made-up looks that must fire, stay clear, or sit on the limit; one ill training of each kind
and its twin. Oracle: the numbers put in by hand; of trainings what the test itself did to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weighbridge
from tests.diagnosis.looks import (
    BATCH,
    COLLAPSED,
    DEAD,
    FALLS,
    FLAT,
    LONG,
    MOVES,
    NET,
    RELU,
    SATURATED,
    SYMMETRIC,
    UNITS,
    A,
    B,
    alike,
    bent,
    fired,
    looked,
    of_units,
    spread,
    units,
)
from tests.diagnosis.made import NAN, block, found, outcome, step_rows, tensor
from tests.diagnosis.trainings import Training, data, seeded, sgd_mlp, train
from tests.diagnosis.trainings import batches as drawn
from weighbridge.diagnosis import Outcome
from weighbridge.diagnosis.rules import dead_units

# ---- dead-units ----


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
