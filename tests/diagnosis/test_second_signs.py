"""What keeps rules silent on health: second signs, and what a graph says of sizes. Oracle: numbers put in by hand, on both
sides of each guard."""

from __future__ import annotations

import dataclasses
import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import weighbridge
from tests.diagnosis.deep import GRADIENT, SCALE, begun_with, layers, with_gradients
from tests.diagnosis.drawn import places
from tests.diagnosis.graphs import Drawing, rows
from tests.diagnosis.looks import COLLAPSED, DEAD, NET, RANK, RELU, TANH, UNITS, B, C, fired, looked, spread, units
from tests.diagnosis.made import block, found, step_rows
from tests.diagnosis.paces import WEIGHTS, with_weights
from tests.diagnosis.test_graph_fit_rules import LOSS
from tests.diagnosis.test_rules import NEW, NOT_ZEROED, _sums
from weighbridge.diagnosis import Outcome
from weighbridge.diagnosis.progress import LAST, Progress
from weighbridge.diagnosis.registry import rule
from weighbridge.diagnosis.rules import collapsed_output
from weighbridge.diagnosis.rules import exploding_gradient as xg
from weighbridge.diagnosis.rules.high_initial_loss import HighInitialLoss
from weighbridge.diagnosis.rules.missing_activation import MissingActivation
from weighbridge.diagnosis.sizes import ends, normed
from weighbridge.diagnosis.stream import Block
from weighbridge.firstpass import FirstPass, Start

SPIKE = rule("gradient-spike")

# ---- gradients-not-zeroed ----


def test_a_penalty_that_knows_only_the_weights_is_no_gradient_left_over() -> None:
    """Behind a softmax the sum over a bias's gradient is 0; an L1 penalty adds the same at each step. S = S before + 0."""
    constant = np.full(6, 2e-3)
    assert found(NOT_ZEROED, _sums(constant, np.zeros(6), 0.05)) == []
    assert found(NOT_ZEROED, _sums(constant, np.full(6, 1e-9), 0.05)) == []  # 0 but for rounding
    assert found(NOT_ZEROED, _sums(NEW.cumsum(), NEW))


# ---- what has been learnt ----


@pytest.mark.parametrize(("last", "has_stalled"), [(0.02, False), (0.24, False), (0.26, True)])
def test_a_loss_of_nearly_nothing_that_doubles_has_not_stalled(last: float, has_stalled: bool) -> None:
    progress = Progress()
    for row in step_rows(20 + LAST, loss=[1.0] * 3 + [0.01] * 17 + [last] * LAST):
        progress.read(row)
    assert progress.is_stalled is has_stalled


@pytest.mark.parametrize(("left", "is_told"), [(0.49, False), (0.51, True)])
def test_late_gradients_of_what_has_learnt_explode_for_nobody(left: float, is_told: bool) -> None:
    steps = xg.EARLY + 10
    late = [np.where(np.arange(steps) < xg.EARLY, 1.0, size) for size in np.geomspace(1.01 * xg.AT_ONCE, 1.0, 11)]
    losses = [1.0] * 5 + [left] * (steps - 5)
    assert bool(found(GRADIENT, with_gradients(late, steps=steps, losses=losses))) is is_told


@pytest.mark.parametrize(("times", "is_told"), [(0.99, False), (1.01, True)])
def test_each_batch_norm_is_granted_what_it_passes_on(times: float, is_told: bool) -> None:
    """Four of them between five layers: Yang et al. 2019 allow root(pi / (pi - 1)) each."""
    tensors = [dataclasses.replace(t, module="BatchNorm1d") if t.module == "LayerNorm" else t for t in layers("LNALNALNALNAL")]
    limit = xg.LIMIT * np.sqrt(np.pi / (np.pi - 1)) ** 4
    assert pytest.approx(np.sqrt(np.pi / (np.pi - 1)), abs=0.002) == xg.BATCH_NORM
    made = with_gradients(np.geomspace(times * limit, 1.0, 13), tensors=tuple(tensors))
    assert bool(found(GRADIENT, made)) is is_told


def test_weights_that_become_large_while_the_loss_falls_have_targets_to_reach() -> None:
    rms = 0.5 * (1 + np.arange(90))
    assert found(WEIGHTS, with_weights(rms, loss=np.geomspace(1.0, 0.01, 90))) == []
    assert found(WEIGHTS, with_weights(rms))


@pytest.mark.parametrize(("promise", "is_told"), [(0.011, False), (0.012, True), (-0.01, True), (np.nan, True)])
def test_weights_whose_steps_promise_little_of_the_loss_have_far_to_go(promise: float, is_told: bool) -> None:
    """Targets of a million in their own units. 64 times is passed at step 85; 90 steps of 0.0112 promise all of it."""
    made = with_weights(0.5 * (1 + 0.75 * np.arange(90)))
    made.arrays["update.dot_gradient_update"][:] = np.nan
    for name in ("a.weight", "b.weight"):
        column = next(c for c in range(len(made.tensors)) if made.tensors.name(c) == name)
        made.arrays["update.dot_gradient_update"][:, column] = -promise / 2
    assert bool(found(WEIGHTS, made)) is is_told


@pytest.mark.parametrize("kind", ["Rprop", "LBFGS"])
def test_an_optimizer_that_lengthens_its_steps_doubles_weights(kind: str) -> None:
    rms = 0.5 * 1.2 ** np.arange(20)
    made = with_weights(rms, loss=np.geomspace(1.0, 0.1, 20))
    assert found(WEIGHTS, made)
    lengthened = tuple(dataclasses.replace(group, kind=kind) for group in made.groups)
    assert found(WEIGHTS, dataclasses.replace(made, groups=lengthened)) == []


@pytest.mark.parametrize(
    ("kind", "share", "loss", "looks", "is_told"),
    [
        ("squared error", 0.001, 0.1, 3, True),  # with one answer for all it cannot be below the targets' variance of 1
        ("squared error", 0.001, 0.6, 2, False),
        ("squared error", 0.001, 0.95, 2, False),
        ("squared error", 0.001, 1.0, 2, True),
        ("squared error", 0.001, 0.6, collapsed_output.PLATEAU - 1, False),
        ("squared error", 0.001, 0.6, collapsed_output.PLATEAU, True),
        ("cross-entropy", 0.001, 0.5, 2, False),
        ("cross-entropy", 0.001, 0.95, 2, False),  # it may begin where the guess is
        ("cross-entropy", 1e-13, 0.95, 2, True),  # nothing passes
        ("cross-entropy", 1e-13, 0.95, 1, False),
        ("cross-entropy", 0.001, 0.5, collapsed_output.LONG + 1, True),
        ("cross-entropy", 0.001, 0.5, collapsed_output.LONG, False),
        ("cross-entropy", 0.001, 1.0, 2, True),
    ],
)
def test_how_often_classes_come_and_the_mean_are_learnt_first(
    kind: str, share: float, loss: float, looks: int, is_told: bool
) -> None:
    """The output has varied and is all but the same now, while the loss has fallen to this."""
    seen = [spread(step, C) for step in range(3)] + [spread(step, C, share) for step in range(3, 3 + looks)]
    inputs = [spread(step, -1) for step in range(3 + looks)]
    made = looked(*inputs, *seen, steps=3 + looks, loss=[1.0] * 3 + [loss] * looks)
    graph = rows(Drawing().done([Start(kind, 0, "c", 1.0, 1.0, 0.1, 32)]))
    assert bool(found(COLLAPSED, dataclasses.replace(made, tables={**made.tables, "graph": tuple(graph)}))) is is_told


@pytest.mark.parametrize(
    ("features", "loss", "looks", "is_told"),
    [
        (8, 0.7, 2, True),
        (7, 0.7, 2, False),
        (1, 0.7, collapsed_output.PLATEAU - 1, False),
        (1, 0.7, collapsed_output.PLATEAU, True),
        (1, 1.0, 2, True),
    ],
)
def test_few_outputs_may_go_through_0_on_their_way(features: int, loss: float, looks: int, is_told: bool) -> None:
    """A slope that changes its sign is 0 in between; where it stays so, or the loss does not fall, it has collapsed."""
    of = [(step, 0.5 if step < 3 else 0.001) for step in range(3 + looks)]
    seen = [one for step, share in of for one in (spread(step, -1), spread(step, C, share, features=features))]
    made = looked(*seen, steps=3 + looks, loss=[1.0] * 3 + [loss] * looks)
    assert bool(found(COLLAPSED, made)) is is_told


@pytest.mark.parametrize(("features", "other", "is_told"), [(7, 0.5, False), (8, 0.5, True), (7, 1.0, True)])
def test_a_judge_that_can_tell_nothing_apart_is_where_a_gan_ends(features: int, other: float, is_told: bool) -> None:
    """At each step a second optimizer steps, with this loss. One loss of both is no rivalry."""
    seen = [spread(step, C, 0.5 if step < 3 else 0.001, features=features) for step in range(6)]
    made = looked(*(spread(step, -1) for step in range(6)), *seen, steps=6)
    both = [row for one in made.rows("steps") for row in (one, {**one, "optimizer": 1, "loss": other})]
    assert bool(found(COLLAPSED, dataclasses.replace(made, tables={**made.tables, "steps": tuple(both)}))) is is_told


def test_a_model_with_frozen_weights_was_trained_before() -> None:
    made = Drawing()
    made.linear("head", None, 32, 8, 10)
    first = made.done([LOSS])
    assert places(HighInitialLoss, first) == [("head", "warning")]
    frozen = tuple(dataclasses.replace(parameter, is_trainable=False) for parameter in first.parameters[:1])
    assert places(HighInitialLoss, dataclasses.replace(first, parameters=frozen)) == [("head", "note")]


@pytest.mark.parametrize(
    ("loss", "norm", "is_told"),
    [(0.1, 5.0, False), (0.24, 5.0, False), (0.26, 5.0, True), (0.025, 5.0, True), (0.1, 0.02, False)],
)
def test_a_hard_batch_near_the_end_has_a_large_gradient_and_does_no_harm(loss: float, norm: float, is_told: bool) -> None:
    """The loss has come down from 1 to 0.01 and the gradient with it; of 0.99 a quarter is 0.2475."""
    losses = [*[1.0] * 3, *np.geomspace(1.0, 0.01, 17), *[0.01] * 10, loss, 0.01]
    norms = [*np.geomspace(1.0, 0.01, 20), *[0.01] * 10, norm, 0.01]
    made = block(32, {"gradient.l2_norm": {"a.weight": norms}}, steps=step_rows(32, loss=losses))
    assert bool(found(SPIKE, made)) is is_told


@pytest.mark.parametrize(
    ("has_bias", "bend", "severities"), [(False, "", ["note"]), (True, "", ["warning"] * 2), (False, "Relu", ["warning"])]
)
def test_a_product_of_matrices_is_meant(has_bias: bool, bend: str, severities: list[str]) -> None:
    made = Drawing()
    x = made.linear("0", made.linear("1", None, 32, 8, 8, has_bias), 32, 8, 8, has_bias)
    x = made.op(bend, [x], (32, 8)) if bend else x
    made.linear("2", x, 32, 8, 8, has_bias)
    assert [severity for _, severity in places(MissingActivation, made.done())] == severities


# ---- sizes in a graph ----


def _two_heads() -> FirstPass:
    """A trunk of two layers, and two heads beside each other: 6 and 8 of the modules of `layers`."""
    made = Drawing()
    h = made.op("Relu", [made.linear("0", None, 32, 16, 16)], (32, 16), "1")
    h = made.op("Relu", [made.linear("2", h, 32, 16, 16)], (32, 16), "3")
    one, two = made.linear("4", h, 32, 16, 16), made.linear("6", h, 32, 16, 16)
    made.op("Add", [made.op("Mean", [one], ()), made.op("Mean", [two], ())], ())
    return made.done()


def test_heads_beside_each_other_all_end_the_graph() -> None:
    assert ends([_two_heads()]) == {"4", "6"}


def _with(made: Block, first: FirstPass) -> Block:
    return dataclasses.replace(made, tables={**made.tables, "graph": tuple(rows(first))})


def test_a_gradient_is_measured_by_the_head_that_has_most() -> None:
    """A value's loss in its own units, and a policy's: the second head has a thousandth of the gradient of the first."""
    made = with_gradients([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1e-4], tensors=layers("LALALAL"))
    assert found(GRADIENT, made)
    assert found(GRADIENT, _with(made, _two_heads())) == []


def test_a_head_that_starts_small_may_run_before_another() -> None:
    made = begun_with({4: 0.05}, {}, dict.fromkeys(range(4), 0.05), "LALALAL")
    assert [f.place for f in found(SCALE, made)] == ["4"]
    assert found(SCALE, _with(made, _two_heads())) == []


def _normed_by_hand(divide: str, size: str | None, is_own: bool = True) -> FirstPass:
    """(x - mean) / std, or x times rsqrt of its mean square: a norm without a module."""
    made = Drawing()
    x = made.linear("4", None, 32, 16, 16)
    given = x if is_own else made.linear("other", None, 32, 16, 16)
    measure = made.op("Mean", [given], (32, 1)) if size is None else made.op(size, [given], (32, 1))
    measure = made.op("Add", [measure], (32, 1))
    h = made.op(divide, [made.op("Sub", [x, made.op("Mean", [x], (32, 1))], (32, 16)), measure], (32, 16))
    made.linear("6", h, 32, 16, 16)
    return made.done()


@pytest.mark.parametrize(
    ("first", "is_free"),
    [
        (_normed_by_hand("Div", "Std"), True),
        (_normed_by_hand("Mul", "Rsqrt"), True),
        (_normed_by_hand("Add", "Std"), False),
        (_normed_by_hand("Div", None), False),
        (_normed_by_hand("Div", "Std", is_own=False), False),
    ],
    ids=["divided", "times-the-inverse", "added", "by-a-mean", "by-the-size-of-another"],
)
def test_weights_whose_output_is_divided_by_its_own_size_are_free(first: FirstPass, is_free: bool) -> None:
    assert ("4.weight" in normed([first])) is is_free
    made = begun_with({4: 20.0}, {4: 20.0}, {})
    assert [f.place for f in found(SCALE, made)] == ["4"]
    assert bool(found(SCALE, _with(made, first))) is not is_free


def test_a_norm_layer_in_the_graph_frees_what_feeds_it() -> None:
    made = Drawing()
    norm = made.op("NativeLayerNorm", [made.linear("a", None, 32, 16, 16)], (32, 16), "n")
    made.linear("b", norm, 32, 16, 16)
    assert normed([made.done()]) == {"a.weight"}


def test_a_container_made_for_watch_alone_fails_no_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Watching keeps no model alive: the list is gone when the graph of the first loss is taken down."""
    monkeypatch.chdir(tmp_path)
    one, two = nn.Linear(4, 4), nn.Linear(4, 1)
    optimizer = torch.optim.SGD([*one.parameters(), *two.parameters()], 0.1)
    with weighbridge.watch(nn.ModuleList([one, two])) as run:
        gc.collect()
        for _ in range(4):
            optimizer.zero_grad()
            two(one(torch.ones(8, 4))).square().mean().backward()
            optimizer.step()
    assert [answer for answer in weighbridge.diagnose(run.path).answers if answer.outcome is Outcome.FAILED] == []


def test_a_hinge_that_all_samples_meet_kills_no_unit() -> None:
    """The loss is 0 and sends no gradient: not to the last layer either."""
    looks = [units(step, RELU, fired(2)) for step in (0, 1, 2, 3)]
    zeros = [2 / UNITS] * 15 + [1.0] * 10
    rows_of_steps = step_rows(25, loss=[1.0] * 15 + [5.0] * 10)
    for last, places_told in ((0.0, ["a"]), (1.0, [])):
        fed = {"c.weight": [0.0] * 15 + [last] * 10, "c.bias": [0.0] * 15 + [last] * 10}
        arrays = {"gradient.zero_fraction": {"a.bias": zeros, **fed}}
        assert [f.place for f in found(DEAD, block(25, arrays, NET, units=looks, steps=rows_of_steps))] == places_told


@pytest.mark.parametrize(("variance", "is_told"), [(1.0, True), (10.0, False)])
def test_what_is_learnt_first_grows_along_one_direction_and_takes_nothing_away(variance: float, is_told: bool) -> None:
    """From nine directions to 1.1: beside the main one 8/9 of the variance were, and 1/11 is left of ten times it."""
    looks = [
        spread(step, of, directions=9.0) if step < 4 else spread(step, of, variance / 2, directions=1.1)
        for step in range(9)
        for of in (B, TANH, C)
    ]
    made = looked(*(spread(step, -1) for step in range(9)), *looks, steps=9)
    assert bool(found(RANK, made)) is is_told


def test_a_gradient_in_front_of_a_division_by_its_own_size_counts_with_that_size() -> None:
    """Module 4 gives numbers of 0.01 that are divided by their size: its gradient is a hundred times as large by right."""
    made = with_gradients(
        [1.0, 1.0, 1.0, 1.0, 100.0, 1.0, 1.0], tensors=layers("LALALAL"), **{"activation.rms": {"4/out": 0.01, "*": 1.0}}
    )
    assert found(GRADIENT, made)
    assert found(GRADIENT, _with(made, _normed_by_hand("Div", "Std"))) == []
