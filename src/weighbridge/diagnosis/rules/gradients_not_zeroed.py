"""The gradient that an optimizer uses still holds those of the steps before.

Symptom        Gradients and updates grow, successive gradients point the same way, the loss swings or blows up.
How it decides Exact but for rounding. A bias is added to what its module gives, so the sum over its gradient is the sum
               over the loss's gradient by that output: S = A. Where nothing was zeroed, S of step k is S of the step before
               plus A of step k, times the factor of clipping. Told where this holds and S = A does not, at PATIENCE
               recorded steps in a row, A itself not 0: a term of the loss that knows only the weights (L1, L2) gives a bias
               behind which A is 0 the same gradient at each step, and S = S of the step before says nothing then. Or capture
               has seen it: of one parameter of the optimizer, on the CPU, the gradient used was still there, and not 0, at
               the beginning of every backward pass until the next step, which a pass had added to (`gradients_kept`).
What to do     Call `optimizer.zero_grad()` once per step, before `backward` or after `step`.
When it errs   It does not: accumulation over several backward passes is in A too. Where no bias tells (no biases, only the
               last layer before a softmax, whose S is 0; outputs in half precision) the rule says that it cannot judge.
References     Chain rule for y = W x + b: dL/db = sum of dL/dy over batch and positions (Goodfellow et al. 2016, Deep
               Learning, section 6.5.6). Rounding: Higham 2002, Accuracy and Stability of Numerical Algorithms, section 4.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, SeriesEvidence, TableEvidence, ValueEvidence
from weighbridge.diagnosis.streaks import Streaks
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.tensors import Tensors

PATIENCE = 3
ROUNDING = {
    "float64": 2.0**-18,
    "float32": 2.0**-18,
    "bfloat16": 2.0**-6,
    "float16": 2.0**-9,
}  # of a sum, over the sum of sizes
APART = 8.0  # times the rounding by which the two readings must differ to be told apart
FIX = "Call optimizer.zero_grad() once per step, before loss.backward()."
EVENT = "gradients_kept"  # written by capture, once per optimizer
ADDED = ("Linear", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
ADDED_NORM = ("LayerNorm", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "GroupNorm")


class GradientsNotZeroed(Rule):
    id, title = "gradients-not-zeroed", "Gradients are not zeroed between steps"
    severity, certainty, since = "error", "proof", "0.1"
    needs = Needs(gradient=["sum", "l1_norm"], activation_gradient=["sum", "l1_norm"], tables=["steps", "groups", "events"])
    experiment = (
        "Put optimizer.zero_grad() before the backward pass: if the norm of the gradient at the second step stays as "
        "it was, this is wrong."
    )
    causes = (
        *("high-learning-rate", "exploding-gradient", "exploding-weights", "exploding-activation", "growing-loss"),
        *("stalled-loss", "loss-spike", "gradient-spike", "dead-units", "saturated-units", "nonfinite-origin"),
    )

    def __init__(self) -> None:
        self.streaks, self.is_seen = Streaks(PATIENCE), False
        self.last, self.last_size = np.zeros(0), np.zeros(0)
        self.shown: dict[int, list[tuple[int, float, float, float]]] = {}

    def start(self, tensors: Tensors) -> None:
        self.tensors = tensors
        self.streaks.start(tensors)
        self.last, self.last_size = tensors.grown(self.last, np.nan), tensors.grown(self.last_size, np.nan)
        self.biases = [c for c, t in enumerate(tensors) if _is_added(t.name, t.module) and len(tensors.outputs_of(c)) == 1]
        self.biases = [c for c in self.biases if not tensors[c].aliases]
        self.outputs = [tensors.outputs_of(c)[0] for c in self.biases]
        self.rounding = np.array(
            [_rounding(tensors[b].dtype, tensors[o].dtype) for b, o in zip(self.biases, self.outputs, strict=True)]
        )

    def read(self, block: Block) -> Iterator[Finding]:
        yield from (self._seen(row) for row in block.rows("events") if row["kind"] == EVENT)
        if not self.biases:
            return
        found, size = block["gradient.sum"][:, self.biases], block["gradient.l1_norm"][:, self.biases]
        before = _earlier(found, self.last[self.biases])
        size_before = _earlier(size, self.last_size[self.biases])
        self.last[self.biases], self.last_size[self.biases] = (
            _latest(found, self.last[self.biases]),
            _latest(size, self.last_size[self.biases]),
        )
        added, size_added = (
            block["activation_gradient.sum"][:, self.outputs],
            block["activation_gradient.l1_norm"][:, self.outputs],
        )
        factor = block.of_steps("clip_factor", 1.0)[:, self.biases]
        factor = np.where(np.isfinite(factor), factor, 1.0)
        rounding = self.rounding * (size + factor * (size_before + size_added))
        is_sum = np.abs(found - factor * (before + added)) <= rounding
        smaller = np.minimum(np.abs(before), np.abs(added))
        can_tell = factor * smaller > APART * rounding  # else S = A, or S = S of the step before, says the same
        yield from self._told(block, is_sum, can_tell, (found, added, before))

    def _told(self, block: Block, is_sum: np.ndarray, can_tell: np.ndarray, shown: tuple[np.ndarray, ...]) -> Iterator[Finding]:
        holds, recorded = (np.zeros((len(block), len(self.tensors)), bool) for _ in range(2))
        holds[:, self.biases], recorded[:, self.biases] = is_sum, can_tell
        is_open = ~self.streaks.is_told[self.biases]
        for i, j in zip(*np.nonzero(is_sum & can_tell & is_open), strict=True):
            numbers = (float(shown[0][i, j]), float(shown[1][i, j]), float(shown[2][i, j]))
            self.shown.setdefault(self.biases[j], []).append((int(block.start + i), *numbers))
        for step, columns in self.streaks.read(block, holds, recorded):
            yield self._finding(columns.tolist(), step)
        self.shown = {column: rows[-PATIENCE:] for column, rows in self.shown.items()}

    def _seen(self, event: Mapping[str, Any]) -> Finding:
        self.is_seen = True
        column, steps = self.tensors.column.get(event["tensor"]), event["detail"]["steps"]
        name = self.tensors.name(column) if column is not None else "a parameter"
        return Finding(
            place="",
            first_step=max(0, event["step"] - steps + 1),
            told_step=event["step"],
            message=f"At {steps} steps in a row the gradient of {name} that the step before had used was still there when the "
            "backward pass added the next one to it.",
            evidence=(ValueEvidence("steps in a row whose gradient holds that of the step before", steps, steps),),
            fix=FIX,
            depth=1.9,
        )

    def _finding(self, columns: list[int], step: int) -> Finding:
        name = self.tensors.name(columns[0])
        rows = [row for row in self.shown[columns[0]] if row[0] <= step][-PATIENCE:]
        return Finding(
            place="",
            first_step=int(self.streaks.first[columns].min()),
            told_step=step,
            message=f"The gradient that the optimizer uses is that of the step before plus the new one: it holds exactly, at "
            f"{PATIENCE} steps in a row, for {name}" + (f" and {len(columns) - 1} more." if len(columns) > 1 else "."),
            evidence=(
                TableEvidence(
                    f"sums over the gradient of {name}",
                    ("step", "used", "new in this step", "used in the step before"),
                    tuple(rows),
                ),
                SeriesEvidence("sum of the gradient used", tuple(r[0] for r in rows), tuple(r[1] for r in rows)),
            ),
            fix=FIX,
            depth=1.9,
        )

    def lacking(self) -> tuple[Outcome, str] | None:
        if self.is_seen:
            return None
        if not self.biases:
            return Outcome.NOT_APPLICABLE, "no bias whose module's output was recorded"
        if not self.streaks.is_enough:
            return Outcome.NOT_ENOUGH_DATA, f"too few steps at which both sums tell: {PATIENCE} are needed"
        return None


def _is_added(name: str, module: str) -> bool:
    return name.endswith(".bias") and module in (*ADDED, *ADDED_NORM)


def _rounding(*dtypes: str) -> float:
    return max(ROUNDING.get(dtype, np.inf) for dtype in dtypes)


def _filled(values: np.ndarray, before: np.ndarray) -> np.ndarray:
    """[1 + steps, columns]: each number, or the last one recorded before it."""
    all_values = np.concatenate([before[None], values])
    place = np.where(np.isnan(all_values), 0, np.arange(len(all_values))[:, None])
    filled: np.ndarray = np.take_along_axis(all_values, np.maximum.accumulate(place, axis=0), axis=0)
    return filled


def _earlier(values: np.ndarray, before: np.ndarray) -> np.ndarray:
    return np.asarray(_filled(values, before)[:-1])


def _latest(values: np.ndarray, before: np.ndarray) -> np.ndarray:
    return np.asarray(_filled(values, before)[-1])
