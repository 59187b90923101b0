"""Rules that read the graph of a first loss, on passes drawn by hand: what fires, what stays clear, what is on a limit."""

from __future__ import annotations

import dataclasses
import math

import pytest

from tests.diagnosis.drawn import found, places
from tests.diagnosis.graphs import Drawing, all_wrong, rows
from tests.diagnosis.made import asked, block
from weighbridge.diagnosis import Outcome
from weighbridge.diagnosis.rules.doubled_output_activation import DoubledOutputActivation
from weighbridge.diagnosis.rules.missing_activation import MissingActivation
from weighbridge.diagnosis.rules.redundant_bias import RedundantBias
from weighbridge.firstpass import FirstPass, from_text, to_text


def test_a_pass_is_the_same_after_it_was_written_and_read() -> None:
    first = all_wrong()
    assert repr(from_text(to_text(first))) == repr(first)  # NaN and all


def test_a_run_without_a_graph_is_not_enough_data() -> None:
    assert asked(MissingActivation, block(3)).answers[0].outcome is Outcome.NOT_ENOUGH_DATA


def test_what_the_first_step_shows_begins_at_step_0_whenever_it_was_known() -> None:
    made = block(5, graph=rows(all_wrong(), step=3))
    assert [(f.first_step, f.told_step) for f in asked(MissingActivation, made)] == [(0, 3)]


# --- missing-activation --------------------------------------------------------------------------------------------------


def chain(*between: str, inside: int = 8, middle: int = 16, out: int = 4, users: int = 1, **facts: object) -> FirstPass:
    """Two linear layers and what stands between them."""
    made = Drawing()
    at = made.linear("a", None, 32, inside, middle)
    for number, op in enumerate(between):
        at = made.op(op, [at, None], (32, middle), str(number), **facts)
    two = made.linear("b", at, 32, middle, out)
    for _ in range(users - 1):
        two = made.op("Add", [two, at], (32, middle))
    made.op("MseLoss", [two], ())
    return made.done()


def test_affine_layers_need_an_activation_between() -> None:
    assert places(MissingActivation, chain()) == [("b", "warning")]
    assert places(MissingActivation, chain("View", "NativeDropout")) == [("b", "warning")]
    assert places(MissingActivation, chain("Mul", other_shape=())) == [("b", "warning")]  # times a number
    assert places(MissingActivation, chain("Mul", other_shape=(32, 16))) == []
    for activation in ("Relu", "Gelu", "Tanh", "SomethingNew"):
        assert places(MissingActivation, chain(activation)) == []


def test_pools_and_norms_are_no_activation_where_there_is_no_other() -> None:
    assert places(MissingActivation, chain("MaxPool2DWithIndices")) == [("b", "warning")]
    assert places(MissingActivation, chain("NativeBatchNorm")) == [("b", "warning")]
    assert places(MissingActivation, chain("Relu", "NativeBatchNorm")) == []


@pytest.mark.parametrize("op", ["NativeLayerNorm", "NativeGroupNorm"])
def test_a_norm_of_each_sample_without_weights_is_there_for_what_it_bends(op: str) -> None:
    assert places(MissingActivation, chain(op)) == []
    made = Drawing()
    weights = made.parameter("n.weight", 16), made.parameter("n.bias", 16)
    made.linear("b", made.op(op, [made.linear("a", None, 32, 8, 16), *weights], (32, 16)), 32, 16, 4)
    assert places(MissingActivation, made.done()) == [("b", "warning")]


def test_what_is_added_without_a_gradient_may_bend_as_well() -> None:
    """h + (round(h) - h).detach(): the graph shows a sum of h and of nothing."""
    assert places(MissingActivation, chain("Add")) == []
    assert places(MissingActivation, chain("Sub")) == []


def test_a_bottleneck_and_a_residual_miss_no_activation() -> None:
    assert places(MissingActivation, chain(middle=3)) == []  # narrower than both
    assert places(MissingActivation, chain(middle=4)) == [("b", "warning")]  # as narrow as one of them: the limit
    assert places(MissingActivation, chain(users=2)) == []


def test_a_layer_that_also_takes_the_data_is_another_network_s() -> None:
    """A judge is fed by the generator in one pass, by the data in the other."""
    real = Drawing()
    real.linear("b", None, 32, 16, 4)
    assert places(MissingActivation, chain(), real.done()) == []


def test_a_layer_that_feeds_an_activation_in_another_pass_misses_none() -> None:
    """A trunk under two heads, one of which begins with an activation."""
    other = Drawing()
    trunk = other.linear("a", None, 32, 8, 16)
    other.linear("c", other.op("Gelu", [trunk], (32, 16)), 32, 16, 1)
    assert places(MissingActivation, chain(), other.done()) == []


@pytest.mark.parametrize(("names", "is_told"), [(("net.3", "net.5"), True), (("project.3", "predict.0"), False)])
def test_a_batch_norm_between_linear_layers_is_no_activation_inside_one_module(names: tuple[str, str], is_told: bool) -> None:
    made = Drawing()
    at = made.op("Relu", [made.linear("net.0", None, 32, 8, 16)], (32, 16))
    at = made.op("NativeBatchNorm", [made.linear(names[0], at, 32, 16, 16)], (32, 16), training=True)
    made.linear(names[1], at, 32, 16, 16)
    assert places(MissingActivation, made.done()) == [(names[1], "warning")] * is_told


def test_a_vector_that_is_made_an_image_needs_no_activation() -> None:
    made = Drawing()
    at = made.op("View", [made.linear("a", None, 4, 8, 64)], (4, 4, 4, 4))
    made.op("Convolution", [at, made.parameter("c.weight", 64, 4, 3, 3), None], (4, 64, 4, 4))
    assert places(MissingActivation, made.done()) == []


# --- doubled-output-activation -------------------------------------------------------------------------------------------


def ended(*ops: str, dims: tuple[int, ...] = (1, 1)) -> FirstPass:
    made = Drawing()
    at = made.linear("a", None, 32, 8, 4)
    for op, dim in zip(ops, dims, strict=False):
        at = made.op(op, [at], (32, 4), "last", dim=dim)
    made.op("Loss", [at], ())
    return made.done()


@pytest.mark.parametrize(
    ("ops", "severity"),
    [
        (("Softmax", "LogSoftmax"), "error"),
        (("Sigmoid", "BinaryCrossEntropyWithLogits"), "error"),
        (("Sigmoid", "Sigmoid"), "error"),
        (("LogSoftmax", "LogSoftmax"), "note"),
    ],
)
def test_an_activation_that_the_loss_applies_again(ops: tuple[str, ...], severity: str) -> None:
    assert places(DoubledOutputActivation, ended(*ops)) == [("last", severity)]


def test_an_activation_that_stands_alone_or_along_another_axis_is_none() -> None:
    for ops in (("Softmax",), ("Sigmoid", "BinaryCrossEntropy"), ("Relu", "LogSoftmax"), ("Softmax", "Mul")):
        assert places(DoubledOutputActivation, ended(*ops)) == []
    assert places(DoubledOutputActivation, ended("Softmax", "LogSoftmax", dims=(0, 1))) == []
    assert places(DoubledOutputActivation, ended("Softmax", "LogSoftmax", dims=(-1, 1))) == [("last", "error")]


def test_a_softmax_along_the_samples_is_none_though_there_are_as_many_as_classes() -> None:
    made = Drawing()
    soft = made.op("Softmax", [made.linear("a", None, 4, 8, 4)], (4, 4), "end", dim=0)
    made.op("LogSoftmax", [soft], (4, 4), dim=1)
    assert places(DoubledOutputActivation, made.done()) == []


@pytest.mark.parametrize("dim", [-1, 2])
def test_a_softmax_is_followed_through_transposes_and_selections(dim: int) -> None:
    for op, shape, along in (("Transpose", (8, 10, 12), 1), ("View", (96, 10), 1), ("Select", (8, 10), -1)):
        made = Drawing()
        soft = made.op("Softmax", [made.linear("a", None, 8, 16, 10)], (8, 12, 10), "end", dim=dim)
        made.op("LogSoftmax", [made.op(op, [soft], shape)], shape, dim=along)
        assert places(DoubledOutputActivation, made.done()) == [("end", "error")]


def test_the_floor_is_that_of_a_sure_and_right_prediction() -> None:
    (finding,) = found(DoubledOutputActivation, ended("Softmax", "LogSoftmax"))
    p = math.e / (math.e + 3)
    assert finding.evidence[0].value == pytest.approx(-math.log(p))  # type: ignore[union-attr]


# --- redundant-bias ------------------------------------------------------------------------------------------------------


def normed(other_use: bool = False) -> FirstPass:
    made = Drawing()
    one = made.linear("a", None, 32, 8, 16)
    made.op("NativeBatchNorm", [one], (32, 16), "n", training=True)
    if other_use:
        made.op("Relu", [one], (32, 16))
    return made.done()


def test_a_bias_is_redundant_where_it_is_so_in_every_pass() -> None:
    assert places(RedundantBias, normed()) == [("a.bias", "warning")]
    assert places(RedundantBias, normed(), normed()) == [("a.bias", "warning")]
    assert places(RedundantBias, normed(), normed(other_use=True)) == []
    assert places(RedundantBias, normed(other_use=True)) == []


@pytest.mark.parametrize(("kept", "said"), [(None, "at least 8 bytes"), (0, "parameters, 8 bytes"), (2, " 16 bytes")])
def test_what_an_unknown_optimizer_keeps_is_not_counted_as_nothing(kept: int | None, said: str) -> None:
    """As `inspect` asks it, which knows the optimizer itself. Of what is drawn the parameters have 4 bytes each."""
    (finding,) = RedundantBias().judge([dataclasses.replace(normed(), state_tensors=kept)])
    assert said in finding.message
    named = next(one.name for one in finding.evidence if one.name.startswith("bytes saved"))
    assert named.endswith("is not" if kept is None else "included")
