"""A parameter has a gradient and a learning rate, and its optimizer does not change one element of it.

Symptom        A layer stays exactly as it was although it is in the optimizer and has gradients.
How it decides Exact, at PATIENCE recorded steps in a row: the gradient is finite and not 0, lr is not 0, no scaler left the
               step out, the update is 0 in every element, and the step is large enough for the dtype to hold: lr * min(1,
               max|g|) > SPACING * max|w|. What has moved before may only have come to rest: Adam divides by the root of
               what it remembers, at most the largest gradient so far, and its momentum may cancel out. There the least that
               the step can be, lr * REMEMBERED * max|g| / max(1, largest so far), must be so large.
What to do     Look for an optimizer step that is undone or masked (a hook, a custom `step`, weights written back), and for
               a parameter whose storage was replaced after the optimizer was built.
When it errs   Optimizers with a step far smaller than lr times the gradient (Adam with a huge epsilon) may round to
               nothing. Those that stop by themselves (STOPPING) are judged until their first update only.
References     Kingma & Ba 2015, "Adam", section 2.1 (size of a step); Jiang et al. 2025 (TrainCheck): parameters that
               silently do not change. IEEE 754-2019, binary32: spacing 2^-23.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, TableEvidence, ValueEvidence
from weighbridge.diagnosis.streaks import Streaks
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.format import counted, number

PATIENCE = 3  # a warm-up from 0 has one update of 0, at its first step
SPACING = {"float64": 2.0**-51, "float32": 2.0**-22, "bfloat16": 2.0**-6, "float16": 2.0**-9}  # twice that of the dtype
REMEMBERED = 0.1  # 1 - beta1: what one gradient adds to a momentum that may otherwise cancel out
STOPPING = ("LBFGS",)  # ends at its tolerance_grad or tolerance_change, or where its line search finds nothing better


class GradientNotApplied(Rule):
    id, title = "gradient-not-applied", "A gradient changes nothing"
    severity, certainty, since = "error", "proof", "0.1"
    needs = Needs(
        parameter=["abs_max"], gradient=["abs_max", "nonfinite_count"], update=["zero_fraction"], tables=["steps", "groups"]
    )
    causes = ("stalled-loss",)
    experiment = "Compare the parameter before and after one optimizer.step(): a single element that differs proves this wrong."

    def __init__(self) -> None:
        self.streaks = Streaks(PATIENCE)
        self.has_moved, self.largest = np.zeros(0, bool), np.zeros(0)

    def start(self, tensors: Tensors) -> None:
        self.tensors = tensors
        self.streaks.start(tensors)
        self.has_moved, self.largest = tensors.grown(self.has_moved), tensors.grown(self.largest)
        self.spacing = np.array([SPACING.get(t.dtype, np.inf) for t in tensors])

    def read(self, block: Block) -> Iterator[Finding]:
        gradient, update = block["gradient.abs_max"], block["update.zero_fraction"]
        rate = block.of_steps("lr")
        recorded = ~np.isnan(update) & (block["gradient.nonfinite_count"] == 0)
        recorded &= block.of_steps("skipped", 1.0) == 0
        moved = np.logical_or.accumulate(np.vstack([self.has_moved, update < 1]))
        self.has_moved = moved[-1]
        largest = np.fmax.accumulate(np.vstack([self.largest, gradient]))
        self.largest = largest[-1]
        step = rate * np.minimum(1.0, gradient)
        remembered = rate * gradient / np.maximum(1.0, largest[1:]) * REMEMBERED  # at the least, of what has moved
        recorded &= np.where(moved[:-1], remembered, step) > self.spacing * block["parameter.abs_max"]
        for group in block.groups:
            if any(kind in group.kind for kind in STOPPING):
                recorded[:, list(group.columns)] &= ~moved[:-1, list(group.columns)]
        for step, columns in self.streaks.read(block, update == 1, recorded):
            at = step - block.start
            for place, mine in self.tensors.together(columns.tolist(), self.tensors.is_parameter):
                rows = [(self.tensors.name(c), float(gradient[at, c]), float(rate[at, c]), 1.0) for c in mine]
                yield Finding(
                    place=place,
                    first_step=int(self.streaks.first[mine].min()),
                    told_step=step,
                    message=f"{counted(len(mine), 'parameter')} of {place or 'the model'} had a gradient (largest "
                    f"{number(max(row[1] for row in rows))}) and an update of exactly 0 in every element, "
                    f"{PATIENCE} steps in a row.",
                    evidence=(
                        ValueEvidence("share of elements with an update of 0", 1.0),
                        TableEvidence(
                            f"at step {step}", ("parameter", "largest |gradient|", "lr", "zeros in update"), tuple(rows)
                        ),
                    ),
                    fix="Look for what undoes or masks the optimizer's step: a hook, a custom step(), weights that are written "
                    "back, or a parameter whose storage was replaced after the optimizer was built.",
                    depth=2.0,
                )

    def lacking(self) -> tuple[Outcome, str] | None:
        if not self.streaks.is_enough:
            return Outcome.NOT_ENOUGH_DATA, f"fewer than {PATIENCE} steps with a gradient, a learning rate and an update"
        return None
