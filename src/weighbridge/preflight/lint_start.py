"""What the first batch shows: a loss far above that of a predictor that knows nothing, inputs of raw scale."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from weighbridge.diagnosis import INPUT, Finding, ValueEvidence
from weighbridge.format import number
from weighbridge.preflight.finding import finding, in_code
from weighbridge.preflight.records import Start, Trial

# A loss of twice ln C is what logits of a standard deviation of sqrt(2 ln C) give: no usual initialisation makes them. The
# uniform predictor as the yardstick: Karpathy 2019, "A Recipe for Training Neural Networks" ("verify loss @ init").
TIMES_TRIVIAL: Final = 2.0
ERRORS: Final = 4.0  # standard errors of the mean loss; one normal sample in 30,000 is farther out
LEAST_STD: Final = 2.0  # the second sign: predictions that are spread widely themselves
TIMES_VARIANCE: Final = 10.0  # squared error, where targets have no natural unit
LEAST_SAMPLES: Final = 8
AT_THE_END: Final = 1e9  # depth of what the loss shows: after all operations of the forward pass
# Networks are initialised for inputs of rms 1 (LeCun et al. 1998, "Efficient BackProp", section 4.3).
LARGEST_RMS: Final = 20.0
LARGEST_FIRST_OUTPUT: Final = 5.0  # the second sign: what the first layer makes of them


def high_loss(trial: Trial) -> Iterator[Finding]:
    """The loss before training is far above that of the trivial predictor, and predictions are the reason."""
    for start in trial.starts:
        if start.samples < LEAST_SAMPLES or start.trivial <= 0:
            continue
        if start.kind == "cross-entropy" and _is_far(start, TIMES_TRIVIAL) and start.prediction_std > LEAST_STD:
            yield _spread(start, "giving all classes the same")
        elif start.kind == "squared error" and _is_far(start, TIMES_VARIANCE):
            spread = start.prediction_std**2 > start.target_std**2 * TIMES_VARIANCE if start.target_std else False
            yield _spread(start, "the mean of the targets") if spread else _off_centre(start)


def _is_far(start: Start, times: float) -> bool:
    return start.loss > times * start.trivial and start.loss - start.trivial > ERRORS * start.error


def _spread(start: Start, what: str) -> Finding:
    place = start.place
    message = (
        f"The loss starts at {number(start.loss)}; {what} gives {number(start.trivial)}. The predictions are spread too widely "
        f"(standard deviation {number(start.prediction_std)}): the first steps only undo this."
    )
    fix = f"Look at the inputs' scale, and start {in_code(place)} small: nn.init.normal_({in_code(place)}.weight, std=0.01)"
    return finding("warning", "test", place, message, fix, *_evidence(start), depth=AT_THE_END)


def _off_centre(start: Start) -> Finding:
    message = (
        f"The loss starts at {number(start.loss)}; the mean of the targets gives {number(start.trivial)}. Targets have a mean "
        f"of {number(start.target_mean)}, which the last bias has to learn first."
    )
    bias = f"{in_code(start.place)}.bias.data.fill_({start.target_mean:.4g})"
    fix = f"Subtract the targets' mean, or start the last bias with it: {bias}"
    return finding("note", "test", start.place, message, fix, *_evidence(start), depth=AT_THE_END)


def _evidence(start: Start) -> tuple[ValueEvidence, ...]:
    return (
        ValueEvidence(f"mean {start.kind} at the start", start.loss, limit=start.trivial),
        ValueEvidence("its standard error", start.error),
        ValueEvidence("samples", start.samples),
        ValueEvidence("standard deviation of the predictions", start.prediction_std),
    )


def raw_scale(trial: Trial) -> Iterator[Finding]:
    """Inputs far larger than what initialisations are made for, and a first layer whose output is too large for it.

    A first layer that is a norm, or is followed by one at once, sees to the scale itself and is not looked at.
    """
    scale = trial.scale
    if scale is None or not (scale.largest_rms > LARGEST_RMS and scale.output_rms > LARGEST_FIRST_OUTPUT):  # NaN: neither
        return
    message = (
        f"{in_code(scale.place)} gets inputs with an rms of {number(scale.rms)} (largest feature {number(scale.largest_rms)}), "
        f"and gives {number(scale.output_rms)}: weights are initialised for inputs of about 1."
    )
    fix = "Standardise the inputs with the mean and deviation of the training set: x = (x - mean) / std; images: x / 255."
    evidence = (
        ValueEvidence("largest rms of a feature", scale.largest_rms, limit=LARGEST_RMS),
        ValueEvidence("rms of the first layer's output", scale.output_rms, limit=LARGEST_FIRST_OUTPUT),
        ValueEvidence("samples", scale.samples),
    )
    yield finding("warning", "heuristic", INPUT, message, fix, *evidence, depth=-1.0)  # before all modules
