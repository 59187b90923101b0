"""The loss before training is far above that of a predictor that knows nothing.

Symptom        The first steps only shrink the outputs; the loss falls from a great height, then begins to learn (a hockey
               stick).
How it decides On the first batch. Cross-entropy: above TIMES_TRIVIAL times ln C, and logits with a standard deviation above
               LEAST_STD within a sample. Squared error: above TIMES_VARIANCE times the variance of the targets, and
               predictions spread as far above them. In both the last layer makes this of inputs that are LEAST_GAIN times
               smaller (raw inputs and wide middle layers have rules of their own). Always by more than ERRORS standard
               errors of the mean loss, over LEAST_SAMPLES samples or more. Predictions that are no wider spread but lie
               elsewhere: where the targets lie around 0 (mean within their deviation), it is the model that begins far off;
               targets that only lie far from 0 are a note: the last bias has to learn their mean. Yes and no: logits that
               differ by less than half of what the loss is too high, so that their constant alone makes it.
What to do     Look at the inputs' scale, and start the last layer small.
When it errs   Pretrained models whose classes were put in another order. A last layer that is tied to an embedding is a
               note; so is a model part of which is frozen: what was trained before has no start of its own.
References     Karpathy 2019, "A Recipe for Training Neural Networks" ("verify loss @ init", "init well").
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from weighbridge.diagnosis import Finding, ValueEvidence
from weighbridge.diagnosis.affine import weight_of
from weighbridge.diagnosis.graphrule import BEFORE, GraphRule
from weighbridge.diagnosis.rule import Severity
from weighbridge.diagnosis.tensors import in_code
from weighbridge.firstpass import FirstPass, Start
from weighbridge.format import number
from weighbridge.lossgraph import AFFINE

# Logits of standard deviation s cost about s^2/2 more than ln C: twice ln C are logits of a standard deviation of sqrt(2 ln C).
# No usual initialisation makes them.
TIMES_TRIVIAL: Final = 2.0
ERRORS: Final = 4.0  # standard errors of the mean loss; one normal sample in 30,000 is farther out
LEAST_STD: Final = 2.0  # the second sign: predictions that are spread widely themselves
LEAST_GAIN: Final = 2.0  # by the last layer: usual ones have 0.6 (uniform in 1/sqrt(inputs)) to 1.4 (He et al. 2015)
TIMES_VARIANCE: Final = 10.0  # squared error, where targets have no natural unit
LEAST_SAMPLES: Final = 8
FAR: Final = 2.0  # deviations of the logits by which a constant is beyond what their spread could cost
AT_THE_END: Final = 0.999  # of the forward pass


class HighInitialLoss(GraphRule):
    id, title = "high-initial-loss", "The loss begins far above that of a guess"
    severity, certainty, since = "warning", "test", "0.1"
    causes = ("exploding-gradient", "wrong-initial-scale")
    experiment = "Divide the last layer's weights by ten at the start: if the loss ends where it does now, it cost nothing."

    def judge(self, passes: Sequence[FirstPass]) -> Iterator[Finding]:
        for first, start in [(one, start) for one in passes for start in one.starts]:
            if start.samples < LEAST_SAMPLES or not start.trivial > 0:
                continue
            is_made_here = start.prediction_std > LEAST_GAIN * start.input_rms  # NaN: not known
            if "cross-entropy" in start.kind and _is_far(start, TIMES_TRIVIAL):
                if is_made_here and start.prediction_std > LEAST_STD:
                    yield _spread(first, start, "giving all classes the same")
                elif _is_constant(start):
                    yield _constant(first, start)
            elif start.kind == "squared error" and _is_far(start, TIMES_VARIANCE):
                if start.prediction_std**2 < start.target_std**2 * TIMES_VARIANCE:
                    yield _off_centre(first, start)
                elif is_made_here:
                    yield _spread(first, start, "the mean of the targets")


def _is_far(start: Start, times: float) -> bool:
    return start.loss > times * start.trivial and start.loss - start.trivial > ERRORS * start.error


def _is_constant(start: Start) -> bool:
    """Do logits of yes and no hardly differ, so that it is their mean that makes the loss?

    log(1 + e^z) - t z is convex and never above |z| + ln 2 for t in [0, 1], so a mean loss needs a mean |z| of its size.
    """
    is_of_targets = start.kind == "binary cross-entropy" and 0 <= start.target_mean <= 1
    return is_of_targets and start.prediction_std < (start.loss - start.trivial) / FAR


def _constant(first: FirstPass, start: Start) -> Finding:
    share = min(max(start.target_mean, 0.5 / start.samples), 1 - 0.5 / start.samples)
    message = (
        f"The loss starts at {number(start.loss)}; logits of 0 give {number(start.trivial)}. The logits differ by "
        f"{number(start.prediction_std)} only: the last layer starts with a constant that has to be unlearnt."
    )
    fix = f"{in_code(start.place)}.bias.data.fill_({math.log(share / (1 - share)):.3g}) gives the share of targets that are 1."
    return _finding(start, "note" if _is_pretrained(first) else "warning", message, fix)


def _spread(first: FirstPass, start: Start, what: str) -> Finding:
    place = in_code(start.place)
    message = (
        f"The loss starts at {number(start.loss)}; {what} gives {number(start.trivial)}. The predictions are spread too widely "
        f"(standard deviation {number(start.prediction_std)}): the first steps only undo this."
    )
    fix = f"Look at the inputs' scale, and start {place} small: nn.init.normal_({place}.weight, std=0.01)"
    return _finding(start, "note" if _is_tied(first, start) or _is_pretrained(first) else "warning", message, fix)


def _is_pretrained(first: FirstPass) -> bool:
    return not all(parameter.is_trainable for parameter in first.parameters)


def _is_tied(first: FirstPass, start: Start) -> bool:
    """Are the weights of the last layer an embedding, too? Its usual numbers are of deviation 1, and are soon unlearnt."""
    graph, index = first.graph, first.graph.behind(start.node)
    while index is not None and graph.nodes[index].op not in AFFINE:
        index = graph.behind(index)
    leaf = graph.leaves.get(weight_of(graph, index)) if index is not None else None
    return leaf is not None and any("Embedding" in graph.nodes[user].op for user, _ in graph.users[leaf])


def _off_centre(first: FirstPass, start: Start) -> Finding:
    bias = f"{in_code(start.place)}.bias.data"
    if abs(start.target_mean) <= start.target_std:
        message = (
            f"The loss starts at {number(start.loss)}; the mean of the targets gives {number(start.trivial)}. Targets lie "
            f"around {number(start.target_mean)}, and the predictions about {number(math.sqrt(start.loss))} away from them: "
            "the last layer starts with a constant that has to be unlearnt."
        )
        severity: Severity = "note" if _is_pretrained(first) else "warning"
        return _finding(
            start, severity, message, f"Start the last bias at the targets' mean: {bias}.fill_({start.target_mean:.4g})"
        )
    message = (
        f"The loss starts at {number(start.loss)}; the mean of the targets gives {number(start.trivial)}. Targets have a mean "
        f"of {number(start.target_mean)}, which the last bias has to learn first."
    )
    fix = f"Subtract the targets' mean, or start the last bias with it: {bias}.fill_({start.target_mean:.4g})"
    return _finding(start, "note", message, fix)


def _finding(start: Start, severity: Severity, message: str, fix: str) -> Finding:
    evidence = (
        ValueEvidence(f"mean {start.kind} at the start", start.loss, limit=start.trivial),
        ValueEvidence("its standard error", start.error),
        ValueEvidence("samples", start.samples),
        ValueEvidence("standard deviation of the predictions", start.prediction_std),
    )
    return Finding(start.place, BEFORE, BEFORE, message, evidence, fix, severity=severity, depth=AT_THE_END)
