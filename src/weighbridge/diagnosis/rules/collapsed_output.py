"""A network, or the representation inside it, gives the same for every input.

Symptom        All predictions are alike; a generator draws one picture; embeddings of different inputs are one point.
How it decides Of a part of each output the variance over samples, as a share of its mean square. Below SAME (the standard
               deviation is 1 % of the rms) it has collapsed, if also
               - it varied once: its standard deviation has fallen to a tenth of what it was, at PATIENCE looks; or
               - what ends the model, or what an optimizer trains, has been the same from the start for SEVERAL looks, and the
                 loss does not fall. The place is the first module in the order of execution. Inputs that are all alike, or
                 not seen to differ, are no fault of the network.
What to do     Look at what comes before: dead or saturated units, weights that decay to 0, a learning rate that is too high.
               For siamese training: stop the gradient of one branch, or add a term for the variance. For a GAN: a lower
               learning rate of the discriminator.
When it errs   Few outputs with targets far from 0 (temperatures in kelvin) have a small variance by nature: with fewer than
               MANY features nothing is said once the loss has halved. Embeddings of positions are not judged.
References     Chen & He 2021, "Exploring Simple Siamese Representation Learning" (standard deviation of the output as the
               sign of collapse). Bardes et al. 2022, VICReg. Goodfellow 2016, "NIPS 2016 Tutorial: GANs", section 5.1.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, SeriesEvidence, ValueEvidence
from weighbridge.diagnosis.layers import Layers
from weighbridge.diagnosis.progress import Progress
from weighbridge.diagnosis.spreads import BATCH, Seen, by_step
from weighbridge.diagnosis.stream import Block, Group
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.format import number

SAME: Final = (
    1e-4  # mean cosine between samples above 0.9999; SimSiam's collapsed solutions reach 1, healthy ones stay below 0.9
)
FALLEN: Final = 0.01  # of its largest variance
EXACT: Final = 1e-12  # rounding of float32
PATIENCE: Final = 2
SEVERAL, SEVERAL_EXACT = 5, 3  # a head that starts at 0 is the same for all at its first look, with warm-up at its second
GROWS: Final = 1.5  # times its first variance: it is on its way
MANY: Final = 8  # features
HALVED: Final = 0.5
VARIES: Final = 1e-3  # of the mean square: inputs, or an earlier output, that do differ
KEPT: Final = 16  # looks shown as evidence


class CollapsedOutput(Rule):
    id, title = "collapsed-output", "The output is the same for every input"
    severity, certainty, since = "warning", "test", "0.1"
    needs = Needs(tables=["spread", "steps", "groups"])
    causes = ("stalled-loss",)
    experiment = (
        "Feed two very different inputs to the model and compare what it gives: if outputs differ by more "
        "than 1 %, this is wrong."
    )

    def __init__(self) -> None:
        self.progress = Progress()
        self.first: dict[int, float] = {}  # variance at the first look,
        self.largest: dict[int, float] = {}  # and the largest so far
        self.looks: dict[int, int] = {}
        self.always: dict[int, int] = {}  # looks from the first on at which it was the same; -1 = it has differed
        self.streak: dict[int, int] = {}
        self.from_step: dict[int, int] = {}
        self.shown: dict[int, list[tuple[int, float]]] = {}
        self.told: set[str] = set()

    def start(self, tensors: Tensors) -> None:
        self.tensors, self.layers = tensors, Layers(tensors)

    def read(self, block: Block) -> Iterator[Finding]:
        for step, seen, _ in by_step(block, self.progress):
            for column, one in seen.items():
                if column != BATCH and self.tensors[column].module not in ("Embedding", "EmbeddingBag"):
                    self._note(step, column, one)
            collapsed = [c for c in self.layers.outputs if c in seen and self._has_collapsed(c, seen[c])]
            collapsed += self._from_the_start(seen, block.groups)
            for column in sorted(set(collapsed), key=lambda c: self.tensors[c].order):
                model = self.tensors[column].model
                if model not in self.told and self._inputs_differ(column, seen):
                    self.told.add(model)
                    yield self._finding(step, column, seen[column])

    def _note(self, step: int, column: int, one: Seen) -> None:
        self.looks[column] = self.looks.get(column, 0) + 1
        self.first.setdefault(column, one.variance)
        is_same = one.between_samples < SAME
        largest = self.largest.get(column, 0.0)
        fell = is_same and one.variance <= FALLEN * largest and largest > 0
        self.largest[column] = max(self.largest.get(column, 0.0), one.variance)
        always = self.always.get(column, 0)
        self.always[column] = always + 1 if is_same and always >= 0 else -1
        if not is_same or self.streak.get(column, 0) == 0:
            self.from_step[column] = step
        self.streak[column] = self.streak.get(column, 0) + 1 if fell else 0
        self.shown[column] = [*self.shown.get(column, [])[1 - KEPT :], (step, one.between_samples)]

    def _has_collapsed(self, column: int, one: Seen) -> bool:
        is_sudden = self.streak.get(column, 0) == 1 and one.variance <= FALLEN**2 * self.largest[column]
        is_enough = self.streak.get(column, 0) >= PATIENCE or is_sudden
        return is_enough and (one.features >= MANY or self.progress.fall() < HALVED)

    def _from_the_start(self, seen: dict[int, Seen], groups: Sequence[Group]) -> list[int]:
        """Where an end of a network has never differed: the first module from which on none did."""
        found = []
        for end in self._ends(groups):
            if end not in seen or not self._never_differed(end, seen[end]) or not self.progress.is_stalled:
                continue
            for column in self.layers.before(end):
                if column not in seen:
                    continue
                if self.always.get(column, -1) < 1 or not seen[column].between_samples < SAME:
                    break
                end = column
            found.append(end)
        return found

    def _never_differed(self, column: int, one: Seen) -> bool:
        always = self.always.get(column, -1)
        is_exact = one.between_samples < EXACT and always >= SEVERAL_EXACT
        return is_exact or (always >= SEVERAL and one.variance <= GROWS * self.first[column])

    def _ends(self, groups: Sequence[Group]) -> list[int]:
        """What each model, and what each optimizer's modules, give last."""
        last: dict[object, int] = {}
        held = {c: group.optimizer for group in groups for c in group.columns}
        for column in self.layers.outputs:  # in the order of execution
            if column not in self.looks:
                continue
            last[self.tensors[column].model] = column
            weight = self.layers.weight(column)
            if weight in held:
                last[held[weight]] = column
        return list(dict.fromkeys(last.values()))

    def _inputs_differ(self, column: int, seen: dict[int, Seen]) -> bool:
        if BATCH in seen:
            return seen[BATCH].between_samples > VARIES
        return any(c in seen and seen[c].between_samples > VARIES for c in self.layers.before(column))

    def _finding(self, step: int, column: int, one: Seen) -> Finding:
        name = self.layers.place(column)
        steps, shares = zip(*self.shown[column], strict=True)
        deviation = number(100 * float(np.sqrt(one.between_samples)), 2)
        return Finding(
            place=name,
            first_step=self.from_step[column],
            told_step=step,
            message=f"What {name or 'the model'} gives is the same for all samples: their standard deviation is "
            f"{deviation} % of the "
            f"rms, while the inputs differ.",
            evidence=(
                ValueEvidence("variance over samples / mean square", one.between_samples, SAME),
                SeriesEvidence("variance over samples / mean square", steps, shares, SAME),
            ),
            fix="Look for the cause before it: dead or saturated units, weights decayed to 0, too high a learning "
            "rate. In siamese "
            "training stop the gradient of one branch; in a GAN lower the discriminator's learning rate.",
            depth=self.tensors[column].order / 1e6,
        )

    def lacking(self) -> tuple[Outcome, str] | None:
        if max(self.looks.values(), default=0) < PATIENCE:
            return Outcome.NOT_ENOUGH_DATA, "outputs of several samples were looked at fewer than twice"
        return None
