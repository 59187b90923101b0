"""All units of a layer start as one, so the layer computes one number however wide it is.

Symptom        The network learns like one of width 1: the loss falls a little and stops.
How it decides The sums, sums of squares and largest values of all units of an affine or recurrent module are equal but for
               rounding (the same numbers went through the same weights), and differ between inputs. Still so at step 2 or
               later after its weight has moved: their gradients are equal too, and stay so (error). Equal at first and
               different then: the start alone was one number (warning). (`weighbridge.inspect` proves the former before
               training.) Further, weights of exactly 0 in two layers or more with gradients of exactly 0, PATIENCE steps in a
               row: each waits for the other; or all weights of the model are 0 at its first step, where at least one
               has a gradient of 0. Or all rows of a weight before the last were equal in the first forward pass, and only
               its biases make its units different (warning). `inspect` compares the rows of each weight and of its gradient.
What to do     Start weights at random: `nn.init.kaiming_normal_(layer.weight)`.
When it errs   A last layer, a branch or LoRA's B that starts at 0 gives the same for all inputs and gets different gradients:
               it is not meant. Layers whose weights are frozen are not judged.
References     Goodfellow, Bengio, Courville 2016, Deep Learning, section 8.4: initial parameters need to break symmetry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, TableEvidence, ValueEvidence
from weighbridge.diagnosis.incode import started
from weighbridge.diagnosis.layers import AFFINE, RECURRENT, Layers
from weighbridge.diagnosis.parameters import symmetric
from weighbridge.diagnosis.stream import Block, rows_by_step
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.firstpass import from_text

# Of the root of n * sum of squares. Two units at random agree in three such numbers once in 10^15 cases; a matrix product may
# round the same row differently in different places.
ROUNDING: Final = {"float64": 1e-9, "float32": 1e-5, "bfloat16": 1e-2, "float16": 1e-3}
VARIES: Final = 1e-6  # variance over the inputs, of the mean square: the units do look at their input
PROOF: Final = 2  # the step at which two updates have been made
PATIENCE: Final = 3  # a branch behind two that start at 0 gets its first gradient at step 2


class SymmetricInitialisation(Rule):
    id, title = "symmetric-initialisation", "All units of a layer are one"
    severity, certainty, since = "error", "proof", "0.1"
    needs = Needs(
        parameter=["abs_max"],
        gradient=["zero_fraction"],
        update=["zero_fraction"],
        tables=["units", "steps", "groups", "graph"],
    )
    causes = ("rank-collapse", "collapsed-output", "vanishing-gradient", "stalled-loss")
    experiment = (
        "Start this layer's weights with kaiming_normal_ and train as long: if the loss ends where it does "
        "now, symmetry is not why."
    )

    def __init__(self) -> None:
        self.equal: dict[int, int] = {}  # output: the step since when its units are one
        self.moved: dict[int, int] = {}  # output: the first step at which its weight moved
        self.zeros: dict[int, int] = {}  # output: steps in a row with weight and gradient 0
        self.zero_since: dict[int, int] = {}
        self.same_rows: set[str] = set()  # weights all of whose rows were equal, and not 0, in the first forward pass
        self.has_begun = False
        self.told: set[int] = set()
        self.looked: set[int] = set()
        self.is_trial = False  # asked before training, by `inspect`

    def start(self, tensors: Tensors) -> None:
        self.tensors, self.layers = tensors, Layers(tensors)
        kinds = AFFINE | RECURRENT
        self.columns = [c for c in self.layers.outputs if tensors[c].module in kinds and self.layers.is_trained(c)]
        self.weights = [w for c in self.columns if (w := self.layers.weight(c)) is not None]  # of each: it is trained

    def read(self, block: Block) -> Iterator[Finding]:
        for graph in block.rows("graph"):
            first = from_text(graph["detail"])
            self.is_trial |= first.has_gradients
            self.same_rows |= {p.name for p in first.parameters if p.has_equal_rows and not first.has_gradients}
            yield from symmetric(first)
        units = rows_by_step(block.rows("units"))
        zero = self._zero(block)
        yield from self._all_zero(block, zero)
        moves = self._first_moves(block)
        for step in sorted({*units, *moves, *self._zero_steps(block, zero)}):
            for row in units.get(step, ()):
                yield from self._look(row)
            for column in moves.get(step, ()):
                self.moved[column] = step
            yield from self._dead_ends(block, step, zero)

    # ---- equal units ----

    def _look(self, row: Mapping[str, Any]) -> Iterator[Finding]:
        column = self.tensors.column.get(row["tensor"])
        if column is None or column not in self.columns or column in self.told or len(row["sum"]) < 2 or row["n"] < 2:
            return
        self.looked.add(column)
        is_one = self._is_one(column, row)
        since = self.equal.get(column, -1)
        if is_one and since < 0 and column not in self.moved:
            self.equal[column] = row["step"]
        has_moved = since >= 0 and self.moved.get(column, row["step"]) < row["step"]
        if is_one and has_moved and row["step"] >= since + PROOF:
            yield self._finding(column, row, since, still=True)
        elif not is_one and has_moved:
            yield self._finding(column, row, since, still=False)
        elif row["step"] >= PROOF and self._has_same_rows(column):
            yield self._of_rows(column, row["step"])

    def _has_same_rows(self, column: int) -> bool:
        """A last layer is not meant, nor a filter of one channel: each may have another channel before it."""
        if not self.same_rows:  # of nearly all models: asked for every output whose units were looked at
            return False
        weight = self.tensors[self.weights[self.columns.index(column)]]
        is_last = self.tensors[column].order >= max(self.tensors[c].order for c in self.columns)
        is_one = len(weight.shape) > 2 and weight.shape[1] == 1
        return weight.name in self.same_rows and not is_last and not is_one

    def _of_rows(self, column: int, step: int) -> Finding:
        self.told.add(column)
        name, units = self.layers.place(column), self.layers.units(column)
        weight = self.tensors[self.weights[self.columns.index(column)]].name
        return Finding(
            place=name,
            first_step=0,
            told_step=step,
            message=f"All rows of {weight} are equal at the start: its {units} units look at the same sum of their inputs and "
            "differ by their biases alone.",
            evidence=(ValueEvidence("units with equal weights", units, limit=1),),
            fix=started(self.tensors, column),
            severity="warning",
            depth=self.tensors[column].order / 1e6,
        )

    def _is_one(self, column: int, row: Mapping[str, Any]) -> bool:
        total, square, largest = (np.asarray(row[name], float) for name in ("sum", "sum_sq", "max"))
        n, rounding = row["n"], ROUNDING.get(self.tensors[column].dtype, 0.0)
        if not np.ptp(largest) <= rounding * largest.max():  # nearly always
            return False
        size = float(square.mean())
        varies = float((square - total**2 / n).min()) > VARIES * size
        alike = [np.ptp(total) <= rounding * np.sqrt(n * size), np.ptp(square) <= rounding * size]
        return bool(size > 0 and varies and all(alike))

    def _first_moves(self, block: Block) -> dict[int, list[int]]:
        """By step, the layers whose weight moves for the first time."""
        has_moved = np.asarray(block["update.zero_fraction"][:, self.weights] < 1)
        found: dict[int, list[int]] = {}
        for i in np.flatnonzero(has_moved.any(axis=0)).tolist():
            if self.columns[i] not in self.moved:
                found.setdefault(block.start + int(has_moved[:, i].argmax()), []).append(self.columns[i])
        return found

    def _finding(self, column: int, row: Mapping[str, Any], since: int, still: bool) -> Finding:
        self.told.add(column)
        name, units = self.layers.place(column), len(row["sum"])
        step, moved = row["step"], self.moved[column]
        after = (
            f"they are still equal at step {step}, so their gradients are equal too and they stay one"
            if still
            else f"they began to differ only by their gradients, from step {moved + 1} on"
        )
        return Finding(
            place=name,
            first_step=since,
            told_step=step,
            message=f"All {units} units of {name or 'the model'} give the same number for every input at step "
            f"{since}: {after}.",
            evidence=(
                ValueEvidence("units that are one", units, limit=1),
                TableEvidence(
                    f"over {row['n']} inputs up to step {step}",
                    ("", "smallest unit's", "largest unit's"),
                    tuple(
                        (text, float(np.min(row[key])), float(np.max(row[key])))
                        for text, key in (("sum", "sum"), ("sum of squares", "sum_sq"), ("largest |x|", "max"))
                    ),
                ),
            ),
            fix=started(self.tensors, column),
            severity="error" if still else "warning",
            certainty="proof" if still else "test",
            depth=self.tensors[column].order / 1e6,
        )

    # ---- zeros that wait for each other ----

    def _all_zero(self, block: Block, zero: np.ndarray) -> Iterator[Finding]:
        """The first recorded step finds every weight at 0, and so one behind another."""
        weights = sorted(set(self.weights))
        largest = block["parameter.abs_max"][:, weights]
        recorded = np.flatnonzero(~np.isnan(largest).all(axis=1)) if weights else np.zeros(0, int)
        if self.has_begun or not recorded.size:
            return
        self.has_begun, at = True, int(recorded[0])
        if len(weights) < 2 or not (largest[at] == 0).all():
            return
        for column in [c for c, is_zero in zip(self.columns, zero[at], strict=True) if is_zero]:
            self.told.add(column)
            yield self._of_zeros(column, block.start + at, len(weights))

    def _of_zeros(self, column: int, step: int, layers: int) -> Finding:
        name = self.layers.place(column)
        return Finding(
            place=name,
            first_step=step,
            told_step=step,
            message=f"The weights of all {layers} layers start at 0, so that all units of {name or 'the model'} are one and no "
            "gradient comes through the layers after it.",
            evidence=(ValueEvidence("layers whose weights are all 0", layers, limit=1),),
            fix=started(self.tensors, column),
            depth=self.tensors[column].order / 1e6,
        )

    def _zero(self, block: Block) -> np.ndarray:
        """Bool [steps, columns]: the weight is 0 and so is its gradient, at a step that was taken."""
        weights = self.weights
        is_zero = (block["parameter.abs_max"][:, weights] == 0) & (block["gradient.zero_fraction"][:, weights] == 1)
        return np.asarray(is_zero & (block.of_steps("lr", 0.0)[:, weights] > 0))

    def _zero_steps(self, block: Block, zero: np.ndarray) -> list[int]:
        """The recorded steps, where rows of such zeros go on or may end in this block."""
        if not zero.any() and not any(self.zeros.values()):
            return []
        recorded = ~np.isnan(block["gradient.zero_fraction"][:, self.weights])
        return (np.flatnonzero(recorded.any(axis=1)) + block.start).tolist()

    def _dead_ends(self, block: Block, step: int, zero: np.ndarray) -> Iterator[Finding]:
        recorded = ~np.isnan(block["gradient.zero_fraction"][step - block.start, self.weights])
        for column, is_recorded, is_zero in zip(self.columns, recorded, zero[step - block.start], strict=True):
            if is_recorded:
                self.zeros[column] = self.zeros.get(column, 0) + 1 if is_zero else 0
                if self.zeros[column] == 1:
                    self.zero_since[column] = step
        found = [c for c in self.columns if self.zeros.get(c, 0) >= PATIENCE and c not in self.told]
        for column in found if len({self.layers.weight(c) for c in found}) >= 2 else ():
            self.told.add(column)
            yield self._dead_end(column, step, found)

    def _dead_end(self, column: int, step: int, found: list[int]) -> Finding:
        name = self.layers.place(column)
        others = [self.layers.place(c) for c in found if c != column]
        return Finding(
            place=name,
            first_step=self.zero_since[column],
            told_step=step,
            message=f"All weights of {name or 'the model'} are 0 and their gradient is exactly 0, {PATIENCE} steps in "
            "a row, and so "
            f"it is of {' and '.join(others[:3])}: each gets its gradient through the other.",
            evidence=(
                ValueEvidence("layers with weights and gradients of exactly 0", len(found), limit=1),
                ValueEvidence("steps in a row", PATIENCE),
            ),
            fix=started(self.tensors, column),
            depth=self.tensors[column].order / 1e6,
        )

    def lacking(self) -> tuple[Outcome, str] | None:
        if self.is_trial:
            return None
        if not self.columns:
            return Outcome.NOT_APPLICABLE, "no output of an affine or recurrent module whose weights are trained was recorded"
        if not self.looked:
            return Outcome.NOT_ENOUGH_DATA, "no units were recorded"
        return None
