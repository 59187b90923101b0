"""Made-up runs that must fire, stay clear, or sit exactly on the limit. Oracle: numbers put in by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.diagnosis.graphs import Drawing
from tests.diagnosis.graphs import rows as graph_rows
from tests.diagnosis.made import LAYERS, NAN, block, found, outcome, step_rows, tensor
from weighbridge.diagnosis import Outcome
from weighbridge.diagnosis.registry import rule
from weighbridge.diagnosis.rules import (
    gradient_not_applied,
    gradients_not_zeroed,
    lost_updates,
    parameter_in_no_optimizer,
    parameter_without_gradient,
    scaler_starvation,
    step_not_taken,
)

# ---- parameter-in-no-optimizer ----

IN_NONE = rule("parameter-in-no-optimizer")


def _left_out(length: int, gradient: float = 0.5, **more: Any) -> Any:
    return block(
        length, {"activation_gradient.rms": {"a/out": gradient, "b/out": gradient}}, held=["a.weight", "a.bias"], **more
    )


@pytest.mark.parametrize(
    ("steps", "places"), [(parameter_in_no_optimizer.WAIT, ["b"]), (parameter_in_no_optimizer.WAIT - 1, [])]
)
def test_a_layer_outside_is_told_after_so_many_steps(steps: int, places: list[str]) -> None:
    assert [f.place for f in found(IN_NONE, _left_out(steps))] == places


def test_a_layer_outside_that_gets_no_gradient_is_a_teacher_and_clear() -> None:
    assert found(IN_NONE, _left_out(30, gradient=0.0)) == []
    assert outcome(IN_NONE, _left_out(30, gradient=NAN)) is Outcome.NOT_ENOUGH_DATA


def test_a_frozen_layer_outside_is_clear() -> None:
    frozen = tuple(tensor(t.id, t.name, requires_grad=not t.name.startswith("b."), order=t.order) for t in LAYERS)
    assert found(IN_NONE, _left_out(30, tensors=frozen)) == []


def _graph(*of: str, called: bool = True, optional: bool = False, op: str = "Addmm") -> list[dict[str, Any]]:
    """The graph of a loss that depends on the weights and biases of these layers; b is in the model whether it does or not."""
    made = Drawing()
    for name in ("a", "b"):
        ids = [made.parameter(f"{name}.{part}", 2, is_called=called, is_optional=optional) for part in ("weight", "bias")]
        if name in of:
            made.op(op, ids, (2,))
        else:
            del made.nodes[-2:]
    return graph_rows(made.done())


@pytest.mark.parametrize(
    ("steps", "places"), [(parameter_in_no_optimizer.SOON, ["b"]), (parameter_in_no_optimizer.SOON - 1, [])]
)
def test_a_layer_outside_that_the_loss_depends_on_is_told_sooner(steps: int, places: list[str]) -> None:
    assert [f.place for f in found(IN_NONE, _left_out(steps, gradient=NAN, graph=_graph("a", "b")))] == places
    assert found(IN_NONE, _left_out(steps, gradient=NAN, graph=_graph("a"))) == []


# ---- parameter-without-gradient ----

WITHOUT = rule("parameter-without-gradient")


def _gradients(steps: int, of_b: Any, **more: Any) -> Any:
    counts = {
        "parameter.count": {"*": 8.0},
        "gradient.count": {"a.weight": 8.0, "a.bias": 2.0, "b.weight": of_b, "b.bias": of_b},
    }
    return block(steps, counts, **more)


@pytest.mark.parametrize(("more", "places"), [(0, ["b"]), (-1, [])])
def test_a_layer_without_a_gradient_is_told_after_so_many_steps(more: int, places: list[str]) -> None:
    assert [f.place for f in found(WITHOUT, _gradients(parameter_without_gradient.WAIT + more, NAN))] == places


@pytest.mark.parametrize(("more", "places"), [(0, ["b"]), (-1, [])])
def test_a_layer_that_no_first_loss_depends_on_is_told_sooner(more: int, places: list[str]) -> None:
    steps = parameter_without_gradient.SOON + more
    assert [f.place for f in found(WITHOUT, _gradients(steps, NAN, graph=_graph("a")))] == places
    assert [f.place for f in found(WITHOUT, _gradients(steps, NAN, graph=_graph("a", called=False)))] == places
    assert (
        found(WITHOUT, _gradients(steps, NAN, graph=_graph("a", called=False, optional=True))) == []
    )  # taken by turns, perhaps
    assert found(WITHOUT, _gradients(steps, NAN, graph=_graph("a", op="CompiledFunction"))) == []  # it may be in there
    assert found(WITHOUT, _gradients(steps, NAN, graph=[*_graph("a"), *_graph("b")])) == []
    assert found(WITHOUT, _gradients(steps, 8.0, graph=_graph("a"))) == []


def test_one_gradient_in_time_clears_it() -> None:
    numbers = [NAN] * 40
    numbers[parameter_without_gradient.WAIT - 1] = 8.0
    assert found(WITHOUT, _gradients(40, numbers)) == []


EXPERTS = (
    *(tensor(i, f"experts.{i}.weight") for i in range(3)),
    *(tensor(3 + i, f"experts.{i}/out", order=i) for i in range(3)),
    tensor(6, "head.weight"),
)


@pytest.mark.parametrize(
    ("sizes", "of_second", "severity"),
    [
        ((32.0, 32.0), 8.0, "warning"),  # layers of a stack: the last is never called
        ((32.0, 24.0), 8.0, "note"),  # each takes its share of the batch
        ((NAN, NAN), [8.0] * 7 + [NAN] + [8.0] * 12, "note"),  # another one was left out once
    ],
    ids=["stack", "shares", "left out"],
)
def test_an_expert_that_is_never_chosen_is_a_note_and_a_layer_that_is_never_called_is_not(
    sizes: tuple[float, float], of_second: Any, severity: str
) -> None:
    made = block(
        parameter_without_gradient.WAIT,
        {
            "parameter.count": {"*": 8.0},
            "gradient.count": {"experts.0.weight": 8.0, "experts.1.weight": of_second, "head.weight": 8.0},
            "activation.count": {"experts.0/out": sizes[0], "experts.1/out": sizes[1]},
        },
        EXPERTS,
    )
    assert [(f.place, f.severity) for f in found(WITHOUT, made)] == [("experts.2.weight", severity)]


def test_steps_at_which_no_gradient_at_all_is_weighed_say_nothing() -> None:
    assert outcome(WITHOUT, block(40, {"parameter.count": {"*": 8.0}})) is Outcome.NOT_ENOUGH_DATA


# ---- step-not-taken ----

NOT_TAKEN = rule("step-not-taken")
END = {"step": 0, "kind": "finished", "tensor": -1, "message": "", "detail": {}}


def _passes(number: int, *events: Any, steps: Any = ()) -> Any:
    return block(1, passes=[{"step": 0, "loss": 2.0}] * number, events=events, steps=steps)


@pytest.mark.parametrize(
    ("number", "ends", "is_told"), [(20, True, True), (19, True, False), (999, False, False), (1000, False, True)]
)
def test_passes_without_a_step_are_told_at_the_end_or_when_they_are_many(number: int, ends: bool, is_told: bool) -> None:
    assert (step_not_taken.LEAST, step_not_taken.MOST) == (20, 1000)
    assert bool(found(NOT_TAKEN, _passes(number, *([END] if ends else [])))) is is_told


def test_a_step_after_many_passes_clears_it() -> None:
    assert found(NOT_TAKEN, _passes(500, END, steps=step_rows(1))) == []


@pytest.mark.parametrize(
    ("steps", "accumulated", "left", "is_told"),
    [(30, 1, 20, True), (30, 1, 19, False), (8, 10, 40, True), (8, 10, 39, False), (200, 1, 50, True), (200, 1, 49, False)],
)
def test_steps_that_stop_are_told_at_the_end(steps: int, accumulated: int, left: int, is_told: bool) -> None:
    assert (step_not_taken.LEAST, step_not_taken.TIMES, step_not_taken.PART) == (20, 4, 0.25)
    end = END | {"step": steps, "detail": {"passes_since_step": left}}
    told = found(NOT_TAKEN, block(steps + 1, steps=step_rows(steps, backward_passes=accumulated), events=[end]))
    assert [(f.first_step, f.told_step, f.severity) for f in told] == ([(steps, steps, "warning")] if is_told else [])


# ---- gradients-not-zeroed ----

NOT_ZEROED = rule("gradients-not-zeroed")


def _sums(used: Any, new: Any, sizes: float = 100.0, **more: Any) -> Any:
    arrays = {
        "gradient.sum": {"a.bias": used},
        "gradient.l1_norm": {"a.bias": sizes},
        "activation_gradient.sum": {"a/out": new},
        "activation_gradient.l1_norm": {"a/out": sizes},
    }
    return block(len(used), arrays, **more)


NEW = np.array([1.0, -0.4, 0.7, 0.9, -1.3, 0.2])


def test_sums_that_pile_up_are_told_at_the_third_of_them() -> None:
    told = found(NOT_ZEROED, _sums(NEW.cumsum(), NEW))
    assert [(f.first_step, f.told_step) for f in told] == [(1, 3)]
    assert told[0].evidence[0].rows[0] == (1, pytest.approx(0.6), -0.4, 1.0)  # type: ignore[union-attr]


def test_sums_that_are_the_step_s_own_are_clear() -> None:
    assert outcome(NOT_ZEROED, _sums(NEW, NEW)) is Outcome.CLEAR


def test_two_in_a_row_and_one_that_is_its_own_are_clear() -> None:
    used = NEW.cumsum()
    used[3:] = NEW[3:]
    assert found(NOT_ZEROED, _sums(used, NEW)) == []


def test_clipped_sums_pile_up_with_their_factor() -> None:
    used, factors = [], [0.5, 0.25, 0.5, 1.0, 0.5, 0.25]
    for new, factor in zip(NEW, factors, strict=True):
        used.append(factor * ((used[-1] if used else 0.0) + new))
    assert found(NOT_ZEROED, _sums(np.array(used), NEW, steps=step_rows(6, clip_factor=factors)))
    assert found(NOT_ZEROED, _sums(np.array(used), NEW)) == []  # without the factor it does not add up


@pytest.mark.parametrize(("sizes", "is_told"), [(4e3, True), (4e5, False)])
def test_where_rounding_is_as_large_as_the_difference_nothing_is_said(sizes: float, is_told: bool) -> None:
    assert gradients_not_zeroed.APART * 3 * 4e5 * gradients_not_zeroed.ROUNDING["float32"] > np.abs(NEW.cumsum()).max()
    assert bool(found(NOT_ZEROED, _sums(NEW.cumsum(), NEW, sizes))) is is_told


# ---- gradient-not-applied ----

NOT_APPLIED = rule("gradient-not-applied")


def _still(length: int, zeros: Any = 1.0, gradient: Any = 0.5, weight: float = 1.0, **more: Any) -> Any:
    arrays = {
        "parameter.abs_max": {"*": weight},
        "gradient.abs_max": {"*": gradient},
        "gradient.nonfinite_count": {"*": 0.0},
        "update.zero_fraction": {"*": 0.0, "b.weight": zeros},
    }
    return block(length, arrays, **more)


@pytest.mark.parametrize(
    ("steps", "places"), [(gradient_not_applied.PATIENCE, ["b.weight"]), (gradient_not_applied.PATIENCE - 1, [])]
)
def test_an_update_of_0_is_told_at_the_third_step_in_a_row(steps: int, places: list[str]) -> None:
    assert [f.place for f in found(NOT_APPLIED, _still(steps))] == places


def test_an_optimizer_that_stops_by_itself_is_judged_until_its_first_update() -> None:
    stopped = [0.5, *[1.0] * 8]
    assert found(NOT_APPLIED, _still(9, zeros=stopped, optimizer="LBFGS")) == []
    assert [f.first_step for f in found(NOT_APPLIED, _still(9, zeros=stopped))] == [1]  # SGD never stops
    assert [f.first_step for f in found(NOT_APPLIED, _still(9, optimizer="LBFGS"))] == [0]


@pytest.mark.parametrize(
    "made",
    [
        _still(9, zeros=0.999),
        _still(9, gradient=0.0),
        _still(9, steps=step_rows(9, lr=0.0), settings={"initial_lr": 0.1}),  # a schedule has another rate in store
        _still(9, steps=step_rows(9, skipped=True)),
        _still(9, zeros=[1.0, 1.0, 0.0] * 3),
        _still(9, steps=step_rows(9, lr=2.0**-22), gradient=1.0),  # exactly on the limit
    ],
    ids=["one element moves", "no gradient", "lr of 0", "left out by a scaler", "two in a row", "too small for the dtype"],
)
def test_an_update_of_0_with_a_reason_is_clear(made: Any) -> None:
    assert found(NOT_APPLIED, made) == []


def test_just_large_enough_for_the_dtype_is_told() -> None:
    assert found(NOT_APPLIED, _still(9, steps=step_rows(9, lr=2.0**-21), gradient=1.0))


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


# ---- evaluation-mode-while-training ----


@pytest.mark.parametrize(
    ("affected", "places"), [({"drop": "Dropout"}, ["drop"]), ({}, []), ({"a": "Dropout", "b": "Dropout"}, [""])]
)
def test_evaluation_mode_is_told_where_a_module_differs_in_it(affected: dict[str, str], places: list[str]) -> None:
    event = {
        "step": 4,
        "kind": "evaluation_mode",
        "tensor": -1,
        "message": "",
        "detail": {"model": "model", "affected": affected},
    }
    told = found(rule("evaluation-mode-while-training"), block(9, events=[event]))
    assert [f.place for f in told] == places
    assert all(f.first_step == f.told_step == 4 for f in told)


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
