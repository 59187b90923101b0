"""NaN or infinity arises here first, and training is harmed by it.

Symptom        The loss is NaN; afterwards all weights are.
How it decides Exact. The run notes which outputs and gradients were not finite at each step, in the order in which the step
               met them. In the first step in which the loss, a gradient that was used or a parameter is not finite, the
               first of them is the origin: a parameter before the step, the batch, an output (forward), the loss, a
               gradient (backward), an update.
What to do     Forward: look at what this module divides by, takes the log or root of, or exponentiates; in float16, at its
               size. Backward: roots, norms and divisions at 0 have no finite derivative (`torch.sqrt(x + eps)`). Batch:
               clean the data.
When it errs   Not finite on purpose and harmless (masks of -infinity) is known by earlier steps without harm; in the very
               first step it is not. Overflows with which a GradScaler searches its scale are excused, up to EXCUSED in a
               row.
References     IEEE 754-2019, section 6; PyTorch documentation, torch.autograd.detect_anomaly, torch.amp.GradScaler.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from weighbridge.diagnosis import INPUT, Finding, Needs, Outcome, Rule, TableEvidence, ValueEvidence
from weighbridge.diagnosis.evidence import Cell
from weighbridge.diagnosis.stream import Block, rows_by_step
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.format import counted
from weighbridge.records import Quantity

EXCUSED = 20  # halvings of a GradScaler's first scale, 65536: it is then below 1
SHOWN = 8
COUNTS = ("parameter.nonfinite_count", "gradient.nonfinite_count", "update.nonfinite_count")
# From finite numbers these make finite ones, forward and backward (as capture/modulekinds.py: they have no sentinel)
BOUNDED = frozenset(
    (
        *("ReLU", "ReLU6", "LeakyReLU", "RReLU", "ELU", "SELU", "CELU", "GELU", "SiLU", "Mish", "Softplus", "Softsign"),
        *("Tanh", "Sigmoid", "LogSigmoid", "Hardtanh", "Hardswish", "Hardsigmoid", "Softmax", "LogSoftmax"),
        *("Dropout", "Dropout1d", "Dropout2d", "MaxPool1d", "MaxPool2d", "AvgPool1d", "AvgPool2d"),
        *("AdaptiveAvgPool1d", "AdaptiveAvgPool2d"),
    )
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where it arises."""

    place: str
    what: str  # "the output of 3 (Linear)"
    when: str  # forward, backward, ...
    depth: float
    fix: str


class NonfiniteOrigin(Rule):
    id, title = "nonfinite-origin", "NaN or infinity arises"
    severity, certainty, since = "error", "proof", "0.1"
    is_event = True
    needs = Needs(
        parameter=["nonfinite_count"],
        gradient=["nonfinite_count"],
        update=["nonfinite_count"],
        tables=["steps", "calls"],
    )
    experiment = (
        "Run this step again with torch.autograd.set_detect_anomaly(True): it names the same operation, or this is wrong."
    )
    causes = (  # from then on all is NaN, or wild
        *("scaler-starvation", "gradient-not-applied", "lost-updates", "stalled-loss", "growing-loss", "high-learning-rate"),
        *("exploding-weights", "exploding-gradient", "exploding-activation", "dead-units", "saturated-units"),
        *("collapsed-output", "rank-collapse"),
    )

    def __init__(self) -> None:
        self.harmless: set[tuple[int, int]] = set()  # what was not finite before and did no harm
        self.run = 0  # steps that the scaler left out, in a row
        self.excused: Finding | None = None  # what the first of them would have said
        self.is_done = self.has_stepped = False

    def start(self, tensors: Tensors) -> None:
        self.tensors = tensors
        outputs = sorted((t.order, c) for c, t in enumerate(tensors) if t.is_output)
        self.forward = [c for _, c in outputs]  # in order of execution
        self.place = {c: i for i, c in enumerate(self.forward)}

    def read(self, block: Block) -> Iterator[Finding]:
        self.has_stepped |= bool(block.rows("steps"))
        if self.is_done:
            return
        counts = {name: np.nan_to_num(block[name]) for name in COUNTS}
        steps, calls = (
            rows_by_step(block.rows("steps")),
            rows_by_step(r for r in block.rows("calls") if r["nonfinite_call"] >= 0),
        )
        suspects = {block.start + int(i) for c in counts.values() for i in np.flatnonzero(c.any(axis=1))} | calls.keys()
        suspects |= {n for n, rows in steps.items() if any(r["skipped"] or not _is_finite(r["loss"]) for r in rows)}
        for step in sorted(suspects | steps.keys()):
            if step not in suspects:
                self._count(False)
                continue
            row = {name: c[step - block.start] for name, c in counts.items()}
            found = self._look(step, row, steps.get(step, []), sorted(calls.get(step, []), key=lambda r: r["place"]))
            if found is not None:
                self.is_done = True
                yield found
                return

    def _look(self, step: int, counts: Mapping[str, np.ndarray], rows: list[Any], calls: list[Any]) -> Finding | None:
        """One step with something in it that is not finite."""
        is_loss = any(not _is_finite(r["loss"]) for r in rows)
        is_skipped = any(r["skipped"] for r in rows)
        parameter, gradient, update = (counts[name] for name in COUNTS)
        calls = [c for c in calls if (c["tensor"], c["quantity"]) not in self.harmless and self._is_known(c)]
        is_forward = any(c["quantity"] == Quantity.ACTIVATION for c in calls)
        if not (is_loss or gradient.any() or parameter.any() or update.any()):
            self.harmless |= {(c["tensor"], c["quantity"]) for c in calls if not is_skipped}
            self._count(is_skipped)
            return None
        self._count(is_skipped)
        finding = self._finding(step, self._origin(parameter, gradient, update, calls, is_loss), counts, calls, rows)
        if is_skipped and not is_loss and not is_forward and not parameter.any() and not update.any():
            self.excused = self.excused or finding
            return _told_at(self.excused, step) if self.run > EXCUSED else None
        return finding

    def _is_known(self, call: Mapping[str, Any]) -> bool:
        """Is it of an output, or of the batch on its way in?"""
        is_batch = call["tensor"] < 0 and call["quantity"] == Quantity.ACTIVATION
        return is_batch or self.tensors.column.get(call["tensor"], -1) in self.place

    def _count(self, is_skipped: bool) -> None:
        self.run = self.run + 1 if is_skipped else 0
        self.excused = self.excused if is_skipped else None

    def _origin(
        self, parameter: np.ndarray, gradient: np.ndarray, update: np.ndarray, calls: list[Any], is_loss: bool
    ) -> Origin:
        if parameter.any():
            column = int(np.flatnonzero(parameter)[0])
            fix = "Look at what wrote it: a checkpoint, an initialisation, or weights changed between the steps."
            return Origin(self.tensors.name(column), f"the parameter {self.tensors.name(column)}", "before the step", -1.0, fix)
        forward = next((c for c in calls if c["quantity"] == Quantity.ACTIVATION), None)
        if forward is not None:
            return self._of_forward(forward)
        if is_loss:
            what = "the loss" if self.forward else "the loss (what modules give was not recorded)"
            fix = "All outputs are finite: look at the loss function, for log, division or exp of what it is given."
            return Origin("", what, "forward, in the loss", 0.99, fix)
        if calls or gradient.any():
            return self._of_backward(gradient, calls)
        column = int(np.flatnonzero(update)[0])
        fix = "The gradient is finite: look at the optimizer's settings (eps of 0, lr that is not finite) and its state."
        return Origin(self.tensors.name(column), f"the update of {self.tensors.name(column)}", "in the optimizer", 2.0, fix)

    def _of_forward(self, call: Mapping[str, Any]) -> Origin:
        column = self.tensors.column.get(call["tensor"], -1)
        if column < 0:
            return Origin(INPUT, "the batch", "before the first module", -0.9, "Look for NaN or infinity in the data set.")
        fix = (
            "Look at what this module divides by, takes the log or root of, or exponentiates; in float16, at its inputs' size."
        )
        return Origin(
            self.tensors.place_of(column), f"the output of {self._called(column)}", "forward", self._depth(column), fix
        )

    def _of_backward(self, gradient: np.ndarray, calls: list[Any]) -> Origin:
        """Backward runs from the last output to the first: the last of those with a bad gradient met it first."""
        flagged = {self.tensors.column[c["tensor"]] for c in calls if c["tensor"] in self.tensors.column}
        owners = {o for c in np.flatnonzero(gradient) for o in self.tensors.outputs_of(int(c))}
        known = [c for c in flagged | owners if c in self.place]
        if not known:
            column = int(np.flatnonzero(gradient)[-1])
            fix = "Look at the backward pass of what follows this parameter."
            return Origin(self.tensors.name(column), f"the gradient of {self.tensors.name(column)}", "backward", 1.5, fix)
        at = max(self.place[c] for c in known)
        last = self.forward[at]
        while at + 1 < len(self.forward) and self.tensors[self.forward[at + 1]].module in BOUNDED:
            at += 1
        after = self.forward[at + 1] if at + 1 < len(self.forward) else None
        culprit = last if after is None or self._has_parameters(after) else after
        between = f"{self._called(last)} and {self._called(after) if after is not None else 'the loss'}"
        fix = "Roots, norms, logs and divisions at 0 have no finite derivative: add a small eps inside them, or clamp first."
        what = f"the loss's gradient by the output of {self._called(last)}, that is between {between}"
        return Origin(self.tensors.place_of(culprit), what, "backward", 2.0 - self._depth(culprit), fix)

    def _has_parameters(self, output: int) -> bool:
        inside, model = self.tensors.owner(output), self.tensors[output].model
        return any(t.model == model and not t.is_output and t.name.startswith(f"{inside}.") for t in self.tensors)

    def _called(self, output: int) -> str:
        return f"{self.tensors.place_of(output) or 'the model'} ({self.tensors[output].module})"

    def _depth(self, output: int) -> float:
        return self.place.get(output, 0) / max(1, len(self.forward))

    def _finding(
        self, step: int, origin: Origin, counts: Mapping[str, np.ndarray], calls: list[Any], rows: list[Any]
    ) -> Finding:
        listed: list[tuple[Cell, ...]] = [
            (self._name(c), Quantity(c["quantity"]).word, c["nonfinite_call"]) for c in calls[:SHOWN]
        ]
        total = {name: float(c.sum()) for name, c in counts.items()}
        numbers = [ValueEvidence(f"{name} of all parameters", value, 0.0, "elements") for name, value in total.items() if value]
        losses = [ValueEvidence("loss", r["loss"]) for r in rows if r["loss"] is not None][:1]
        table = TableEvidence("not finite, in the order in which the step met them", ("where", "what", "call"), tuple(listed))
        return Finding(
            place=origin.place,
            first_step=step,
            told_step=step,
            message=f"At step {step} {origin.what} is the first that is not finite ({origin.when}); all before it is finite.",
            evidence=(*losses, *numbers, *((table,) if listed else ())) or (ValueEvidence("step", float(step)),),
            fix=origin.fix,
            depth=origin.depth,
        )

    def _name(self, call: Mapping[str, Any]) -> str:
        column = self.tensors.column.get(call["tensor"], -1)
        return self.tensors.name(column) if column >= 0 else "the batch"

    def lacking(self) -> tuple[Outcome, str] | None:
        return None if self.has_stepped else (Outcome.NOT_ENOUGH_DATA, "no optimizer stepped")


def _is_finite(loss: float | None) -> bool:
    return loss is None or math.isfinite(loss)


def _told_at(finding: Finding, step: int) -> Finding:
    steps = counted(EXCUSED, "step")
    return replace(finding, told_step=step, message=f"{finding.message} The scaler left out more than {steps} in a row for it.")
