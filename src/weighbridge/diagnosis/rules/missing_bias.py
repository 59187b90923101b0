"""Targets or inputs lie off centre, and the layer that would take it up has no bias.

Symptom        The loss stays above what a constant would reach, or comes down slowly while weights grow to imitate a
               constant.
How it decides On the first batch. Targets of a squared error (Huber, absolute error), or of yes and no (a half taken off,
               which logits of 0 give): the output layer has no bias, and the squared mean of the targets is above a multiple
               of their variance. Where all in front is linear: what a linear function of the inputs can have, and LINEAR at
               least; where nothing in front can make a constant: HOMOGENEOUS; where all in front is odd (tanh, no bias) and
               inputs are centred, with none beyond FAR of their rms: ODD_ONES; where a bias further in front could be bent
               into one: ANY. Inputs: the first layer has no bias, no norm follows, no feature is constant (it would serve as
               one), and the squared means of the features sum to more than INPUTS times their variances. Always over so many
               samples that the mean is four standard errors from 0.
What to do     bias=True in this layer, or subtract the mean of targets or inputs.
When it errs   Functions that are known to go through the origin and are all positive, such as norms of vectors.
References     Goodfellow, Bengio, Courville 2016, "Deep Learning", section 5.7 (the bias of an affine function); LeCun et
               al. 1998, "Efficient BackProp", section 4.3 (centred inputs); Grünbaum 1960, "Partitions of mass-distributions
               and of convex bodies by hyperplanes" (a half-space through the mean holds 1 / e at least: odd functions).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from weighbridge.diagnosis import Finding, ValueEvidence
from weighbridge.diagnosis.affine import (
    ODD,
    constants_before,
    has_own_bias,
    is_linear_before,
    last_layer,
    runs_itself,
    weight_of,
)
from weighbridge.diagnosis.graphrule import BEFORE, GraphRule, depth, module_of
from weighbridge.diagnosis.rules.raw_input_scale import is_normed
from weighbridge.diagnosis.tensors import in_code
from weighbridge.firstpass import FirstPass, Scale, Start
from weighbridge.format import number
from weighbridge.lossgraph import Graph

# Squared mean by variance. Of a linear function w.x of d independent inputs it is at most d times the inputs' own: (w.m)^2 <=
# |w|^2 |m|^2 (Cauchy, Schwarz), and its variance is |w|^2 s^2. Twice that, as inputs are somewhat dependent; LINEAR at least.
TIMES_INPUTS: Final = 2.0
LINEAR: Final = 0.1
HOMOGENEOUS: Final = 4.0  # |x|, the largest such function of one number that lies around 0, has 1.75
ANY: Final = 9.0  # three deviations
# At the utmost an odd function is the sign of w.x, whose mean is 2 P(w.x > 0) - 1: of inputs with a mean of 0 and a log-concave
# density at most 1 - 2 / e (Gruenbaum 1960), a squared mean of 0.075 of the variance. Others can be more askew, hence far more.
ODD_ONES: Final = 1.0
CENTRED: Final = 4.0  # squared mean over that of a mean of so many samples: two standard errors
FAR: Final = 6.0  # times the rms: rare large numbers are as good as a constant
INPUTS: Final = 9.0  # images from 0 to 1, which are trained so, have about 3.5
CERTAIN: Final = 16.0  # four standard errors


class MissingBias(GraphRule):
    id, title = "missing-bias", "A layer needs the bias that it does not have"
    severity, certainty, since = "warning", "test", "0.1"
    causes = (
        "stalled-loss",
        "exploding-weights",
        "dead-units",
        "low-learning-rate",
    )
    experiment = "Give the layer its bias and train as long: if the loss ends where it does now, it needs none."

    def judge(self, passes: Sequence[FirstPass]) -> Iterator[Finding]:
        for first in passes:
            for start in first.starts:
                yield from _of_targets(first, start)
            for scale in first.scales:
                yield from _of_inputs(first, scale)


def _of_targets(first: FirstPass, start: Start) -> Iterator[Finding]:
    layer, has_bias = last_layer(first.graph, start.node)
    offset, rows = _offset(start)
    if layer is None or has_bias or not rows * offset > CERTAIN:
        return
    limit = _limit(first, layer)
    if offset > limit:
        known = f"a mean of {number(start.target_mean)}" if start.target_mean == start.target_mean else "a mean"
        message = f"Targets have {known} far from 0, and {_code(first.graph, layer)}, which gives the predictions, has no bias."
        yield _finding(first, layer, message, offset, limit, rows, "targets")


def _offset(start: Start) -> tuple[float, int]:
    """Squared mean of the targets by their variance, and over how many; of yes and no around a half, which logits of 0 give."""
    if start.kind == "squared error":
        return start.offset, start.rows
    is_binary = start.kind == "binary cross-entropy" and start.target_std > 0
    return ((start.target_mean - 0.5) / start.target_std) ** 2 if is_binary else math.nan, start.samples


def _limit(first: FirstPass, layer: int) -> float:
    """From where on the targets' mean cannot, or can hardly, come about without the bias."""
    if constants_before(first.graph, layer):
        is_odd = bool(first.scales) and all(map(_is_even, first.scales)) and not constants_before(first.graph, layer, ODD)
        return ODD_ONES if is_odd else ANY
    if any(scale.constants for scale in first.scales):  # a column of ones is a bias
        return math.inf
    reach = [scale.features * scale.mean_power / scale.variance for scale in first.scales if scale.variance > 0]
    is_linear = len(reach) == 1 and is_linear_before(first.graph, layer)
    return max(LINEAR, TIMES_INPUTS * reach[0]) if is_linear else HOMOGENEOUS


def _is_even(scale: Scale) -> bool:
    """Do these inputs lie about as far on one side of 0 as on the other?"""
    is_centred = scale.samples * scale.mean_power <= CENTRED * scale.variance
    return is_centred and not scale.constants and scale.largest <= FAR * scale.rms


def _of_inputs(first: FirstPass, scale: Scale) -> Iterator[Finding]:
    if (
        runs_itself(first, scale.node)
        or has_own_bias(first.graph, scale.node)
        or _is_shifted(first.graph, scale.node)
        or is_normed(first.graph, scale.node)
    ):
        return
    if scale.constants or not scale.mean_power > INPUTS * scale.variance or scale.samples < CERTAIN:
        return
    ratio = scale.mean_power / scale.variance if scale.variance else float("inf")
    message = (
        f"The inputs lie far from 0 for their spread, and {_code(first.graph, scale.node)}, which takes them, has no bias."
    )
    yield _finding(first, scale.node, message, ratio, INPUTS, scale.samples, "inputs")


def _is_shifted(graph: Graph, index: int) -> bool:
    """Is something added to what the layer gives?"""
    return any(graph.nodes[user].op in ("Add", "Sub") for user, _ in graph.users[index])


def _code(graph: Graph, layer: int) -> str:
    name = weight_of(graph, layer)
    return in_code(module_of(name) or graph.nodes[layer].module)


def _finding(first: FirstPass, layer: int, message: str, ratio: float, limit: float, rows: int, what: str) -> Finding:
    evidence = (
        ValueEvidence(f"squared mean of the {what} by their variance", ratio, limit=limit),
        ValueEvidence("samples", float(rows)),
    )
    name = weight_of(first.graph, layer)
    place, code = module_of(name) or first.graph.nodes[layer].module, _code(first.graph, layer)
    fix = f"Give {code} a bias (bias=True), or subtract the mean of the {what} of the training set."
    return Finding(place, BEFORE, BEFORE, message, evidence, fix, depth=depth(first, layer))
