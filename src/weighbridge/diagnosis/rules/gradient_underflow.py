"""Gradients in float16 are so small that they are rounded to a few values or to 0.

Symptom        The loss falls slower than in float32, or not at all; early layers stand still first.
How it decides float16 knows no number between 0 and 2^-24. Of what is kept or sent back in float16 (gradients of parameters,
               the loss's gradients by outputs), the part in tensors that lie at this end: nearly all that is not 0 is
               subnormal and its mean size is at most COARSE of these smallest numbers; or all of it is 0 while some other
               gradient is not. Told where it is most of the elements at PATIENCE recorded steps in a row and the loss has
               not come down.
What to do     `torch.amp.GradScaler`, which multiplies the loss so that gradients fit; or bfloat16, which has float32's
               range.
When it errs   Once a model has converged its gradients are gone, and nothing is lost with them: a loss below CONVERGED of
               its first value is left alone.
References     Micikevicius et al. 2018, "Mixed Precision Training", section 3.2 and figure 3 (values below 2^-24 become 0);
               IEEE 754-2019, binary16.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, TableEvidence, ValueEvidence
from weighbridge.diagnosis.losscourse import LossCourse
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.format import counted, number, share

SMALLEST = 2.0**-24  # of float16 above 0
COARSE = 8.0  # smallest numbers: rounding is then 6 % of a typical value, and of a normal distribution 4 % become 0
SUBNORMAL = 0.9  # of what is not 0
MOST = 0.5  # of the elements in float16
PATIENCE = 3
CONVERGED = 0.5
SHOWN = 8
QUANTITIES = ("gradient", "activation_gradient")


class GradientUnderflow(Rule):
    id, title = "gradient-underflow", "Gradients are too small for float16"
    severity, certainty, since = "warning", "test", "0.1"
    needs = Needs(
        gradient=["count", "zero_count", "subnormal_count", "l1_norm"],
        activation_gradient=["count", "zero_count", "subnormal_count", "l1_norm"],
        tables=["steps"],
    )
    travels = "shallower"
    causes = ("vanishing-gradient", "dominant-epsilon", "low-learning-rate", "stalled-loss")
    experiment = "20 steps from the last checkpoint in bfloat16: if the loss falls no faster, this finding is wrong."

    def __init__(self) -> None:
        self.course = LossCourse()
        self.run: list[tuple[int, float]] = []  # steps in a row, and the part of the elements
        self.seen, self.is_told = 0, False

    def start(self, tensors: Tensors) -> None:
        self.tensors = tensors
        self.half = np.flatnonzero(tensors.where(t.dtype == "float16" for t in tensors))

    def read(self, block: Block) -> Iterator[Finding]:
        if self.is_told:
            return
        scales = {row["step"]: float(row["loss_scale"] or 1.0) for row in block.rows("steps")}
        losses = {row["step"]: row["loss"] for row in block.rows("steps") if row["loss"] is not None}
        for i in range(len(block)) if len(self.half) else ():
            step = block.start + i
            self.course.add(losses.get(step, np.nan))
            found = [self._coarse(block, quantity, i, scales.get(step, 1.0)) for quantity in QUANTITIES]
            parts = [(part, columns) for part, columns in found if np.isfinite(part)]
            if not parts or step not in scales:
                continue
            self.seen += 1
            part, columns = max(parts, key=lambda p: p[0])
            if part <= MOST or self.course.has_improved(CONVERGED):
                self.run.clear()
                continue
            self.run.append((step, part))
            if len(self.run) == PATIENCE:
                self.is_told = True
                yield self._finding(block, i, columns, part)
                return

    def _coarse(self, block: Block, quantity: str, at: int, scale: float) -> tuple[float, np.ndarray]:
        """The part of the elements in float16 that lies at its lower end, and the tensors with it; NaN = not recorded."""
        count, zero, subnormal, total = (
            block[f"{quantity}.{name}"][at, self.half] for name in ("count", "zero_count", "subnormal_count", "l1_norm")
        )
        total = total * (scale if quantity == "activation_gradient" else 1.0)  # outputs: weighed with the loss scale taken out
        there = count > 0
        if not there.any():
            return np.nan, self.half[:0]
        rest = count - zero
        with np.errstate(all="ignore"):
            is_coarse = (subnormal > SUBNORMAL * rest) & (total <= COARSE * SMALLEST * rest)
        is_gone = there & (rest == 0) & bool((is_coarse & (rest > 0)).any() or not (rest[there] > 0).any())
        meant = there & ((is_coarse & (rest > 0)) | is_gone)
        return float(count[meant].sum() / count[there].sum()), self.half[meant]

    def _finding(self, block: Block, at: int, columns: np.ndarray, part: float) -> Finding:
        rows = []
        for column in columns[:SHOWN].tolist():
            quantity = QUANTITIES[self.tensors[column].is_output]
            count, zero, total = (float(block[f"{quantity}.{n}"][at, column]) for n in ("count", "zero_count", "l1_norm"))
            rows.append((self.tensors.name(column), zero / count, total / (count - zero) if count > zero else 0.0))
        listed = [c for c in columns.tolist() if not self.tensors[c].is_output]
        places = self.tensors.together(listed, self.tensors.is_parameter)
        return Finding(
            place=places[0][0] if len(places) == 1 else "",
            first_step=self.run[0][0],
            told_step=self.run[-1][0],
            message=f"{share(part)} of the gradients in float16 are at its lower end, in {counted(PATIENCE, 'step')} in a "
            f"row: not 0, a value there is a few times {number(SMALLEST)}, the smallest number that there is, and smaller "
            "ones have become 0.",
            evidence=(
                ValueEvidence("part of the elements at the lower end of float16", part, MOST),
                ValueEvidence(f"elements in float16, at each of {PATIENCE} steps", self._elements(block, at), None, "elements"),
                TableEvidence("gradients", ("tensor", "zeros", "mean size of the others"), tuple(rows)),
            ),
            fix="scaler = torch.amp.GradScaler(); scaler.scale(loss).backward(); scaler.step(optimizer); scaler.update(). Or "
            "compute in bfloat16.",
            depth=1.2,
        )

    def _elements(self, block: Block, at: int) -> int:
        """How many were looked at."""
        counts = [block[f"{QUANTITIES[self.tensors[c].is_output]}.count"][at, c] for c in self.half.tolist()]
        return int(np.nansum(counts))

    def lacking(self) -> tuple[Outcome, str] | None:
        if not len(self.half):
            return Outcome.NOT_APPLICABLE, "nothing is in float16"
        if self.seen < PATIENCE:
            return Outcome.NOT_ENOUGH_DATA, f"{counted(self.seen, 'step')} with gradients weighed; {PATIENCE} are needed"
        return None
