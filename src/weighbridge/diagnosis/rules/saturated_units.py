"""Most units of a tanh or sigmoid layer sit where the function is flat, so hardly any gradient comes through.

Symptom        Gradients before the layer are tiny, the loss falls slowly or not at all, outputs of the layer are all near the
               ends of their range.
How it decides The mean slope of a unit over its inputs is exact: 1 - mean a^2 for a = tanh(x), mean a - mean a^2 for a
               sigmoid. A unit counts as saturated where this is below what a unit has that is flat (slope < FLAT) for 95 % of
               its inputs and steepest for the rest. Told where more than MOST of a hidden layer's units are, at the start of
               training or while the loss does not fall. At the start it is enough that they are flat for most inputs, at both
               ends. Without a module for the function: the gradient by a linear layer's output is exactly 0 for more than
               MOST of its numbers and for more of them than are below 0, while their rms is above FAR: in float32 tanh(9.1)
               is 1.
What to do     Scale inputs, start weights by Xavier with a gain of at most 5/3, lower the learning rate, put a norm before
               the activation, or use ReLU or GELU.
When it errs   Small networks that have learned their data by heart have saturated units: once the loss has fallen nothing is
               said. What ends a network and gates inside recurrent modules are not judged.
References     Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks" (saturation
               of the top hidden layer). LeCun et al. 1998, "Efficient BackProp", section 4.4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, TableEvidence, ValueEvidence
from weighbridge.diagnosis.layers import Layers
from weighbridge.diagnosis.progress import Progress
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.format import number, share

MOST: Final = 0.5  # of a layer's units, as for dead ones
FLAT: Final = 1e-2  # a slope: tanh beyond |x| = 3, sigmoid beyond 4.6
STEEPEST: Final = {"Tanh": 1.0, "Sigmoid": 0.25}
LIMIT: Final = {kind: 0.05 * top + 0.95 * FLAT for kind, top in STEEPEST.items()}
# x ~ N(0, s^2) with half of it flat (s = 4.5, s = 6.8) has a mean slope of 0.8 / s, of 0.4 / s.
LIMIT_AT_BOTH_ENDS: Final = {"Tanh": 0.18, "Sigmoid": 0.059}
CENTRED: Final = 0.8  # |mean| of tanh below which a unit is at both ends; a gate with a bias of -3 is at one
START: Final = 3  # looks that are the start of training
PATIENCE: Final = 2  # looks in a row
SAMPLES: Final = 8
FAR: Final = 9.0  # tanh(9.1) is 1 in float32
SPARE: Final = 0.1  # of the numbers: zeros that a ReLU would not explain


class SaturatedUnits(Rule):
    id, title = "saturated-units", "Most units of a hidden layer are saturated"
    severity, certainty, since = "warning", "test", "0.1"
    needs = Needs(activation_gradient=["zero_fraction"], tables=["units", "steps", "groups"])
    causes = ("rank-collapse", "collapsed-output", "vanishing-gradient", "stalled-loss")
    experiment = (
        "Divide the weights before this layer by ten and train 50 steps: if the loss falls no faster, saturation is not why."
    )

    def __init__(self) -> None:
        self.progress = Progress()
        self.streak: dict[int, tuple[int, int, int]] = {}  # first step, looks in a row, their inputs
        self.told: set[int] = set()
        self.looks: dict[int, int] = {}

    def start(self, tensors: Tensors) -> None:
        self.tensors, self.layers = tensors, Layers(tensors)
        self.bent = {c for c in self.layers.outputs if tensors[c].module in STEEPEST}
        self.linear = {c for c in self.layers.outputs if tensors[c].module == "Linear"}

    def read(self, block: Block) -> Iterator[Finding]:
        losses = list(block.rows("steps"))
        for row in block.rows("units"):
            while losses and losses[0]["step"] <= row["step"]:
                self.progress.read(losses.pop(0))
            column = self.tensors.column.get(row["tensor"])
            if column is not None and column in self.bent | self.linear and row["n"] >= 1:
                yield from self._look(block, column, row)
        for loss in losses:
            self.progress.read(loss)

    def _look(self, block: Block, column: int, row: Mapping[str, Any]) -> Iterator[Finding]:
        look = self.looks[column] = self.looks.get(column, 0) + 1
        slopes, saturated = self._saturated(block, column, row, look <= START)
        found = float(saturated.mean())
        if not found > MOST or not np.isfinite(slopes).all():
            self.streak.pop(column, None)
            return
        first, length, inputs = self.streak.get(column, (row["step"], 0, 0))
        inputs += self.layers.samples(column, row["n"])
        self.streak[column] = (first, length + 1, inputs)
        place = column if column in self.linear else self.layers.producer(column)
        if length + 1 < PATIENCE or inputs < SAMPLES or {place, column} & self.told:
            return
        is_hidden = self.layers.is_hidden(column, block.groups)
        if is_hidden and (first == 0 or self.progress.is_stalled):
            self.told |= {place, column}
            yield self._finding(column, place, first, row, slopes, found)

    def _saturated(self, block: Block, column: int, row: Mapping[str, Any], is_start: bool) -> tuple[np.ndarray, np.ndarray]:
        """Of each unit the mean slope (of a linear layer: the rms), and whether it counts as saturated."""
        mean, square = np.asarray(row["sum"]) / row["n"], np.asarray(row["sum_sq"]) / row["n"]
        if column in self.linear:
            zeros = float(block["activation_gradient.zero_fraction"][row["step"] - block.start, column])
            below = 1 - float(np.sum(row["active"])) / max(1, row["n"] * len(mean))
            is_cut = zeros > MOST and zeros > below + SPARE and row["steps"] == 1
            return np.sqrt(square), (np.sqrt(square) > FAR) & is_cut
        kind = self.tensors[column].module
        slopes = 1 - square if kind == "Tanh" else mean - square
        centre = np.abs(mean) if kind == "Tanh" else np.abs(2 * mean - 1)
        at_both = is_start & (centre < CENTRED) & (slopes < LIMIT_AT_BOTH_ENDS[kind])
        return slopes, (slopes < LIMIT[kind]) | at_both

    def _finding(
        self, column: int, place: int, first: int, row: Mapping[str, Any], slopes: np.ndarray, found: float
    ) -> Finding:
        name, tensor = self.layers.place(place), self.tensors[column]
        number_of = len(slopes)
        if column in self.linear:
            what = f"units of {name or 'the model'} have an rms above {number(FAR)} and a gradient of exactly 0 at most inputs"
            evidence = ValueEvidence("median rms of a unit", float(np.median(slopes)), FAR)
        else:
            what = f"units of {self.layers.place(column) or 'the model'} ({tensor.module}) are flat for nearly all inputs"
            evidence = ValueEvidence("median mean slope of a unit", float(np.median(slopes)), LIMIT[tensor.module])
        columns = ("units", "saturated", "numbers of each", "lowest", "highest")
        numbers = (number_of, round(found * number_of), int(row["n"]), float(slopes.min()), float(slopes.max()))
        return Finding(
            place=name,
            first_step=first,
            told_step=row["step"],
            message=f"{share(found)} of the {number_of} {what}: hardly any gradient comes through.",
            evidence=(
                ValueEvidence("share of saturated units", found, MOST),
                evidence,
                TableEvidence("units", columns, (numbers,)),
            ),
            fix="Standardise the inputs, start the weights before it with nn.init.xavier_normal_, lower the learning "
            "rate, or put a "
            "norm before the activation.",
            depth=tensor.order / 1e6,
        )

    def lacking(self) -> tuple[Outcome, str] | None:
        if not self.bent and not self.linear:
            return Outcome.NOT_APPLICABLE, "no tanh, no sigmoid and no linear layer was recorded"
        if max(self.looks.values(), default=0) < PATIENCE:
            return Outcome.NOT_ENOUGH_DATA, "units were looked at fewer than twice"
        return None
