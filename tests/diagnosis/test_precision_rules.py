"""Rules about numbers that are lost, left out or not finite, on made-up runs. Oracle: numbers put in by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.diagnosis.made import NAN, block, found, outcome, step_rows, tensor
from weighbridge.diagnosis import Outcome
from weighbridge.diagnosis.registry import rule
from weighbridge.diagnosis.rules import (
    lost_updates,
    scaler_starvation,
)

# ---- lost-updates ----

LOST = rule("lost-updates")


HALF = (tensor(0, "a.weight", dtype="bfloat16"), tensor(1, "a.bias", dtype="bfloat16", count=2), tensor(2, "b.weight"))


def _lost(shares: Any, norm: Any = 1.0, **more: Any) -> Any:
    return block(len(shares), {"update.lost_fraction": {"*": shares}, "gradient.l2_norm": {"*": norm}}, tensors=HALF, **more)


@pytest.mark.parametrize(
    ("shares", "is_told"),
    [
        ([0.51] * lost_updates.FEW, True),
        ([0.51] * (lost_updates.FEW - 1), False),
        ([0.62, 0.6, 0.7], False),  # they differ by as much as they are above a half
        ([0.62, 0.61, 0.7], True),
        ([0.51, 0.6] * (lost_updates.PATIENCE // 2), True),  # at last
        ([0.51, 0.6] * (lost_updates.PATIENCE // 2 - 1), False),
        ([lost_updates.LIMIT] * 40, False),  # exactly on the limit
        (([0.9] * 2 + [0.1]) * 20, False),
    ],
)
def test_lost_updates_are_told_after_so_many_steps_above_half(shares: list[float], is_told: bool) -> None:
    told = found(LOST, _lost(shares))
    assert bool(told) is is_told
    assert [f.place for f in told] == ["a"] * is_told


@pytest.mark.parametrize(
    ("share", "momentum", "settings", "told"),
    [
        (0.8, 0.0, {}, 2),
        (0.8, 0.9, {"betas": [0.9, 0.999]}, 2),  # Adam's first steps are its longest
        (0.8, 0.4, {}, 2),  # 0.4^3 = 0.064
        (0.8, 0.5, {}, 3),  # 0.5^3 = 0.125
        (0.8, 0.8, {}, 10),  # 0.8^10 = 0.107, 0.8^11 = 0.086
        (0.8, 0.99, {}, 19),
        (0.95, 0.99, {}, 4),
    ],
)
def test_momentum_must_have_built_up(share: float, momentum: float, settings: dict[str, Any], told: int) -> None:
    rows = step_rows(40, momentum=momentum)
    assert [f.told_step for f in found(LOST, _lost([share] * 40, steps=rows, settings=settings))] == [told]


@pytest.mark.parametrize(("share", "last", "told"), [(0.8, 0.51, [32]), (0.8, 0.49, []), (0.91, 0.49, [34])])
def test_once_the_loss_has_halved_nearly_all_must_be_lost(share: float, last: float, told: list[int]) -> None:
    loss = [1.0] * 10 + [last] * 70
    shares = [0.2] * 30 + [share] * 50
    assert [f.told_step for f in found(LOST, _lost(shares, steps=step_rows(80, loss=loss)))] == told


def test_updates_lost_while_the_rate_rises_or_where_little_is_left_to_do_are_clear() -> None:
    rising = [0.001 * (step + 1) for step in range(40)]
    assert found(LOST, _lost([0.9] * 40, steps=step_rows(40, lr=rising))) == []
    shrunk = np.array([1.0] * 2 + [0.09] * 60)
    assert found(LOST, _lost([0.9] * 62, norm=shrunk)) == []


def test_float32_is_not_applicable() -> None:
    assert outcome(LOST, block(30, {"update.lost_fraction": {"*": 1.0}})) is Outcome.NOT_APPLICABLE


# ---- scaler-starvation ----

STARVED = rule("scaler-starvation")


def _skips(skipped: list[bool], scale: Any = None) -> Any:
    """A scale that falls and does not come back; else the given ones."""
    falling = [2.0 ** (60 - sum(skipped[:step])) for step in range(len(skipped))]
    return block(len(skipped), steps=step_rows(len(skipped), skipped=skipped, loss_scale=scale or falling))


@pytest.mark.parametrize(
    ("skipped", "is_told"),
    [
        ([False] + [True] * (scaler_starvation.LIMIT + 1), True),
        ([False] * 200 + [True] + [False] * 9 + [True] * 5, False),  # six of 200: one in 20 would be ten
        ([False] + [True] * 5, False),  # chance gives five of six once in 600,000 times,
        ([False] + [True] * 6, True),  # six of seven once in 10 million
        ([True] * scaler_starvation.WARM_UP + [False] * 300, False),
        ([True] * (scaler_starvation.WARM_UP + 11), True),
        (([True] + [False] * 19) * 40, False),  # ten in each 200
        (([True] + [False] * 17) * 40, True),  # eleven or twelve
    ],
)
def test_steps_left_out_are_counted_after_the_warm_up_and_in_a_window(skipped: list[bool], is_told: bool) -> None:
    assert scaler_starvation.WINDOW == 200
    assert bool(found(STARVED, _skips(skipped))) is is_told


def _halved(skipped: list[bool], scale: float, interval: int) -> list[float]:
    """The scale at each step, by PyTorch's rule."""
    scales, taken = [], 0
    for is_skipped in skipped:
        scales.append(scale)
        taken = 0 if is_skipped else taken + 1
        scale = scale / 2 if is_skipped else 2 * scale if taken % interval == 0 else scale
    return scales


@pytest.mark.parametrize(
    ("skipped", "first", "interval", "told"),
    [
        ([False, True] * 20, 1024.0, 1, [7]),  # the first is a search; of eight steps three more: once in 2 million times
        ([False, False, True] * 20, 1024.0, 2, [14]),  # four of 15
        (([False] * 9 + [True]) * 8, 1024.0, 9, [59]),
        (([False] * 49 + [True]) * 20, 1024.0, 49, []),
        ([True] * 19, 65536.0, 2000, [18]),  # a scale of 1 after 16 halvings, then three that no scale can mend
        ([True] * 18 + [False], 65536.0, 2000, []),
        ([True] * 12 + [False] * 200, 65536.0, 2000, []),  # a search
        ([True] * 5, 2.0, 2000, [3]),
    ],
)
def test_a_scale_that_was_too_high_before_is_no_search(
    skipped: list[bool], first: float, interval: int, told: list[int]
) -> None:
    made = _skips(skipped, _halved(skipped, first, interval))
    assert [f.told_step for f in found(STARVED, made)] == told


# ---- nonfinite-origin ----

ORIGIN = rule("nonfinite-origin")


ACTIVATION, GRADIENT = 5, 6


def _call(step: int, tensor: int, place: int, quantity: int = ACTIVATION) -> dict[str, int]:
    return {"step": step, "tensor": tensor, "quantity": quantity, "calls": 1, "nonfinite_call": 0, "place": place}


def _bad(calls: Any = (), loss: float = 1.0, **counts: Any) -> Any:
    """Ten steps, the sixth of them bad."""
    arrays = {}
    for quantity in ("parameter", "gradient", "update"):
        by_name = {name: np.eye(10)[5] * 3 for name in counts.get(quantity, ())}
        arrays[f"{quantity}.nonfinite_count"] = {"*": 0.0, **by_name}
    losses = [1.0] * 5 + [loss] + [1.0] * 4
    return block(10, arrays, calls=calls, steps=step_rows(10, loss=losses))


@pytest.mark.parametrize(
    ("made", "place"),
    [
        (_bad([_call(5, 5, 1), _call(5, 4, 0), _call(5, 6, 2)], NAN), "a"),
        (_bad([_call(5, -1, 0), _call(5, 4, 1)], NAN), "input"),
        (_bad(loss=NAN, gradient=["a.bias", "b.bias"]), ""),
        (_bad(gradient=["a.weight", "a.bias"]), "act"),  # b's is finite: between a and b is act
        (_bad(gradient=["a.weight", "b.weight"]), "b"),
        (_bad([_call(5, 5, 0, GRADIENT)], gradient=["a.weight"]), "act"),  # what follows act has parameters: a functional
        (_bad(update=["a.bias"]), "a.bias"),
        (_bad([_call(5, 4, 0)], NAN, parameter=["b.weight"]), "b.weight"),
        (_bad([_call(5, -1, 0, GRADIENT), _call(5, 0, 1)], update=["a.bias"]), "a.bias"),
    ],
    ids=["forward", "batch", "loss", "backward", "backward, last", "backward, flagged", "update", "parameter", "unknown"],
)
def test_the_first_in_the_order_of_the_step_is_the_origin(made: Any, place: str) -> None:
    assert [(f.place, f.first_step) for f in found(ORIGIN, made)] == [(place, 5)]


def test_outputs_that_are_not_finite_and_do_no_harm_are_clear_and_never_the_origin_later() -> None:
    calls = [_call(step, 4, 0) for step in range(10)]
    assert found(ORIGIN, _bad(calls)) == []
    assert [f.place for f in found(ORIGIN, _bad([*calls, _call(5, 6, 1)], NAN))] == ["b"]


@pytest.mark.parametrize(("run", "told"), [(20, []), (21, [(2, 22)])])
def test_overflows_that_a_scaler_leaves_out_are_excused_so_many_times_in_a_row(run: int, told: list[tuple[int, int]]) -> None:
    skipped = [2 <= step < 2 + run for step in range(40)]
    counts = {"*": 0.0, "a.weight": [float(s) for s in skipped]}
    made = block(40, {"gradient.nonfinite_count": counts}, steps=step_rows(40, skipped=skipped, loss_scale=8.0))
    assert [(f.first_step, f.told_step) for f in found(ORIGIN, made)] == told
