"""Targets or inputs lie off centre, and the layer that would take it up has no bias.

Symptom        The loss stays above what a constant would reach, or comes down slowly while weights grow to imitate a
               constant.
How it decides On the first batch. Targets of a squared error (Huber, absolute error): the output layer has no bias, and the
               squared mean of the targets is above a multiple of their variance: LINEAR where all in front is linear and
               the inputs are centred, so that the mean of the output is 0 (a proof); HOMOGENEOUS where nothing in front can
               make a constant either; ANY where a bias further in front could be bent into one. Inputs: the first layer has
               no bias, no norm follows, no feature is constant, and the squared means of the features sum to more than
               INPUTS times their variances. At least CERTAIN standard errors squared, of the mean's own.
What to do     bias=True in this layer, or subtract the mean of targets or inputs.
When it errs   Functions that are known to go through the origin and are all positive, such as norms of vectors.
References     Goodfellow, Bengio, Courville 2016, "Deep Learning", section 5.7 (the bias of an affine function); LeCun et
               al. 1998, "Efficient BackProp", section 4.3 (centred inputs).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from weighbridge.diagnosis import Finding, ValueEvidence
from weighbridge.diagnosis.affine import constants_before, has_own_bias, is_linear_before, last_layer, weight_of
from weighbridge.diagnosis.graphrule import BEFORE, GraphRule, depth, module_of
from weighbridge.diagnosis.rule import Certainty
from weighbridge.diagnosis.rules.raw_input_scale import is_normed
from weighbridge.diagnosis.tensors import in_code
from weighbridge.firstpass import FirstPass, Scale, Start
from weighbridge.format import number
from weighbridge.lossgraph import Graph

# Squared mean by variance. Without a bias so much of the second moment is out of reach for a linear function of centred inputs.
LINEAR: Final = 0.1
CENTRED: Final = 0.01  # and inputs that are off by less than a tenth of a deviation cannot make up for it
HOMOGENEOUS: Final = 4.0  # |x|, the largest such function of one number that lies around 0, has 1.75
ANY: Final = 9.0  # three deviations
INPUTS: Final = 9.0  # images from 0 to 1, which are trained so, have about 3.5
CERTAIN: Final = 16.0  # four standard errors


class MissingBias(GraphRule):
    id, title = "missing-bias", "A layer needs the bias that it does not have"
    severity, certainty, since = "warning", "test", "0.1"

    def judge(self, passes: Sequence[FirstPass]) -> Iterator[Finding]:
        for first in passes:
            for start in first.starts:
                yield from _of_targets(first, start)
            for scale in first.scales:
                yield from _of_inputs(first, scale)


def _of_targets(first: FirstPass, start: Start) -> Iterator[Finding]:
    layer, has_bias = last_layer(first.graph, start.node)
    if start.kind != "squared error" or layer is None or has_bias or not start.rows * start.offset > CERTAIN:
        return
    limit, certainty = _limit(first, layer)
    if start.offset > limit:
        known = f"a mean of {number(start.target_mean)}" if start.target_mean == start.target_mean else "a mean"
        message = f"Targets have {known} far from 0, and {_code(first.graph, layer)}, which gives the predictions, has no bias."
        yield _finding(first, layer, message, start.offset, limit, start.rows, certainty, "targets")


def _limit(first: FirstPass, layer: int) -> tuple[float, Certainty]:
    is_centred = all(scale.mean_power <= CENTRED * scale.variance for scale in first.scales)
    if is_linear_before(first.graph, layer) and is_centred and first.scales and not constants_before(first.graph, layer):
        return LINEAR, "proof"
    return (ANY, "test") if constants_before(first.graph, layer) else (HOMOGENEOUS, "test")


def _of_inputs(first: FirstPass, scale: Scale) -> Iterator[Finding]:
    if has_own_bias(first.graph, scale.node) or _is_shifted(first.graph, scale.node) or is_normed(first.graph, scale.node):
        return
    if scale.constants or not scale.mean_power > INPUTS * scale.variance or scale.samples < CERTAIN:
        return
    ratio = scale.mean_power / scale.variance if scale.variance else float("inf")
    message = (
        f"The inputs lie far from 0 for their spread, and {_code(first.graph, scale.node)}, which takes them, has no bias."
    )
    yield _finding(first, scale.node, message, ratio, INPUTS, scale.samples, "test", "inputs")


def _is_shifted(graph: Graph, index: int) -> bool:
    """Is something added to what the layer gives?"""
    return any(graph.nodes[user].op in ("Add", "Sub") for user, _ in graph.users[index])


def _code(graph: Graph, layer: int) -> str:
    name = weight_of(graph, layer)
    return in_code(module_of(name) or graph.nodes[layer].module)


def _finding(
    first: FirstPass, layer: int, message: str, ratio: float, limit: float, rows: int, certainty: Certainty, what: str
) -> Finding:
    evidence = (
        ValueEvidence(f"squared mean of the {what} by their variance", ratio, limit=limit),
        ValueEvidence("samples", float(rows)),
    )
    name = weight_of(first.graph, layer)
    place, code = module_of(name) or first.graph.nodes[layer].module, _code(first.graph, layer)
    fix = f"Give {code} a bias (bias=True), or subtract the mean of the {what} of the training set."
    return Finding(place, BEFORE, BEFORE, message, evidence, fix, certainty=certainty, depth=depth(first, layer))
