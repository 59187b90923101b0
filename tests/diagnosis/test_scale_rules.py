"""Sizes along depth: exploding-activation and wrong-initial-scale, on made-up runs. Oracle: numbers put in by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.diagnosis.deep import ACTIVATION, SCALE, begun_small, begun_with, layers, with_sizes
from tests.diagnosis.made import block, found, tensor
from weighbridge.diagnosis.rules import exploding_activation as xa
from weighbridge.diagnosis.rules import wrong_initial_scale as scale
from weighbridge.diagnosis.stream import Block


@pytest.mark.parametrize(("ratio", "told"), [(xa.LIMIT, []), (1.01 * xa.LIMIT, [xa.PATIENCE - 1]), (1.01 * xa.AT_ONCE, [0])])
def test_what_grows_from_layer_to_layer(ratio: float, told: list[int]) -> None:
    sizes = np.geomspace(1.0, ratio, 10).tolist()
    assert [(f.place, f.told_step) for f in found(ACTIVATION, with_sizes([*sizes, ratio]))] == [("0", step) for step in told]


def test_what_grows_at_one_layer_is_told_there() -> None:
    assert [f.place for f in found(ACTIVATION, with_sizes([1.0] * 4 + [1e5] * 7))] == ["4"]


def test_what_a_norm_takes_out_before_the_end_is_clear() -> None:
    assert found(ACTIVATION, with_sizes([1.0] * 4 + [1e5] * 6 + [1.0])) == []


def test_large_outputs_alone_are_large_targets() -> None:
    assert found(ACTIVATION, with_sizes([1.0] * 10 + [1e6])) == []


def test_a_first_layer_of_large_inputs_is_the_measure() -> None:
    assert found(ACTIVATION, with_sizes([1e4] * 11)) == []


@pytest.mark.parametrize(("size", "loss", "is_told"), [(1.01, 10.1, True), (1.0, 10.1, False), (1.01, 10.0, False)])
def test_what_explodes_over_steps_with_the_loss(size: float, loss: float, is_told: bool) -> None:
    sizes = [1.0, 1.0, np.array([1.0] * 9 + [size * xa.LIMIT]), 1.0]
    made = with_sizes(sizes, "LALA", 10, [1.0] * 9 + [loss])
    assert [f.place for f in found(ACTIVATION, made)] == (["2"] if is_told else [])


def test_what_gave_nothing_before_and_explodes_is_told() -> None:
    made = with_sizes([1.0, 1.0, np.array([0.0] * 9 + [50.0]), 1.0], "LALA", 10, [1.0] * 9 + [50.0])
    assert [f.place for f in found(ACTIVATION, made)] == ["2"]


@pytest.mark.parametrize(
    ("gain", "size", "places"),
    [
        (1.01 * scale.LARGE, 1.01 * scale.WIDE, ["4"]),
        (scale.LARGE, 1.01 * scale.WIDE, []),
        (1.01 * scale.LARGE, scale.WIDE, []),
    ],
)
def test_a_layer_that_is_too_large_and_gives_too_much(gain: float, size: float, places: list[str]) -> None:
    told = found(SCALE, begun_with({4: gain}, {4: size}, {}))
    assert [(f.place, f.first_step, f.told_step) for f in told] == [(place, 0, 0) for place in places]


def test_in_front_of_a_norm_layer_the_scale_is_free() -> None:
    assert found(SCALE, begun_with({3: 50.0}, {3: 50.0}, {}, "LNALAL")) != []
    assert found(SCALE, begun_with({3: 50.0}, {3: 50.0}, {}, "LNALNAL")) == []


@pytest.mark.parametrize(
    ("made", "places"),
    [
        (begun_small(0.99 * scale.SMALL), ["4"]),
        (begun_small(scale.SMALL), []),
        (begun_small(0.0), []),
        (begun_with({3: 0.01}, {}, dict.fromkeys(range(3), 0.01), "LALNALAL"), []),
        (begun_small(0.01, slope=scale.FADED), []),
        (begun_small(0.01, at=10), []),
    ],
)
def test_a_layer_that_is_too_small_and_lets_nothing_through(made: Block, places: list[str]) -> None:
    assert [f.place for f in found(SCALE, made)] == places


@pytest.mark.parametrize(
    ("kinds", "is_told"),
    [("LNALNALAL", False), ("LNALALAL", True), ("LNALALBAL", False), ("LNALALNAL", True), ("LBALALAL", True)],
)
def test_small_weights_in_front_of_a_norm_layer_are_free(kinds: str, is_told: bool) -> None:
    assert bool(found(SCALE, begun_with({3: 0.01}, {}, dict.fromkeys(range(3), 0.01), kinds))) is is_told


@pytest.mark.parametrize(("inputs", "is_told"), [(scale.INPUTS - 1, False), (scale.INPUTS, True)])
def test_layers_of_few_inputs_are_not_judged(inputs: int, is_told: bool) -> None:
    tensors = layers("LAL", inputs=inputs)
    sizes = {"parameter.rms": {"*": 50.0}, "activation.rms": {"*": 50.0}, "activation_gradient.l2_norm": {"*": 1.0}}
    assert bool(found(SCALE, block(2, sizes, tensors))) is is_told


@pytest.mark.parametrize(("rms", "given", "is_told"), [(2.0, 10.0, True), (1.0, 10.0, False), (2.0, 9.0, False)])
def test_weights_of_function_calls_are_judged_by_what_the_model_gives(rms: float, given: float, is_told: bool) -> None:
    tensors = (tensor(0, "w", module="Net", shape=(16, 32), count=512), tensor(1, "/out", module="Net", order=5))
    made = block(2, {"parameter.rms": {"w": rms}, "activation.rms": {"/out": given}}, tensors)
    assert [f.place for f in found(SCALE, made)] == (["w"] if is_told else [])


def test_weights_with_a_long_tail_are_trained_ones() -> None:
    made = begun_with({4: 8.0}, {4: 20.0}, {})
    assert found(SCALE, made)
    made.arrays["parameter.abs_max"][:] = 20.0 * made.arrays["parameter.rms"]
    assert found(SCALE, made) == []


def test_an_embedding_that_is_the_head_too_is_judged_as_a_head() -> None:
    def run(alias: tuple[str, ...]) -> Block:
        embedding = tensor(0, "e.weight", "Embedding", shape=(50, 64), count=3200, role="embedding", aliases=alias)
        tensors = (embedding, tensor(1, "e/out", "Embedding", order=0), tensor(2, "o/out", "Linear", order=1))
        return block(2, {"parameter.rms": {"*": 1.0}, "activation.rms": {"*": 8.0}}, tensors)

    assert [f.place for f in found(SCALE, run(("o.weight",)))] == ["e"]
    assert found(SCALE, run(())) == []


@pytest.mark.parametrize(("gain", "is_told"), [(1.01 * scale.CLOSED_LARGE, True), (scale.CLOSED_LARGE, False)])
def test_what_a_module_squashes_inside_is_judged_by_its_weights(gain: float, is_told: bool) -> None:
    tensors = (tensor(0, "r.weight_hh_l0", "LSTM", shape=(16, 16), count=256), tensor(1, "r/out", "LSTM", order=0))
    made = block(2, {"parameter.rms": {"*": gain / 4.0}, "activation.rms": {"*": 0.5}}, tensors)
    assert [f.place for f in found(SCALE, made)] == (["r"] if is_told else [])
