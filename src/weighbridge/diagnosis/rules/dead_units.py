"""Most units of a layer are 0 for every input, so nothing flows through them and nothing can bring them back.

Symptom        The loss stops falling, or learns only a part; gradients of a layer are mostly exactly 0.
How it decides Units that were never above 0 in two recorded looks are taken for dead, and only what they do afterwards
               counts: EXPOSURES further inputs (units times samples, positions of one sample are nearly one) without one of
               them firing hold their mean rate below RATE with 95 % confidence. Told where more than MOST of a layer's units
               are dead (of those dead from the start more than chance explains: where inputs hardly differ, the sign of its
               bias kills every second unit; all of them in layers below SMALL units), or more than SOME and growing while the
               loss does not fall.
               Of an activation that is no module the gradient is the proof: that of the bias (the weight) is exactly 0 for at
               least as many units as are never above 0. Inside a module that has raw parameters, what autograd keeps tells, and
               the gradient of the weight is the proof. GELU and SiLU: slope below 0.001 for all numbers looked at. Between
               two looks: where a layer's gradient is 0 for most units from one step on, three steps in a row, while at most
               SOME were silent before, and the loss is no better than it was.
What to do     Lower the learning rate or warm it up; start biases at 0 and weights by He; a norm before the activation; or an
               activation with a slope everywhere (LeakyReLU, GELU).
When it errs   Layers that are sparse on purpose (dictionaries of thousands of features) have units that fire again; more than
               REVIVED of them and nothing is said. Units that die one by one while the loss falls are left out by training, as
               an L1 penalty means them to be, or are not missed. Frozen layers are not judged.
References     Lu et al. 2019, "Dying ReLU and Initialization". He et al. 2015. No event in n trials: the rule of three,
               Hanley & Lippman-Hand 1983. Positions of one image count as one in 86 (design notes, A1, measured).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, TableEvidence, ValueEvidence
from weighbridge.diagnosis.incode import started
from weighbridge.diagnosis.layers import AFFINE, NORMS, Layers
from weighbridge.diagnosis.progress import Progress
from weighbridge.diagnosis.stream import Block, rows_by_step
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.format import counted, share

MOST: Final = 0.5  # of a layer's units; Amazon SageMaker Debugger's DeadRelu has the same share
# Rows of weights are drawn apart, and no sign is likelier: the dead of n units at the start are at most binomial(n, 1/2).
BY_CHANCE: Final = 3.0  # standard deviations of that: 0.1 %
NO_CHANCE: Final = 10  # units: 2^-10 = 0.1 % that all are dead by their signs
SOME: Final = 0.2  # a share of silent units that is nothing yet
LONG: Final = 30  # steps: half of those after which a loss that has not fallen is told as a symptom
RATE: Final = 0.005  # of inputs that the dead ones fire on, at most
EXPOSURES: Final = 3 / RATE  # rule of three: no event in n trials bounds the rate by 3 / n at 95 %
SAMPLES: Final = 16  # inputs of each unit, whatever the width: two images say nothing of a class that comes once in ten
REVIVED: Final = 0.02  # of the silent ones that fired again in one look
SMALL: Final = 8  # a unit of a 2-4-1 net is dead at the start with a chance of about 1/6; half of four is no wonder
POSITIONS: Final = 86  # of one image that count as one sample
PATIENCE: Final = 3  # steps in a row
AT_ONCE: Final = 3  # steps within which a step of training that went too far kills: one, and those that follow from it
CALM, AFTER = 5, 15  # steps in a row with few silent units, and how long after them it still counts as sudden
RELU: Final = ("ReLU", "ReLU6", "Hardswish", "Threshold")  # exactly 0 where they are dead
SMOOTH: Final = ("gelu", "silu")


class _Layer:
    """Units of one output since its first look."""

    def __init__(self, units: int) -> None:
        self.inputs = np.full(units, -1.0)  # since it was first silent, that first look left out; -1 = it fired last time
        self.since = np.full(units, -1)
        self.before: list[float] = []  # shares of gradients of exactly 0 at the last steps,
        self.calm = -1  # and the last step at which all of these were small
        self.begun, self.streak = -1, 0
        self.asleep, self.asleep_since, self.asleep_inputs = 0, -1, 0.0  # looks in a row, of a smooth activation
        self.quiet = 1.0  # of a function inside a module: the share asleep when it was last small,
        self.is_late = False  # and whether its units fell asleep one by one in training

    def look(self, silent: np.ndarray, inputs: float, step: int) -> tuple[np.ndarray, float]:
        """Which units are dead as far as one can tell, and the share of the silent ones that fired again."""
        was = self.inputs >= 0
        revived = float((was & ~silent).sum()) / max(1, int(was.sum()))
        self.since[silent & ~was] = step
        self.inputs = np.where(silent, np.where(was, self.inputs + inputs, 0.0), -1.0)
        return silent & was, revived


class DeadUnits(Rule):
    id, title = "dead-units", "Most units of a layer never fire"
    severity, certainty, since = "warning", "test", "0.1"
    needs = Needs(activation=["nonfinite_count"], gradient=["zero_fraction"], tables=["units", "spread", "steps"])
    travels = "deeper"
    causes = ("collapsed-output", "rank-collapse", "vanishing-gradient", "low-learning-rate", "stalled-loss")
    experiment = (
        "Train 50 steps from the start with a tenth of the learning rate and LeakyReLU(0.01): if the loss "
        "falls no better, units are not why."
    )

    def __init__(self) -> None:
        self.layers_of: dict[int, _Layer] = {}
        self.inside: dict[tuple[int, str], _Layer] = {}  # of functions inside modules, by weight
        self.told: set[int] = set()
        self.is_running = False  # has a layer lost its gradient in the step before?
        self.through_relu: set[int] = set()  # outputs that were seen to be given through one
        self.progress = Progress()
        self.looks = 0

    def start(self, tensors: Tensors) -> None:
        self.tensors, self.layers = tensors, Layers(tensors)
        found = {c: self.layers.producer(c) for c in self.layers.outputs if tensors[c].module in RELU}
        self.producers = {c: p for c, p in found.items() if p == c or self.layers.is_trained(p)}
        self.plain = [c for c in self.layers.outputs if tensors[c].module in AFFINE | NORMS and self.layers.is_trained(c)]
        self.deepest_first: list[int] = []  # of layers_of
        self.biases = {c: self.layers.bias(self.producers.get(c, c)) for c in self.layers.outputs}
        weighted = [c for c in self.layers.outputs if self.layers.is_trained(c)]
        last = (self.layers.bias(weighted[-1]), self.layers.weight(weighted[-1])) if weighted else ()
        self.last = [c for c in last if c is not None]

    def read(self, block: Block) -> Iterator[Finding]:
        tables = {name: rows_by_step(block.rows(name)) for name in ("steps", "units", "spread")}
        zeros = block["gradient.zero_fraction"]
        biases = [c for c in self.biases.values() if c is not None]
        is_cut = np.atleast_1d((zeros[:, biases] > MOST).any(axis=1))
        seen = block.start
        for step in sorted({step for table in tables.values() for step in table}):
            for row in tables["steps"].get(step, ()):
                self.progress.read(row)
            is_looked_at = step in tables["spread"] or step in tables["units"]
            if not (is_looked_at or is_cut[step - block.start] or self.is_running):
                continue  # nearly always: no layer has lost its gradient
            self._stay_calm(zeros[seen - block.start : step - block.start], seen)
            for row in tables["spread"].get(step, ()):
                yield from self._look_through(block, step, row)
            for row in tables["units"].get(step, ()):
                yield from self._look(block, step, row)
            yield from self._between(block, step)
            seen = step + 1
        self._stay_calm(zeros[seen - block.start :], seen)

    # ---- looks ----

    def _look(self, block: Block, step: int, row: Mapping[str, Any]) -> Iterator[Finding]:
        column = self.tensors.column.get(row["tensor"])
        if column is None or not (column in self.producers or column in self.plain) or len(row["active"]) < 2:
            return
        if block["activation.nonfinite_count"][step - block.start, column] > 0 or not np.isfinite(row["sum_sq"]).all():
            return  # NaN is not above 0 either, and no death of a unit
        self.looks += 1
        silent = np.asarray(row["active"]) == 0
        layer = self.layers_of.setdefault(column, _Layer(len(silent)))
        if len(layer.inputs) != len(silent):
            return
        inputs = max(self.layers.samples(column, row["n"]), row["n"] / POSITIONS)
        dead, revived = layer.look(silent, inputs, step)
        if not dead.any():
            return
        if column not in self.producers and not self._has_no_gradient(block, step, column, int(dead.sum()), len(dead)):
            return
        place = self.producers.get(column, column)
        is_certain = bool(revived <= REVIVED and layer.inputs[dead].sum() >= EXPOSURES and layer.inputs[dead].min() >= SAMPLES)
        if is_certain and not {place, column} & self.told and self._is_harm(layer, dead):
            self.told |= {place, column}
            yield self._finding(place, step, layer, dead)

    def _is_harm(self, layer: _Layer, dead: np.ndarray) -> bool:
        """Are more dead than chance explains, or so many that it is why the loss does not fall?"""
        units, found = len(dead), float(dead.mean())
        since = np.sort(layer.since[dead])
        together = int((np.searchsorted(since, since + AT_ONCE) - np.arange(len(since))).max())
        if (dead.all() and units >= NO_CHANCE) or (units >= SMALL and together > _by_chance(units) * units):
            return True
        is_most = bool(dead.all()) if units < SMALL else found > _by_chance(units)
        return is_most and self.progress.steps >= LONG and self.progress.is_stalled

    def _look_through(self, block: Block, step: int, row: Mapping[str, Any]) -> Iterator[Finding]:
        """At the function through which an output is given to the next module."""
        column = self.tensors.column.get(row["tensor"])
        if column is None or not (self.layers.is_trained(column) or self.layers.is_inside(column)):
            return
        if self.layers.is_inside(column):
            yield from self._look_inside(block, step, column, row)
            return
        if row["bend"] == "relu":
            self.through_relu.add(column)
        if row["bend"] in SMOOTH:
            yield from self._sleep(step, column, self.layers_of.setdefault(column, _Layer(self.layers.units(column))), row)

    def _look_inside(self, block: Block, step: int, column: int, row: Mapping[str, Any]) -> Iterator[Finding]:
        """At a function inside a module, told of a weight. ReLU: the weight's gradient is exactly 0 for as many units."""
        if row["bend"] not in (*SMOOTH, "relu") or row["features"] < SMALL:
            return
        self.looks += 1
        layer = self.inside.setdefault((column, row["bend"]), _Layer(row["features"]))
        asleep, units = row["asleep_units"], row["features"]
        zeros = block["gradient.zero_fraction"][step - block.start, column]
        is_proved = row["bend"] in SMOOTH or (zeros * units >= asleep * units - 0.5 and (zeros < 1 or asleep == 1))
        is_sudden = layer.quiet <= SOME and self.progress.is_worse
        is_late = layer.asleep == 0 and step > 0 and not is_sudden
        layer.is_late = is_late if layer.asleep == 0 else layer.is_late
        is_harm = not layer.is_late or (self.progress.steps >= LONG and self.progress.is_stalled)
        layer.quiet = layer.quiet if asleep > _by_chance(units) else asleep
        if asleep > _by_chance(units) and is_proved:
            yield from self._sleep(step, column, layer, row, is_harm)
        else:
            layer.asleep = 0

    def _sleep(self, step: int, column: int, layer: _Layer, row: Mapping[str, Any], is_harm: bool = True) -> Iterator[Finding]:
        """Units without a slope, look after look."""
        share_asleep = row["asleep_units"]
        is_most = share_asleep == 1 if len(layer.inputs) < SMALL else share_asleep > MOST
        if not is_most:
            layer.asleep = 0
            return
        layer.asleep += 1
        layer.asleep_since, inputs = (step, 0.0) if layer.asleep == 1 else (layer.asleep_since, layer.asleep_inputs)
        layer.asleep_inputs = inputs if layer.asleep == 1 else inputs + row["samples"]
        exposures = layer.asleep_inputs * share_asleep * len(layer.inputs)
        if is_harm and exposures >= EXPOSURES and layer.asleep_inputs >= SAMPLES and column not in self.told:
            self.told.add(column)
            yield self._asleep(column, step, layer, row)

    def _has_no_gradient(self, block: Block, step: int, column: int, dead: int, units: int) -> bool:
        """Is the gradient exactly 0 of as many units as seem dead, and not of the living ones?"""
        parameter = self.layers.bias(column)
        parameter = self.layers.weight(column) if parameter is None else parameter
        if parameter is None:
            return False
        zeros = block["gradient.zero_fraction"][step - block.start, parameter] * units
        return bool(zeros >= dead - 0.5 and (zeros < units - 0.5 or dead == units))

    # ---- between looks ----

    def _between(self, block: Block, step: int) -> Iterator[Finding]:
        """Most units of a layer lose their gradient at once, and it stays so; the last one in the order of execution: what it
        does not let through, those before it cannot get."""
        zeros_of = block["gradient.zero_fraction"][step - block.start]
        is_cut = not self._is_fed(zeros_of)
        if len(self.deepest_first) != len(self.layers_of):
            self.deepest_first = sorted(self.layers_of, key=lambda c: -self.tensors[c].order)
        for column in self.deepest_first:
            layer = self.layers_of[column]
            place = self.producers.get(column, column)
            bias = self.biases[column]
            is_relu = column in self.producers or column in self.through_relu
            is_cut |= place in self.told
            if not is_relu or bias is None or place in self.told or len(layer.inputs) < SMALL:
                continue
            zeros = float(zeros_of[bias])
            if np.isnan(zeros):
                continue
            layer.before = [*layer.before[1 - CALM :], zeros]
            if len(layer.before) == CALM and max(layer.before) <= SOME:
                layer.calm = step
            is_most = zeros > MOST and 0 <= layer.calm >= step - AFTER
            layer.begun = step if is_most and layer.streak == 0 else layer.begun
            layer.streak = layer.streak + 1 if is_most else 0
            if layer.streak >= PATIENCE and self.progress.is_worse and not is_cut:
                self.told |= {place, column}
                yield self._sudden(place, layer, step, zeros)
            is_cut |= layer.streak > 0
        self.is_running = any(layer.streak for layer in self.layers_of.values())

    def _stay_calm(self, zeros: np.ndarray, start: int) -> None:
        """The same for steps in which no layer loses its gradient: only what they were before it is kept."""
        for column, layer in self.layers_of.items() if len(zeros) else ():
            if (bias := self.biases[column]) is None:
                continue
            steps = np.flatnonzero(~np.isnan(zeros[:, bias]))
            found = np.concatenate([layer.before, zeros[steps, bias]])
            layer.before = found[-CALM:].tolist()
            if len(found) >= CALM and len(steps):
                in_a_row = np.convolve(found <= SOME, np.ones(CALM), "valid")[-len(steps) :]
                calm = np.flatnonzero(in_a_row == CALM)
                layer.calm = start + int(steps[calm[-1] - len(in_a_row)]) if len(calm) else layer.calm

    def _is_fed(self, zeros: np.ndarray) -> bool:
        """Does the loss send any gradient? A hinge that is met by all samples sends none, and no unit is dead of it."""
        return not self.last or not all(zeros[c] == 1 for c in self.last)

    # ---- findings ----

    def _finding(self, column: int, step: int, layer: _Layer, dead: np.ndarray) -> Finding:
        name, inputs = self.layers.place(column), layer.inputs[dead]
        number, units = int(dead.sum()), len(dead)
        birth = int(layer.since[dead].max())
        return Finding(
            place=name,
            first_step=int(np.sort(layer.since[dead])[int(number / 2)]),
            told_step=step,
            message=f"{number} of the {units} units of {name or 'the model'} gave nothing above 0 for any of the last "
            f"{counted(int(inputs.min()), 'input')}: their gradient is exactly 0, so they stay so.",
            evidence=(
                ValueEvidence("share of dead units", number / units, MOST),
                ValueEvidence("inputs since they fell silent, times units", float(inputs.sum()), EXPOSURES),
                TableEvidence(
                    "units",
                    ("units", "dead", "silent since step (last of them)", "inputs each (fewest)"),
                    ((units, number, birth, int(inputs.min())),),
                ),
            ),
            fix=self._fix(column),
            severity="error" if number == units else "",
            depth=self.tensors[column].order / 1e6,
        )

    def _sudden(self, column: int, layer: _Layer, step: int, zeros: float) -> Finding:
        name = self.layers.place(column)
        return Finding(
            place=name,
            first_step=layer.begun,
            told_step=step,
            message=f"From step {layer.begun} on the gradient of {share(zeros)} of the units of {name or 'the model'} "
            "is exactly 0 (at "
            f"most {share(SOME)} up to step {layer.calm}): a ReLU gives 0 for all inputs there.",
            evidence=(
                ValueEvidence("share of units without gradient", zeros, MOST),
                ValueEvidence("steps since it was small", step - layer.calm, AFTER),
            ),
            fix=self._fix(column),
            certainty="heuristic",
            depth=self.tensors[column].order / 1e6,
        )

    def _asleep(self, column: int, step: int, layer: _Layer, row: Mapping[str, Any]) -> Finding:
        name, found = self.layers.place(column), row["asleep_units"]
        return Finding(
            place=name,
            first_step=layer.asleep_since,
            told_step=step,
            message=f"{share(found)} of the units of {name or 'the model'} lie where {row['bend']} is flat (slope "
            "below 0.001) for all "
            f"of the last {counted(int(layer.asleep_inputs), 'input')}.",
            evidence=(
                ValueEvidence("share of units without slope", found, MOST),
                ValueEvidence("share of numbers without slope", row["flat"]),
                ValueEvidence("inputs since they fell silent", layer.asleep_inputs, SAMPLES),
            ),
            fix=self._fix(column),
            severity="error" if found == 1 else "",
            depth=self.tensors[column].order / 1e6,
        )

    def _fix(self, column: int) -> str:
        kind = ", nonlinearity='relu'"
        return (
            "Lower the learning rate or warm it up, and look at how this layer starts: "
            f"{started(self.tensors, column, more=kind)}. Or use an activation with a slope everywhere, such as LeakyReLU or "
            "GELU."
        )

    def lacking(self) -> tuple[Outcome, str] | None:
        if not self.producers and not self.plain:
            return Outcome.NOT_APPLICABLE, "no layer whose units could die was recorded"
        if self.looks < 2:
            return Outcome.NOT_ENOUGH_DATA, "units were looked at fewer than twice"
        return None


def _by_chance(units: int) -> float:
    """The share of dead units up to which signs alone may have killed them."""
    return float(min(1.0 - 0.5 / units, MOST + BY_CHANCE * 0.5 / units**0.5))
