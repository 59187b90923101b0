"""Rules that look along the depth of a model. Oracle: numbers put in by hand, on both sides of each limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.diagnosis.deep import ACTIVATION, GRADIENT, SCALE, VANISHING, begun_small, evenly, layers, with_gradients, with_sizes
from tests.diagnosis.made import NAN, asked, block, found, outcome, said, step_rows, tensor
from weighbridge.diagnosis import Outcome, depth
from weighbridge.diagnosis.registry import rule
from weighbridge.diagnosis.rules import exploding_gradient as xg
from weighbridge.diagnosis.rules import vanishing_gradient as van
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.store.views import Tensor

# ---- vanishing-gradient ----


@pytest.mark.parametrize(("ratio", "places"), [(0.99 * van.ALONE, ["0"]), (van.ALONE, []), (1.0, [])])
def test_a_gradient_that_fades_evenly_is_told_at_the_shallow_end(ratio: float, places: list[str]) -> None:
    told = found(VANISHING, with_gradients(evenly(ratio)))
    assert [f.place for f in told] == places
    assert all((f.first_step, f.told_step) == (0, van.PATIENCE - 1) for f in told)


def test_a_gradient_that_is_lost_at_one_place_is_told_there() -> None:
    assert [f.place for f in found(VANISHING, with_gradients([1e-6] * 4 + [1.0] * 7))] == ["4"]


@pytest.mark.parametrize(
    ("kind", "fix"),
    [
        (
            "Sigmoid",
            "In place of nn.Sigmoid(), which passes on a quarter of a gradient at most, nn.ReLU() or nn.GELU(), and each ",
        ),
        ("Tanh", "Initialise each layer for nn.Tanh(), nn.init.xavier_normal_(model[0].weight, gain=5 / 3); put a norm"),
        (
            "ReLU",
            "Initialise each layer for its activation, nn.init.kaiming_normal_(model[0].weight, nonlinearity='relu'); put",
        ),
    ],
)
def test_the_fix_is_for_the_activation_that_is_there(kind: str, fix: str) -> None:
    tensors = tuple(replace(t, module=kind) if t.module == "ReLU" else t for t in layers())
    (told,) = found(VANISHING, with_gradients(evenly(1e-6), tensors=tensors))
    assert told.fix.startswith(fix)
    assert ("in place of sigmoid" in told.fix) is False
    assert ("nonlinearity='relu'" in told.fix) is (kind != "Tanh")


def test_two_recorded_steps_are_too_few() -> None:
    assert found(VANISHING, with_gradients(evenly(1e-6), steps=van.PATIENCE - 1)) == []


@pytest.mark.parametrize(("between", "told"), [(1e-5, 1), (1.0, 0)])
def test_they_have_to_come_one_after_the_other(between: float, told: int) -> None:
    ratios = [1e-5, 1e-5, between, 1e-5, 1e-5]
    sizes = np.array([evenly(ratio) for ratio in ratios]).T.tolist()
    assert len(found(VANISHING, with_gradients(sizes))) == told


def test_a_branch_beside_a_shortcut_may_have_none() -> None:
    assert found(VANISHING, with_gradients([1.0, 1.0, 1e-9, 1e-9, 1.0, 1.0, 1e-9, 1e-9, 1.0, 1.0, 1.0])) == []


def test_a_head_that_begins_near_zero_is_clear() -> None:
    assert found(VANISHING, with_gradients([1e-6] * 10 + [1.0])) == []


def test_what_comes_after_the_last_layer_does_not_count() -> None:
    assert found(VANISHING, with_gradients([1e-6] * 11 + [1.0], tensors=layers("LALALALALALA"))) == []


def test_a_gap_that_closes_is_clear() -> None:
    growing = [1e-7 * (1 + np.arange(5.0))] * 4 + [np.ones(5)] * 7
    assert found(VANISHING, with_gradients(growing)) == []


@pytest.mark.parametrize(("end", "is_told"), [(1.0, True), (0.5, False)])
def test_a_smaller_loss_of_gradient_needs_a_loss_that_does_not_fall(end: float, is_told: bool) -> None:
    losses = np.linspace(1.0, end, 2 * van.FLAT).tolist()
    made = with_gradients(evenly(0.5 * van.LIMIT), steps=2 * van.FLAT, losses=losses)
    assert [f.told_step for f in found(VANISHING, made)] == ([2 * van.FLAT - 1] if is_told else [])
    assert found(VANISHING, with_gradients(evenly(van.LIMIT), steps=60)) == []


def test_in_front_of_a_norm_layer_the_size_counts_too() -> None:
    tensors = layers("LNALNALNAL")
    slopes = [1e-6 if kind == "L" else 1.0 for kind in "LNALNALNA"] + [1.0]
    given = {t.name: 1e6 if t.module == "Linear" else 1.0 for t in tensors if t.is_output}
    assert found(VANISHING, with_gradients(slopes, tensors=tensors, **{"activation.rms": given})) == []


def test_where_only_parameters_are_seen_their_gradients_tell() -> None:
    tensors = tuple(tensor(i, f"w{i}", shape=(4, 4), module="Net") for i in range(8))
    sizes = dict(zip([t.name for t in tensors], evenly(1e-6, 8), strict=True))
    made = block(4, {"gradient.l2_norm": sizes}, tensors)
    assert [f.place for f in found(VANISHING, made)] == ["w0"]


def test_two_layers_are_no_depth() -> None:
    assert outcome(VANISHING, with_gradients([1e-9, 1.0], tensors=layers("LL"))) is Outcome.NOT_ENOUGH_DATA


# ---- several optimizers, and modules that ran late ----


def _rivals(made: Block, since: int, loss: float = 0.5) -> Block:
    """From this step on another optimizer steps, too, with a loss of 1 and this: both in the table of steps."""
    rows = [row for row in made.rows("steps") if row["step"] >= since]
    both = sorted([*made.rows("steps"), *({**row, "optimizer": 1, "loss": loss} for row in rows)], key=lambda row: row["step"])
    return replace(made, tables={**made.tables, "steps": tuple(both)})


@pytest.mark.parametrize(("since", "loss", "is_told"), [(3, 0.5, True), (2, 0.5, False), (0, 0.5, False), (0, 1.0, True)])
def test_from_the_step_on_in_which_two_losses_pull_nothing_is_said_of_depth(since: int, loss: float, is_told: bool) -> None:
    """The third look, at step 2, is the one that tells: it must still be of one loss."""
    assert (van.PATIENCE, xg.PATIENCE) == (3, 3)
    assert bool(found(VANISHING, _rivals(with_gradients(evenly(1e-6)), since, loss))) is is_told
    assert bool(found(GRADIENT, _rivals(with_gradients(evenly(2 * xg.LIMIT)), since, loss))) is is_told


def _experts(orders: Sequence[int]) -> tuple[Tensor, ...]:
    """Three layers, of which the second is a list of three experts, which ran first at these places."""
    names = ("stem", *(f"experts.{i}.fc" for i in range(3)), "neck", "head")
    weights = [tensor(i, f"{name}.weight", shape=(16, 16), count=256) for i, name in enumerate(names)]
    ran = dict(zip(names, (0, *orders, 4, 5), strict=True))
    return (*weights, *(tensor(100 + i, f"{name}/out", order=ran[name]) for i, name in enumerate(names)))


@pytest.mark.parametrize(
    ("orders", "is_in_order"), [((1, 2, 3), True), ((3, 2, 1), True), ((1, 2, 9), True), ((1, 9, 3), False), ((2, 1, 3), False)]
)
def test_experts_that_first_ran_late_have_no_place_in_the_depth(orders: tuple[int, ...], is_in_order: bool) -> None:
    (profile,) = depth.outputs(Tensors(_experts(orders)))
    names = [_experts(orders)[column].name for column in profile.columns]
    listed = sorted(range(3), key=lambda i: orders[i]) if is_in_order else []
    assert sorted(names) == sorted(["stem/out", "neck/out", "head/out", *(f"experts.{i}.fc/out" for i in listed)])


def test_an_expert_that_first_ran_late_is_no_last_layer() -> None:
    """It has a ten-thousandth of the gradient, since few samples were its: no other layer's grew on its way back from there."""
    sizes = [1.0, 1.0, 1e-4, 1.0, 1.0, 1.0]  # stem, experts 0 to 2, neck, head
    assert found(GRADIENT, with_gradients(sizes, tensors=_experts((1, 9, 3)))) == []
    last = [1.0, 1.0, 1.0, 1e-4, 1.0, 1.0]  # in the order of the list: it is one behind the other
    assert [f.told_step for f in found(GRADIENT, with_gradients(last, tensors=_experts((1, 2, 9))))] == [0]


# ---- exploding-gradient ----


@pytest.mark.parametrize(("end", "is_told"), [(1.01 * (1 - xg.LEARNT), True), (0.99 * (1 - xg.LEARNT), False)])
def test_what_has_learnt_nearly_all_in_its_first_steps_bears_its_gradients(end: float, is_told: bool) -> None:
    """L-BFGS fits two moons in five steps; its logits, and what passes them, go on growing."""
    steps = 15
    late = [np.where(np.arange(steps) < 10, 1.0, size) for size in evenly(1.01 * xg.LIMIT)]
    assert bool(found(GRADIENT, with_gradients(late, steps=steps, losses=[1.0] * 3 + [end] * 12))) is is_told


@pytest.mark.parametrize(
    ("ratio", "told"), [(xg.LIMIT, []), (1.01 * xg.LIMIT, [xg.PATIENCE - 1]), (1.01 * xg.AT_ONCE, [0]), (xg.AT_ONCE, [2])]
)
def test_a_gradient_that_grows_on_its_way_back(ratio: float, told: list[int]) -> None:
    assert [(f.place, f.told_step) for f in found(GRADIENT, with_gradients(evenly(ratio)))] == [("0", step) for step in told]


def test_later_a_layer_may_pass_more_on() -> None:
    steps = xg.EARLY + 10
    late = [np.where(np.arange(steps) < xg.EARLY, 1.0, size) for size in evenly(1.01 * xg.LIMIT)]
    assert found(GRADIENT, with_gradients(late, steps=steps)) == []
    late = [np.where(np.arange(steps) < xg.EARLY, 1.0, size) for size in evenly(1.01 * xg.AT_ONCE)]
    assert [f.told_step for f in found(GRADIENT, with_gradients(late, steps=steps))] == [xg.EARLY]


def test_a_module_that_is_applied_again_and_again_is_named() -> None:
    sizes = [1e6] * 3 + [1.0] * 8
    assert [f.place for f in found(GRADIENT, with_gradients(sizes))] == ["3"]
    counts = {f"{i}/out": 80.0 if i == 2 else 8.0 for i in range(11)}
    assert [f.place for f in found(GRADIENT, with_gradients(sizes, **{"activation.count": counts}))] == ["2"]


def test_in_front_of_a_norm_layer_a_small_embedding_is_no_explosion() -> None:
    tensors = layers("LNALNAL")
    given = {t.name: 1e-5 if t.name == "0/out" else 1.0 for t in tensors if t.is_output}
    assert found(GRADIENT, with_gradients([1e5, 1, 1, 1, 1, 1, 1], tensors=tensors, **{"activation.rms": given})) == []


@pytest.mark.parametrize(("norm", "loss", "is_told"), [(1.01, 10.1, True), (1.0, 10.1, False), (1.01, 10.0, False)])
def test_a_gradient_that_explodes_over_steps_with_the_loss(norm: float, loss: float, is_told: bool) -> None:
    tensors = layers("L")
    sizes = {"gradient.l2_norm": {"0.weight": np.array([1.0] * 9 + [norm * xg.AT_ONCE])}}
    made = block(10, sizes, tensors, steps=step_rows(10, loss=[1.0] * 9 + [loss]))
    assert [f.place for f in found(GRADIENT, made)] == (["0.weight"] if is_told else [])


@pytest.mark.parametrize(
    ("learnt", "size", "is_told"),
    [
        (0.01, xg.LIMIT, False),
        (0.01, 1.01 * xg.LIMIT, True),
        (1.01 / xg.AT_ONCE, 1.01 * xg.LIMIT, True),
        (0.99 / xg.AT_ONCE, 1.01 * xg.LIMIT, False),  # the gradients of the first steps have a median of 0.5
        (0.99 / xg.AT_ONCE, 0.501 * xg.AT_ONCE, True),
    ],
)
def test_gradients_that_come_back_to_those_of_the_beginning_have_not_exploded(
    learnt: float, size: float, is_told: bool
) -> None:
    """All is learnt, then targets are others, as those of a Q-learner are: the loss is ten times what it was at first."""
    steps = 2 * xg.HISTORY
    norms = np.r_[[0.3, 1.0, 0.5], np.full(steps - 4, 1e-4), [size]]
    losses = [1.0] * 3 + [learnt] * (steps - 4) + [10.1]
    made = block(steps, {"gradient.l2_norm": {"0.weight": norms}}, layers("L"), steps=step_rows(steps, loss=losses))
    assert bool(found(GRADIENT, made)) is is_told


# ---- how the run is cut ----

SPOKEN = [
    (VANISHING, with_gradients(evenly(1e-6))),
    (VANISHING, with_gradients(evenly(5e-4), steps=60)),
    (GRADIENT, with_gradients(evenly(50.0))),
    (ACTIVATION, with_sizes([1.0] * 4 + [500.0] * 7)),
    (SCALE, begun_small(0.01)),
]


@pytest.mark.parametrize(("which", "made"), SPOKEN, ids=[one.id for one, _ in SPOKEN])
def test_cutting_changes_no_finding(which: Any, made: Block) -> None:
    whole = said(asked(which, made))
    assert asked(which, made).findings
    for cuts in ([*range(len(made))], [1], [2, 9, 30]):
        assert said(asked(which, made, *cuts)) == whole


def test_what_was_not_recorded_is_no_zero() -> None:
    assert outcome(VANISHING, with_gradients([NAN] * 9 + [1e-9, 1.0])) is Outcome.NOT_ENOUGH_DATA
    some = [NAN if i % 3 == 1 else size for i, size in enumerate(evenly(1e-6))]
    assert [f.place for f in found(VANISHING, with_gradients(some))] == ["0"]


@pytest.mark.parametrize(("kind", "is_told"), [("BatchNorm1d", False), ("InstanceNorm2d", False), ("LayerNorm", True)])
def test_biases_that_a_norm_takes_out_do_not_stand_for_their_layers(kind: str, is_told: bool) -> None:
    """Where outputs are not seen. The mean over the samples leaves such a bias a gradient of rounding."""
    tensors = []
    for at, module in enumerate(("Linear", kind, "Linear", "Linear", "Linear")):
        shape = (4, 4) if module == "Linear" else (4,)
        tensors += [tensor(2 * at, f"{at}.weight", module, shape=shape), tensor(2 * at + 1, f"{at}.bias", module, shape=(4,))]
    norms = {"0.bias": 1e-9, **{f"{at}.bias": 1.0 for at in range(1, 5)}}
    assert bool(found(VANISHING, block(60, {"gradient.l2_norm": norms}, tuple(tensors)))) is is_told


def _random(random: np.random.Generator, steps: int = 60) -> Block:
    """Sizes that grow or fade by about as much as the limits allow, some of them 0, infinite or not known."""
    tensors = layers()
    outputs = [t for t in tensors if t.is_output]
    slope = random.normal(0, 0.35, (steps, 1)) * np.linspace(0, 9, len(outputs)) + random.normal(0, 0.5, (steps, len(outputs)))
    sizes = 10.0**slope
    sizes[random.random(sizes.shape) < 0.002] = 0.0
    sizes[random.random(sizes.shape) < random.choice([0.0, 0.01])] = np.nan
    sizes[random.random(sizes.shape) < random.choice([0.0, 0.002])] = np.inf
    sizes[:, -1] *= random.choice([1.0, 0.0], steps, p=[0.95, 0.05])
    what = {one.name: sizes[:, i] for i, one in enumerate(outputs)}
    rms = {one.name: np.exp(random.normal(size=steps)) for one in outputs}
    arrays: dict[str, Any] = {"activation.rms": rms, "activation.count": {"*": 8.0}}
    if random.random() < 0.7:
        arrays["activation_gradient.l2_norm"] = what
    arrays["gradient.l2_norm"] = {
        one.name: 10.0 ** random.normal(0, 0.4, steps).cumsum() for one in tensors if not one.is_output
    }
    losses = (1.0 + random.choice([-0.01, 0.0]) * np.arange(steps) + random.normal(0, 0.01, steps)).tolist()
    return block(steps, arrays, tensors=tensors, steps=step_rows(steps, loss=losses))


@pytest.mark.parametrize("name", ["vanishing-gradient", "exploding-gradient"])
def test_steps_that_are_passed_over_at_once_change_no_answer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [_random(np.random.default_rng(seed)) for seed in range(60)]
    quick = [said(asked(rule(name), one, 20, 41)) for one in made]
    passed = sum(int(van._is_calm(p, one["gradient.l2_norm"]).sum()) for one in made for p in depth.parameters(one.tensors))
    monkeypatch.setattr(van, "_is_calm", lambda profile, rows: np.zeros(len(rows), bool))
    monkeypatch.setattr(xg, "_at_most", lambda profile, norms: np.full(len(norms), np.nan))
    slow = [said(asked(rule(name), one, 20, 41)) for one in made]
    assert quick == slow
    assert 0 < sum("'findings': ()" not in one and "'findings': []" not in one for one in slow) < len(slow)
    assert passed > 100
