"""Layers of which every unit is dead at the start.

All units are 0 for the whole batch, and the gradient by what the layer gives is exactly 0: nothing up to the layer learns from
this batch. How often its units may fire on other data is bounded by the rule of three, as in the rule dead-units: from
EXPOSURES units times samples on it is a warning, below that a note.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Final

from weighbridge.diagnosis import Finding, ValueEvidence
from weighbridge.diagnosis.graphrule import BEFORE
from weighbridge.diagnosis.rules.dead_units import EXPOSURES, SAMPLES, DeadUnits
from weighbridge.diagnosis.tensors import in_code
from weighbridge.firstpass import FirstPass
from weighbridge.format import count, counted
from weighbridge.preflight.records import Layer

RULE: Final = DeadUnits.id


def findings(first: FirstPass, layers: Sequence[Layer]) -> Iterator[Finding]:
    """One per layer with weights. Residuals around it, and frozen layers, are excused."""
    trainable = {one.module for one in first.parameters if one.is_trainable}
    for depth, one in enumerate(layers):
        if one.dead_share == 1 and one.gradient_rms == 0 and one.calls == 1 and one.module in trainable:
            yield _finding(one, depth / len(layers))


def _finding(one: Layer, depth: float) -> Finding:
    samples = one.output_shape[0]
    units = one.output_shape[1 if one.kind.startswith(("Conv", "BatchNorm")) else -1]
    is_certain = samples >= SAMPLES and samples * units >= EXPOSURES
    message = (
        f"All {counted(units, 'unit')} of {in_code(one.module)} are 0 for all {count(samples)} samples behind their ReLU, and "
        "the gradient stops there: nothing up to this layer learns from this batch."
    )
    evidence = (
        ValueEvidence("share of dead units", 1.0),
        ValueEvidence("rms of the gradient by what the layer gives", 0.0),
        ValueEvidence("samples", samples),
    )
    fix = f"nn.init.zeros_({in_code(one.module)}.bias), smaller weights, another seed for a small network, or LeakyReLU."
    told = Finding(one.module, BEFORE, BEFORE, message, evidence, fix, RULE, experiment=DeadUnits.experiment, depth=depth)
    return dataclasses.replace(
        told, severity="warning" if is_certain else "note", certainty="test" if is_certain else "heuristic"
    )
