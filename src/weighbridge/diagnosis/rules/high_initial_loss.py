"""The loss before training is far above that of a predictor that knows nothing.

Symptom        The first steps only shrink the outputs; the loss falls from a great height, then begins to learn (a hockey stick).
How it decides On the first batch. Cross-entropy: above TIMES_TRIVIAL times ln C, and logits with a standard deviation above
               LEAST_STD within a sample. Squared error: above TIMES_VARIANCE times the variance of the targets, and predictions
               spread as far above them. Always by more than ERRORS standard errors of the mean loss, over LEAST_SAMPLES samples or
               more. Targets that only lie far from 0 are a note: the last bias has to learn their mean.
What to do     Look at the inputs' scale, and start the last layer small.
When it errs   Pretrained models whose classes were put in another order; losses weighted so that no class counts alike are
               judged without the weights.
References     Karpathy 2019, "A Recipe for Training Neural Networks" ("verify loss @ init", "init well").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from weighbridge.diagnosis import Finding, ValueEvidence
from weighbridge.diagnosis.graphrule import BEFORE, GraphRule
from weighbridge.diagnosis.rule import Severity
from weighbridge.diagnosis.tensors import in_code
from weighbridge.firstpass import FirstPass, Start
from weighbridge.format import number

# Logits of standard deviation s cost about s^2/2 more than ln C: twice ln C are logits of a standard deviation of sqrt(2 ln C).
# No usual initialisation makes them.
TIMES_TRIVIAL: Final = 2.0
ERRORS: Final = 4.0  # standard errors of the mean loss; one normal sample in 30,000 is farther out
LEAST_STD: Final = 2.0  # the second sign: predictions that are spread widely themselves
TIMES_VARIANCE: Final = 10.0  # squared error, where targets have no natural unit
LEAST_SAMPLES: Final = 8
AT_THE_END: Final = 0.999  # of the forward pass


class HighInitialLoss(GraphRule):
    id, title = "high-initial-loss", "The loss begins far above that of a guess"
    severity, certainty, since = "warning", "test", "0.1"

    def judge(self, passes: Sequence[FirstPass]) -> Iterator[Finding]:
        for start in (start for first in passes for start in first.starts):
            if start.samples < LEAST_SAMPLES or not start.trivial > 0:
                continue
            if "cross-entropy" in start.kind and _is_far(start, TIMES_TRIVIAL) and start.prediction_std > LEAST_STD:
                yield _spread(start, "giving all classes the same")
            elif start.kind == "squared error" and _is_far(start, TIMES_VARIANCE):
                spread = start.prediction_std**2 > start.target_std**2 * TIMES_VARIANCE
                yield _spread(start, "the mean of the targets") if spread else _off_centre(start)


def _is_far(start: Start, times: float) -> bool:
    return start.loss > times * start.trivial and start.loss - start.trivial > ERRORS * start.error


def _spread(start: Start, what: str) -> Finding:
    place = in_code(start.place)
    message = (
        f"The loss starts at {number(start.loss)}; {what} gives {number(start.trivial)}. The predictions are spread too widely "
        f"(standard deviation {number(start.prediction_std)}): the first steps only undo this."
    )
    fix = f"Look at the inputs' scale, and start {place} small: nn.init.normal_({place}.weight, std=0.01)"
    return _finding(start, "warning", message, fix)


def _off_centre(start: Start) -> Finding:
    message = (
        f"The loss starts at {number(start.loss)}; the mean of the targets gives {number(start.trivial)}. Targets have a mean "
        f"of {number(start.target_mean)}, which the last bias has to learn first."
    )
    bias = f"{in_code(start.place)}.bias.data.fill_({start.target_mean:.4g})"
    return _finding(start, "note", message, f"Subtract the targets' mean, or start the last bias with it: {bias}")


def _finding(start: Start, severity: Severity, message: str, fix: str) -> Finding:
    evidence = (
        ValueEvidence(f"mean {start.kind} at the start", start.loss, limit=start.trivial),
        ValueEvidence("its standard error", start.error),
        ValueEvidence("samples", start.samples),
        ValueEvidence("standard deviation of the predictions", start.prediction_std),
    )
    return Finding(start.place, BEFORE, BEFORE, message, evidence, fix, severity=severity, depth=AT_THE_END)
