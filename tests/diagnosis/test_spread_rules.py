"""Rules that read how outputs differ: made-up looks that must fire, stay clear, or sit on the limit. Oracle: the numbers put in
by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.diagnosis.graphs import Drawing
from tests.diagnosis.graphs import rows as graph_rows
from tests.diagnosis.looks import (
    ALIKE,
    BATCH,
    COLLAPSED,
    DEAD,
    INPUTS,
    LOGITS,
    LONG,
    MOVES,
    NET,
    RANK,
    RELU,
    SAME,
    SATURATED,
    SYMMETRIC,
    TANH,
    UNITS,
    A,
    B,
    C,
    alike,
    bent,
    fired,
    looked,
    of_units,
    spread,
    units,
)
from tests.diagnosis.made import asked, block, found, outcome, said, step_rows, tensor
from weighbridge.diagnosis import Outcome
from weighbridge.diagnosis.rules import attention_logit_growth, collapsed_output, rank_collapse
from weighbridge.diagnosis.stream import Block

# ---- collapsed-output, rank-collapse, attention-logit-growth ----


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
