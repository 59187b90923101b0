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
    parameter_in_no_optimizer,
    parameter_without_gradient,
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
