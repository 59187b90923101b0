"""Most units of a tanh or sigmoid layer sit where the function is flat, so hardly any gradient comes through.

Symptom        Gradients before the layer are tiny, the loss falls slowly or not at all, outputs of the layer are all near the
               ends of their range.
How it decides Of a part of each output that is given through tanh or sigmoid (a module or not) to the next module, and of
               what autograd keeps of such a function inside a module, of which a weight is the place: a number is flat
               where the slope is below 0.01 (|x| > 3, |x| > 4.6), a unit is saturated where it is flat for more than 95 %
               of its numbers. Told at PATIENCE looks where more than MOST of a layer's units are saturated or more than
               MUCH of its numbers flat, while the loss does not fall; at the start of training, which no usual initialisation
               makes so, where more than MOST of its numbers are flat. Whatever the loss does now, where it came at once: at
               most MOST flat at the look before, more than MUCH in two steps in a row, both far above the lowest loss.
What to do     Scale inputs, start weights by Xavier with a gain of at most 5/3, lower the learning rate, put a norm before
               the activation, or use ReLU or GELU.
When it errs   Small networks that have learned their data by heart have saturated units: once the loss has fallen nothing is
               said. What ends a network, gates that multiply and those inside recurrent modules are not judged.
References     Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks" (saturation
               of the top hidden layer). LeCun et al. 1998, "Efficient BackProp", section 4.4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, TableEvidence, ValueEvidence
from weighbridge.diagnosis.incode import started
from weighbridge.diagnosis.layers import Layers
from weighbridge.diagnosis.progress import Progress
from weighbridge.diagnosis.spreads import looks
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.format import share

SATURATING: Final = ("tanh", "sigmoid", "hardtanh")
MOST: Final = 0.5  # of a layer's units, as for dead ones; of its numbers: tanh of x ~ N(0, 4.5^2), sigmoid of x ~ N(0, 6.8^2)
MUCH: Final = 0.75  # of its numbers
PATIENCE: Final = 2  # looks in a row
SAMPLES: Final = 8


class SaturatedUnits(Rule):
    id, title = "saturated-units", "Most units of a hidden layer are saturated"
    severity, certainty, since = "warning", "test", "0.1"
    needs = Needs(tables=["spread", "steps"])
    travels = "deeper"
    causes = ("rank-collapse", "collapsed-output", "vanishing-gradient", "low-learning-rate", "stalled-loss")
    experiment = (
        "Divide the weights before this layer by ten and train 50 steps: if the loss falls no faster, saturation is not why."
    )

    def __init__(self) -> None:
        self.progress = Progress()
        self.streak: dict[tuple[int, str], tuple[int, int]] = {}  # since which step, and how many looks in a row
        self.before: dict[tuple[int, str], tuple[int, float]] = {}  # step of the last look, and the share that was flat
        self.sudden: dict[tuple[int, str], int] = {}  # steps in a row, since it came at once, with a far worse loss
        self.told: set[int] = set()
        self.looks: dict[int, int] = {}

    def start(self, tensors: Tensors) -> None:
        self.tensors, self.layers = tensors, Layers(tensors)

    def read(self, block: Block) -> Iterator[Finding]:
        for row in (row for _, rows in looks(block, self.progress) for row in rows):
            column = self.tensors.column.get(row["tensor"])
            if column is not None and row["bend"] in SATURATING:
                yield from self._look(column, row)

    def _look(self, column: int, row: Mapping[str, Any]) -> Iterator[Finding]:
        self.looks[column] = self.looks.get(column, 0) + 1
        key = column, row["bend"]
        came_at_once = self._came_at_once(key, row)
        is_half = row["flat"] > MOST and (self.streak.get(key, (row["step"], 0))[0] == 0)
        is_most = row["flat_units"] > MOST or row["flat"] > MUCH
        if not (is_half or is_most):
            self.streak.pop(key, None)
            return
        first, length = self.streak.get(key, (row["step"], 0))
        self.streak[key] = (first, length + 1)
        is_enough = length + 1 >= PATIENCE and row["samples"] * (length + 1) >= SAMPLES
        if is_enough and column not in self.told and (first == 0 or self.progress.is_stalled or came_at_once):
            self.told.add(column)
            yield self._finding(column, first, row)

    def _came_at_once(self, key: tuple[int, str], row: Mapping[str, Any]) -> bool:
        """Is this the second step in a row after a look at which it was not so, and was the loss far worse at both?"""
        step, flat = self.before.get(key, (-1, 1.0))
        self.before[key] = row["step"], row["flat"]
        is_bad = row["flat"] > MUCH and self.progress.is_far_worse
        goes_on = row["step"] == step + 1 and self.sudden.get(key, 0)
        self.sudden[key] = (self.sudden.get(key, 0) + 1 if goes_on else int(flat <= MOST)) if is_bad else 0
        return self.sudden[key] >= PATIENCE

    def _finding(self, column: int, first: int, row: Mapping[str, Any]) -> Finding:
        name = self.layers.place(column)
        units = row["features"] if self.layers.is_inside(column) else self.layers.units(column)
        columns = ("function", "units", "saturated", "numbers flat", "samples")
        numbers = (row["bend"], units, round(row["flat_units"] * units), share(row["flat"]), row["samples"])
        return Finding(
            place=name,
            first_step=first,
            told_step=row["step"],
            message=f"{share(row['flat'])} of what {name or 'the model'} gives lies where {row['bend']} is flat, and "
            f"{share(row['flat_units'])} of its units do so for nearly all inputs: hardly any gradient comes through.",
            evidence=(
                ValueEvidence(f"share of numbers at which {row['bend']} is flat", row["flat"], MOST),
                ValueEvidence("share of saturated units", row["flat_units"], MOST),
                TableEvidence(f"at step {row['step']}", columns, (numbers,)),
            ),
            fix=f"Standardise the inputs, start this layer smaller: {started(self.tensors, column, 'xavier_normal_')}; lower "
            "the learning rate, or put a norm before the activation.",
            depth=self.tensors[column].order / 1e6,
        )

    def lacking(self) -> tuple[Outcome, str] | None:
        if not self.looks:
            return Outcome.NOT_APPLICABLE, "no output was seen to go through tanh or sigmoid"
        if max(self.looks.values()) < PATIENCE:
            return Outcome.NOT_ENOUGH_DATA, "outputs were looked at fewer than twice"
        return None
