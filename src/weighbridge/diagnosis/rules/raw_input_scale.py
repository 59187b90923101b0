"""The inputs are of a scale that initialisations are not made for.

Symptom        Large first outputs: saturated or dead units, a high first loss, a learning rate that must be tiny; or tiny
               inputs of which the first layer's bias hides everything.
How it decides On the first batch, at the layers that take the batch's numbers as they are: the rms of a feature is above
               LARGEST_RMS, and the layer's weights make of the inputs an output with an rms above LARGEST_FIRST_OUTPUT. Or
               no number is above SMALLEST, and the output of the weights is below that, too. A layer behind which a norm
               comes at once, and one that takes what another module gives, is not looked at.
What to do     Standardise with the mean and deviation of the training set, or divide by the known range (images: 255).
When it errs   Inputs that are scaled by a learnt layer later on.
References     LeCun et al. 1998, "Efficient BackProp", section 4.3 (inputs of mean 0 and variance 1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from weighbridge.diagnosis import INPUT, Finding, ValueEvidence
from weighbridge.diagnosis.graphrule import BEFORE, GraphRule
from weighbridge.diagnosis.tensors import in_code
from weighbridge.firstpass import FirstPass, Scale
from weighbridge.format import number
from weighbridge.lossgraph import NORMS, RESHAPES, Graph

LARGEST_RMS: Final = 20.0  # of a feature; inputs of rms 1 are what initialisations are made for
LARGEST_FIRST_OUTPUT: Final = 5.0  # the second sign: what the first layer makes of them
SMALLEST: Final = 0.02  # nothing of a batch is larger: rms below 0.01, where design allows 0.05; one-hot inputs have ones


class RawInputScale(GraphRule):
    id, title = "raw-input-scale", "Inputs of a raw scale"
    severity, certainty, since = "warning", "heuristic", "0.1"
    causes = (
        "high-initial-loss",
        "wrong-initial-scale",
        "exploding-activation",
        "exploding-gradient",
        "exploding-weights",
        "high-learning-rate",
        "saturated-units",
        "dead-units",
        "vanishing-gradient",
        "collapsed-output",
        "stalled-loss",
        "growing-loss",
        "loss-spike",
        "nonfinite-origin",
        "low-learning-rate",
    )
    experiment = (
        "Standardise the inputs and train again with the same seed: if what follows is still found, their scale is not why."
    )

    def judge(self, passes: Sequence[FirstPass]) -> Iterator[Finding]:
        for first in passes:
            for scale in first.scales:
                if is_normed(first.graph, scale.node):
                    continue
                if scale.largest_rms > LARGEST_RMS and scale.output_rms > LARGEST_FIRST_OUTPUT:  # NaN: neither
                    yield _finding(scale, "weights are initialised for inputs of about 1", LARGEST_RMS)
                elif 0 < scale.largest < SMALLEST and scale.output_rms < SMALLEST:
                    yield _finding(scale, "they disappear beside a bias, and gradients are as small", SMALLEST)


def is_normed(graph: Graph, index: int) -> bool:
    """Does a norm follow at once?"""
    return any(
        graph.nodes[user].op in NORMS or (graph.nodes[user].op in {*RESHAPES, "Add"} and is_normed(graph, user))
        for user, _ in graph.users[index]
    )


def _finding(scale: Scale, why: str, limit: float) -> Finding:
    return Finding(
        place=INPUT,
        first_step=BEFORE,
        told_step=BEFORE,
        message=f"{in_code(scale.place)} gets inputs with an rms of {number(scale.rms)} (largest feature "
        f"{number(scale.largest_rms)}), of which its weights make {number(scale.output_rms)}: {why}.",
        evidence=(
            ValueEvidence("largest rms of a feature", scale.largest_rms, limit=limit),
            ValueEvidence("largest absolute value", scale.largest),
            ValueEvidence("rms that the first weights make of them", scale.output_rms),
            ValueEvidence("samples", scale.samples),
        ),
        fix="Standardise the inputs with the mean and deviation of the training set: x = (x - mean) / std; images: x / 255.",
        depth=-1.0,  # before all modules
    )
