"""A parameter has a gradient and a learning rate, and its optimizer does not change one element of it.

Symptom        A layer stays exactly as it was although it is in the optimizer and has gradients.
How it decides Exact, at PATIENCE recorded steps in a row: the gradient is finite and not 0, lr is not 0, no scaler left the
               step out, the update is 0 in every element, and the step is large enough for the dtype to hold: lr * min(1,
               max|g|) > SPACING * max|w|. What has moved before may only have come to rest: Adam divides by the root of
               what it remembers, at most the largest gradient so far, and its momentum may cancel out. There the least that
               the step can be, lr * REMEMBERED * max|g| / max(1, largest so far), must be so large. Or the step moves it, and
               it stands at the next one where it stood before, its sums alike to the last bit: somebody writes the old
               numbers back. Or an optimizer steps without one gradient, although the backward pass of that step has reached
               what the modules of its parameters give: they were zeroed in between. Or lr is 0 in all groups, from the first
               step on; for WAIT steps where a scheduler has another rate in store.
What to do     Look for an optimizer step that is undone or masked (a hook, a custom `step`, weights written back), and for
               a parameter whose storage was replaced after the optimizer was built.
When it errs   Optimizers with a step far smaller than lr times the gradient (Adam with a huge epsilon) may round to
               nothing. Those that stop by themselves (STOPPING) are judged until their first update only.
References     Kingma & Ba 2015, "Adam", section 2.1 (size of a step); Jiang et al. 2025 (TrainCheck): parameters that
               silently do not change. IEEE 754-2019, binary32: spacing 2^-23.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, TableEvidence, ValueEvidence
from weighbridge.diagnosis.rule import Severity
from weighbridge.diagnosis.streaks import Streaks
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.taken import taken
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.diagnosis.unapplied import SUMS, Undone, gone
from weighbridge.format import counted, number

PATIENCE = 3  # a warm-up from 0 has one update of 0, at its first step
WAIT = 10  # steps with a rate of 0: a warm-up from 0 that is stepped once an epoch wastes the first one. PATIENCE where no
# scheduler has a rate in store
SPACING = {"float64": 2.0**-51, "float32": 2.0**-22, "bfloat16": 2.0**-6, "float16": 2.0**-9}  # twice that of the dtype
REMEMBERED = 0.1  # 1 - beta1: what one gradient adds to a momentum that may otherwise cancel out
STOPPING = ("LBFGS",)  # ends at its tolerance_grad or tolerance_change, or where its line search finds nothing better


@dataclass(frozen=True, slots=True)
class _Way:
    """How the gradient comes to nothing, and what to do."""

    what: str
    fix: str
    severity: Severity = "error"
    depth: float = 2.0


_MASKED = _Way(
    "had a gradient and an update of exactly 0 in every element",
    "Look for what undoes or masks the optimizer's step: a hook, a custom step(), or a parameter whose storage was replaced "
    "after the optimizer was built.",
)
_WRITTEN_BACK = _Way(
    "were moved by the optimizer, and stood at its next step exactly where they had stood before",
    "Look for what writes the old numbers back after optimizer.step(): load_state_dict(), copy_(), an average of weights "
    "that is swapped in and never out.",
    "warning",  # a search along a line that finds nothing better does this on purpose
    2.5,
)
_ZEROED = _Way(
    "had no gradient when the optimizer stepped, although the backward pass had reached them",
    "Call optimizer.zero_grad() before loss.backward() or after optimizer.step(), not between the two.",
    depth=1.95,
)
_NO_RATE = _Way(
    "had a gradient and a learning rate of 0",
    "Set the learning rate, optimizer.param_groups[0]['lr'] = 1e-3, and look for what made it 0: a schedule that is stepped "
    "once an epoch and begins at 0, or a number that was read as an integer.",
    "warning",
    -0.6,
)


class GradientNotApplied(Rule):
    id, title = "gradient-not-applied", "A gradient changes nothing"
    severity, certainty, since = "error", "proof", "0.1"
    needs = Needs(
        parameter=[*SUMS, "nonfinite_count"],
        gradient=["abs_max", "nonfinite_count"],
        update=["zero_fraction"],
        activation_gradient=["rms"],
        tables=["steps", "groups"],
    )
    causes = ("stalled-loss",)
    experiment = "Compare the parameter before and after one optimizer.step(): a single element that differs proves this wrong."

    def __init__(self) -> None:
        self.streaks, self.undone, self.gone, self.unpaid = (Streaks(n) for n in (PATIENCE, PATIENCE, PATIENCE, WAIT))
        self.unset = Streaks(PATIENCE)
        self.course, self.has_had_a_rate = Undone(), set[int]()  # optimizers
        self.has_moved, self.largest = np.zeros(0, bool), np.zeros(0)

    def start(self, tensors: Tensors) -> None:
        self.tensors = tensors
        for one in (self.streaks, self.undone, self.gone, self.unpaid, self.unset, self.course):
            one.start(tensors)
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
            yield from self._tell(block, step, columns, self.streaks, _MASKED)
        for step, columns in self.undone.read(block, *self.course.read(block)):
            yield from self._tell(block, step, columns, self.undone, _WRITTEN_BACK)
        for step, columns in self.gone.read(block, *gone(block, self.tensors)):
            yield from self._tell(block, step, columns, self.gone, _ZEROED)
        holds, is_known = self._without_rate(block, rate)
        stored = [c for group in block.groups if (group.settings.get("initial_lr") or 0) > 0 for c in group.columns]
        is_stored = np.isin(np.arange(len(self.tensors)), stored)
        for streaks, mine in ((self.unset, ~is_stored), (self.unpaid, is_stored)):
            for step, columns in streaks.read(block, holds & mine, is_known):
                yield from self._tell(block, step, columns, streaks, _NO_RATE)

    def _without_rate(self, block: Block, rate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """bool [steps, tensors] twice: no group of the optimizer has had a rate so far, and whether that can be said."""
        is_known = ~np.isnan(block["update.zero_fraction"]) & (block["gradient.abs_max"] > 0)
        holds = rate == 0
        first: dict[int, int] = dict.fromkeys(self.has_had_a_rate, 0)  # row of the block from which on it has one
        for one in taken(block, skipped=True):
            if any(given != 0 for given in one.row["lr"] or (1.0,)):
                first.setdefault(one.optimizer, one.at)
        for group in block.groups:
            if group.optimizer in first:
                holds[first[group.optimizer] :, list(group.columns)] = False
        self.has_had_a_rate |= first.keys()
        return holds, is_known

    def _tell(self, block: Block, step: int, columns: np.ndarray, streaks: Streaks, way: _Way) -> Iterator[Finding]:
        at, rate = step - block.start, block.of_steps("lr")
        gradient, zeros = block["gradient.abs_max"], block["update.zero_fraction"]
        for place, mine in self.tensors.together(columns.tolist(), self.tensors.is_parameter):
            rows = [(float(gradient[at, c]), float(rate[at, c]), float(zeros[at, c])) for c in mine]
            named = tuple((self.tensors.name(c), *row) for c, row in zip(mine, rows, strict=True))
            largest = max(row[0] for row in rows)
            size = f" (largest gradient {number(largest)})" if largest > 0 else ""
            where = place or "the model"
            yield Finding(
                severity=way.severity,
                place=place,
                first_step=int(streaks.first[mine].min()),
                told_step=step,
                message=f"{counted(len(mine), 'parameter')} of {where} {way.what}{size}, {streaks.patience} steps in a row.",
                evidence=(
                    ValueEvidence("steps in a row", float(streaks.patience)),
                    TableEvidence(f"at step {step}", ("parameter", "largest |gradient|", "lr", "zeros in update"), named),
                ),
                fix=way.fix,
                depth=way.depth,
            )

    def lacking(self) -> tuple[Outcome, str] | None:
        if not self.streaks.is_enough:
            return Outcome.NOT_ENOUGH_DATA, f"fewer than {PATIENCE} steps with a gradient, a learning rate and an update"
        return None
