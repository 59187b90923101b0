"""What the first step shows of loss, inputs, targets and norms. Oracle: passes drawn by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest

from tests.diagnosis.drawn import found, places
from tests.diagnosis.graphs import Drawing
from weighbridge.diagnosis.rules import high_initial_loss, missing_bias, raw_input_scale, unfit_output_activation
from weighbridge.diagnosis.rules.high_initial_loss import HighInitialLoss
from weighbridge.diagnosis.rules.missing_bias import MissingBias
from weighbridge.diagnosis.rules.raw_input_scale import RawInputScale
from weighbridge.diagnosis.rules.starved_batch_norm import StarvedBatchNorm
from weighbridge.diagnosis.rules.unfit_output_activation import UnfitOutputActivation
from weighbridge.firstpass import Scale, Start

# --- high-initial-loss and raw-input-scale -------------------------------------------------------------------------------

LOSS = Start("cross-entropy", 0, "head", loss=9.0, trivial=2.3, error=0.3, samples=32, prediction_std=5.0, input_rms=1.0)


def begun(**changed: object) -> list[tuple[str, str]]:
    made = Drawing()
    made.linear("head", None, 32, 8, 10)
    return places(HighInitialLoss, made.done([dataclasses.replace(LOSS, **changed)]))  # type: ignore[arg-type]


def test_a_high_loss_is_one_that_the_last_layer_makes() -> None:
    warned = [("head", "warning")]
    assert begun() == warned
    assert begun(input_rms=2.5) == []  # exactly twice: the limit
    assert begun(input_rms=2.4) == warned
    assert begun(input_rms=math.nan) == []
    assert begun(loss=2 * 2.3) == []
    assert begun(loss=2 * 2.3 + 0.01) == warned
    assert begun(prediction_std=high_initial_loss.LEAST_STD) == []
    assert begun(samples=high_initial_loss.LEAST_SAMPLES - 1) == []
    assert begun(error=(9.0 - 2.3) / 4) == []
    assert begun(trivial=math.nan) == []


def test_targets_far_from_zero_are_a_note_and_wide_predictions_are_not() -> None:
    far = {"kind": "squared error", "loss": 2500.0, "trivial": 1.0, "error": 9.0, "target_mean": 50.0, "target_std": 1.0}
    assert begun(**far, prediction_std=0.3) == [("head", "note")]
    assert begun(**far, prediction_std=50.0) == [("head", "warning")]
    assert begun(**far, prediction_std=50.0, input_rms=30.0) == []


def test_an_embedding_that_is_the_last_layer_too_is_a_note() -> None:
    made = Drawing()
    table = made.parameter("embed.weight", 10, 8)
    given = made.op("Embedding", [table], (32, 8), "embed")
    logits = made.op("Mm", [given, made.op("T", [table], (8, 10))], (32, 10), "head")
    loss = made.op("NllLoss", [made.op("LogSoftmax", [logits], (32, 10), dim=1)], ())
    assert places(HighInitialLoss, made.done([dataclasses.replace(LOSS, node=loss)])) == [("head", "note")]


RAW = Scale(0, "a", 32, rms=100.0, largest_rms=120.0, largest=255.0, output_rms=50.0, mean_power=0.0, variance=1.0, constants=0)


def scaled(followed_by: str = "Relu", **changed: object) -> list[tuple[str, str]]:
    made = Drawing()
    one = made.linear("a", None, 32, 8, 16)
    made.op(followed_by, [one], (32, 16))
    return places(RawInputScale, made.done(scales=[dataclasses.replace(RAW, node=one, **changed)]))  # type: ignore[arg-type]


def test_raw_inputs_are_large_and_make_large_outputs_and_no_norm_follows() -> None:
    warned = [("input", "warning")]
    assert scaled() == warned
    assert scaled("NativeLayerNorm") == []
    assert scaled(largest_rms=raw_input_scale.LARGEST_RMS) == []
    assert scaled(output_rms=raw_input_scale.LARGEST_FIRST_OUTPUT) == []
    assert scaled(rms=math.nan, largest_rms=math.nan, largest=math.nan, output_rms=math.nan) == []


def test_inputs_that_are_all_tiny_are_raw_too_and_nothing_but_zeros_is_not() -> None:
    tiny = {"rms": 1e-3, "largest_rms": 2e-3, "output_rms": 1e-3}
    assert scaled(**tiny, largest=0.01) == [("input", "warning")]
    assert scaled(**tiny, largest=raw_input_scale.SMALLEST) == []
    assert scaled(rms=0.0, largest_rms=0.0, output_rms=0.0, largest=0.0) == []


# --- missing-bias --------------------------------------------------------------------------------------------------------

OFF = Start("squared error", 0, "b", loss=2.0, trivial=1.0, error=0.1, samples=100, rows=100, offset=0.2)


CENTRED = Scale(0, "a", 100, rms=1.0, largest_rms=1.0, largest=3.0, output_rms=0.6, mean_power=0.0, variance=8.0, constants=0)


def biasless(
    *between: str,
    first_bias: bool = False,
    last_bias: bool = False,
    after: str = "",
    is_mixed: bool = False,
    inputs: Scale | None = CENTRED,
    **changed: object,
) -> list[tuple[str, str]]:
    """Two layers and a squared error; the first takes the batch. is_mixed: an adjacency times all that the last one gives."""
    made = Drawing()
    one = at = made.linear("a", None, 100, 8, 16, bias=first_bias)
    for op in between:
        at = made.op(op, [at], (100, 16))
    at = made.linear("b", at, 100, 16, 1, bias=last_bias)
    if after:
        at = made.op(after, [at, made.parameter("shift", 1)], (100, 1))
    at = made.op("Mm", [None, at], (100, 1)) if is_mixed else at
    loss = made.op("MseLoss", [at], ())
    start = dataclasses.replace(OFF, node=loss, **changed)  # type: ignore[arg-type]
    first = made.done([start], [dataclasses.replace(inputs, node=one)] if inputs else [])
    return [(f.place, f.certainty) for f in found(MissingBias, first)]


def test_a_linear_function_of_centred_inputs_has_no_mean() -> None:
    assert biasless() == [("b", "test")]
    assert biasless(offset=missing_bias.LINEAR) == []
    assert biasless(rows=80) == []  # 80 times 0.2: exactly 16
    assert biasless(rows=81) == [("b", "test")]
    assert biasless(last_bias=True) == []
    assert biasless(after="Add") == []
    with_mean = dataclasses.replace(CENTRED, mean_power=0.2, features=4)  # which can be used, up to 4 * 0.2 / 8 = 0.1
    assert biasless(inputs=with_mean, offset=0.21) == [("b", "test")]
    assert biasless(inputs=with_mean, offset=0.2) == []  # twice that: the limit
    assert biasless(inputs=dataclasses.replace(CENTRED, constants=1), offset=50.0) == []


def test_the_layer_in_front_of_a_graph_s_adjacency_has_the_bias() -> None:
    assert biasless(is_mixed=True) == [("b", "test")]
    assert biasless(is_mixed=True, last_bias=True) == []
    assert biasless(is_mixed=True, after="Add") == []


def test_more_offset_is_needed_where_something_could_make_up_for_the_bias() -> None:
    assert biasless("Relu", offset=missing_bias.HOMOGENEOUS) == []
    assert biasless("Relu", offset=4.1) == [("b", "test")]
    assert biasless("Relu", first_bias=True, offset=missing_bias.ANY) == []
    assert biasless("Relu", first_bias=True, offset=9.1) == [("b", "test")]
    assert biasless("Sigmoid", offset=9.0) == []  # which is 0.5 at 0
    assert biasless("Relu", offset=math.nan) == []


def test_an_odd_function_of_centred_inputs_has_a_small_mean() -> None:
    """Of tanh without biases: the sign of an exponential number less its mean, the worst, has 0.075 (1 - 2 / e squared)."""
    far = {"offset": 3.9}
    assert biasless("Tanh", **far) == [("b", "test")]
    assert biasless("Tanh", offset=missing_bias.ODD_ONES) == []
    for op, first_bias in (("Tanh", True), ("Sigmoid", False), ("Gelu", False)):
        assert biasless(op, first_bias=first_bias, **far) == []
    assert biasless("Tanh", inputs=None, **far) == []
    bound = missing_bias.CENTRED * CENTRED.variance / CENTRED.samples
    assert biasless("Tanh", inputs=dataclasses.replace(CENTRED, mean_power=bound), **far) == [("b", "test")]
    for more in ({"mean_power": 1.01 * bound}, {"constants": 1}, {"largest": 6.1}):
        assert biasless("Tanh", inputs=dataclasses.replace(CENTRED, **more), **far) == []  # type: ignore[arg-type]


def test_inputs_far_from_zero_want_a_bias_in_the_layer_that_takes_them() -> None:
    off = dataclasses.replace(CENTRED, mean_power=73.0)
    quiet = {"offset": 0.0}
    assert biasless("Relu", inputs=off, **quiet) == [("a", "test")]
    assert biasless("Relu", inputs=dataclasses.replace(off, mean_power=9 * 8.0), **quiet) == []  # the limit
    assert biasless("Relu", inputs=dataclasses.replace(off, constants=1), **quiet) == []  # which serves as a bias
    assert biasless("Relu", inputs=dataclasses.replace(off, samples=15), **quiet) == []
    assert biasless("NativeBatchNorm", inputs=off, **quiet) == []
    assert biasless("Relu", first_bias=True, inputs=off, **quiet) == []


# --- unfit-output-activation -----------------------------------------------------------------------------------------------


def bounded(op: str, loss: str = "MseLoss", classes: int = 4, floor: float = 0.5, **changed: object) -> list[tuple[str, str]]:
    made = Drawing()
    at = made.op(op, [made.linear("a", None, 32, 8, classes)], (32, classes), "end", dim=1)
    node = made.op(loss, [at], (32, classes) if loss == "LogSoftmax" else (), "", dim=1)
    facts = {"samples": 32, "floor": floor, "target_mean": 0.5, "target_std": 0.5, "target_low": -2.0, "target_high": 2.0}
    kind = "binary cross-entropy" if "Binary" in loss else "squared error"
    start = Start(kind, node, "end", 2.0, 1.0, 0.1, **(facts | changed))  # type: ignore[arg-type]
    return places(UnfitOutputActivation, made.done([start] if loss != "LogSoftmax" else []))


def test_targets_out_of_an_activation_s_range() -> None:
    warned = [("end", "warning")]
    for op in ("Relu", "Sigmoid", "Tanh", "Softplus", "Softmax"):
        assert bounded(op) == warned
    assert bounded("Relu", floor=unfit_output_activation.SHARE) == []
    assert bounded("Relu", floor=1.01 * unfit_output_activation.SHARE) == warned
    assert bounded("Relu", samples=7) == []
    assert bounded("Relu", floor=0.0) == []


def test_bounded_logits_have_a_floor() -> None:
    warned = [("end", "warning")]
    assert bounded("Tanh", "LogSoftmax") == warned
    assert bounded("Relu", "LogSoftmax") == warned
    assert bounded("LeakyRelu", "LogSoftmax") == []
    assert bounded("Tanh", "BinaryCrossEntropyWithLogits") == warned
    assert bounded("Relu", "BinaryCrossEntropyWithLogits") == warned
    assert bounded("Relu", "BinaryCrossEntropyWithLogits", target_mean=1.0, target_std=0.0) == []
    assert bounded("Softmax", "LogSoftmax") == []  # another rule's


@pytest.mark.parametrize(("op", "classes", "is_told"), [("Softmax", 4, True), ("Addmm", 4, True), ("LogSoftmax", 4, False)])
def test_the_negative_log_likelihood_wants_logarithms(op: str, classes: int, is_told: bool) -> None:
    made = Drawing()
    at = made.linear("a", None, 32, 8, classes)
    at = at if op == "Addmm" else made.op(op, [at], (32, classes), "end", dim=1)
    made.op("NllLoss", [at], ())
    assert [s for _, s in places(UnfitOutputActivation, made.done())] == ["error"] * is_told


@pytest.mark.parametrize(
    ("shape", "dim", "is_told"),
    [
        ((32, 4), 0, True),
        ((32, 4), 1, False),
        ((32, 4), -1, False),
        ((32, 32), 0, False),  # similarities: samples along both axes
        ((8, 4, 6), 2, True),
        ((8, 4, 6), -1, True),
        ((8, 4, 6), 1, False),
        ((4,), 0, False),
    ],
)
def test_a_softmax_over_another_axis_than_the_classes(shape: tuple[int, ...], dim: int, is_told: bool) -> None:
    made = Drawing()
    at = made.op("LogSoftmax", [made.op("View", [made.linear("a", None, 32, 8, 4)], shape)], shape, "end", dim=dim)
    made.op("NllLoss", [at], ())
    assert places(UnfitOutputActivation, made.done()) == [("end", "error")] * is_told
    made = Drawing()
    at = made.op("LogSoftmax", [made.linear("a", None, 32, 8, 4)], (32, 4), "end", dim=0)
    made.op("NllLoss", [made.op("View", [at], (4, 32))], ())  # the axes are others now
    assert places(UnfitOutputActivation, made.done()) == []


def test_a_softmax_over_one_class() -> None:
    made = Drawing()
    made.op("NllLoss", [made.op("LogSoftmax", [made.linear("a", None, 32, 8, 1)], (32, 1), dim=1)], ())
    assert [s for _, s in places(UnfitOutputActivation, made.done())] == ["error"]


# --- starved-batch-norm --------------------------------------------------------------------------------------------------


def normalised(
    shape: tuple[int, ...], kind: str = "BatchNorm2d", before: str = "", training: bool = True
) -> list[tuple[str, str]]:
    made = Drawing()
    at = made.op("Convolution", [None, made.parameter("c.weight", 8, 3, 3, 3), None], shape)
    at = made.op(before, [at], shape) if before else at
    made.op("NativeBatchNorm", [at], shape, "n", training=training)
    return places(StarvedBatchNorm, made.done(kinds={"n": kind}))


def test_a_batch_norm_wants_samples() -> None:
    warned = [("n", "warning")]
    assert normalised((4, 8)) == warned
    assert normalised((5, 8)) == []
    assert normalised((2, 8, 16, 16)) == warned
    assert normalised((3, 8, 16, 16)) == []
    assert normalised((3, 8, 1, 1)) == warned
    assert normalised((1, 8, 16, 16)) == warned


def test_instance_norms_and_running_averages_want_none() -> None:
    assert normalised((1, 8, 16, 16), "InstanceNorm2d") == []
    assert normalised((1, 8, 16, 16), "", before="View") == []
    assert normalised((1, 8, 16, 16), training=False) == []
