"""A network, or the representation inside it, gives the same for every input.

Symptom        All predictions are alike; a generator draws one picture; embeddings of different inputs are one point.
How it decides Of a part of each output the variance over samples, as a share of its mean square: 1 - the mean cosine of two
               samples, if their norms are alike. What ends the model, or what an optimizer trains, has collapsed
               - if it varied once: below ALIKE (mean cosine above 0.99), and its standard deviation has fallen to a fifth of
                 what it was, at PATIENCE looks, or to a hundredth at one. A model first learns how often each class comes, or
                 the mean of its targets, and a single slope that changes its sign goes through 0. So below MANY features only
                 if the loss does not fall, or at PLATEAU looks. With the squared error of given targets whose variance the
                 loss has not fallen below, and with the cross-entropy of given classes, the loss may have begun where that
                 guess is: only if it is no lower than at first, or at PLATEAU looks, of classes after LONG steps; where
                 outputs for classes are exactly the same (nothing passes), if it does not fall; or
               - if it has been below SAME from the start, for SEVERAL looks, and the loss does not fall (at a few, if it is
                 exactly the same; of a generator, whose rival is given samples that differ, this is enough). The place is the
                 first module in the order of execution from which on all is so. Inputs that are all alike, or not seen to
                 differ, are no fault of the network.
What to do     Look at what comes before: dead or saturated units, weights that decay to 0, a learning rate that is too high.
               For siamese training: stop the gradient of one branch, or add a term for the variance. For a GAN: a lower
               learning rate of the discriminator.
When it errs   Few outputs with targets far from 0 (temperatures in kelvin) have a small variance by nature: with fewer than
               MANY features nothing is said once the loss has halved, nor while their mean square grows by MOVES from look to
               look (a critic of returns that grow). A judge with so few outputs whose opponent is trained
               beside it has found nothing to tell apart, which is where a GAN ends. Embeddings of positions are not judged.
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
from weighbridge.diagnosis.rivals import Rivals
from weighbridge.diagnosis.spreads import BATCH, Seen, by_step
from weighbridge.diagnosis.stream import Block, Group
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.firstpass import Start, from_text
from weighbridge.format import number

ALIKE: Final = 0.01  # SimSiam's measure below a tenth of its healthy value: std of normalised outputs < 0.1 / sqrt(d)
SAME: Final = 1e-4  # where nothing tells of a fall: a standard deviation of 1 % of the rms
FALLEN, FALLEN_AT_ONCE = 0.04, 1e-4  # of its largest variance
EXACT: Final = 1e-12  # rounding of float32
NOTHING: Final = 1e-8  # a standard deviation of 1e-4 of the rms: what has varied so much more is no temperature in kelvin
PATIENCE: Final = 2
PLATEAU: Final = 10  # looks
LONG: Final = 100  # steps: the order of classes in a sequence is learned after such plateaus
OF_A_GUESS: Final = 0.5  # of the variance of the targets: the mean as the only answer leaves all of it (half of it, if the loss
# is half the squared error); below it the targets have moved, as those of a second branch do
SEVERAL: Final = 20  # what a deep network of PyTorch's own initial weights gives begins so (each layer with ReLU leaves a sixth
# of the variance: 10^-4 behind five of them), and within 20 steps of a rate that does anything it has grown
SEVERAL_EXACT: Final = 3  # a head that starts at 0 is the same for all at its first look, with warm-up at its second
GROWS: Final = 1.5  # times its first variance: it is on its way
MANY: Final = 8  # features
MOVES: Final = 1.1  # times its mean square at the look before: few outputs on their way to far targets have not come to rest
HALVED: Final = 0.5
VARIES: Final = 1e-3  # of the mean square: inputs, or an earlier output, that do differ
KEPT: Final = 16  # looks shown as evidence


class CollapsedOutput(Rule):
    id, title = "collapsed-output", "The output is the same for every input"
    severity, certainty, since = "warning", "test", "0.1"
    needs = Needs(tables=["spread", "steps", "groups", "graph"])
    travels = "deeper"
    causes = ("stalled-loss",)
    experiment = (
        "Feed two very different inputs to the model and compare what it gives: if outputs differ by more "
        "than 1 %, this is wrong."
    )

    def __init__(self) -> None:
        self.progress, self.rivals = Progress(), Rivals()
        self.has_classes = False  # is the loss the cross-entropy of given ones?
        self.spread_of_targets = np.inf  # variance; inf = not known, or no squared error
        self.square: dict[int, float] = {}  # mean square at the last look
        self.first: dict[int, float] = {}  # variance at the first look,
        self.largest: dict[int, float] = {}  # and the largest so far
        self.always: dict[int, int] = {}  # looks from the first on at which it was the same; -1 = it has differed
        self.fallen: dict[int, int] = {}  # looks in a row
        self.from_step: dict[int, int] = {}
        self.shown: dict[int, list[tuple[int, float]]] = {}
        self.told: set[int] = set()  # ends

    def start(self, tensors: Tensors) -> None:
        self.tensors, self.layers = tensors, Layers(tensors)

    def read(self, block: Block) -> Iterator[Finding]:
        self.rivals.read(block)
        self._note_losses([start for row in block.rows("graph") for start in from_text(row["detail"]).starts])
        for step, seen, _ in by_step(block, self.progress):
            for column, one in seen.items():
                if column != BATCH:
                    self._note(step, column, one)
            for end, optimizer in self._ends(block.groups).items():
                if end in self.told or end not in seen or (step >= self.rivals.since and seen[end].features < MANY):
                    continue
                is_drawn = step >= self.rivals.since and self._is_one_for_all(end, seen)
                if self._has_collapsed(step, end, seen[end], optimizer):
                    column = self._first(end, seen, self.fallen)
                elif self._never_differed(end, seen[end]) and (is_drawn or self._is_stalled(optimizer)):
                    column = self._first(end, seen, self.always)
                else:
                    continue
                if is_drawn or self._inputs_differ(column, seen):
                    self.told.add(end)
                    yield self._finding(step, column, seen[column])

    def _note(self, step: int, column: int, one: Seen) -> None:
        largest, share = self.largest.get(column, 0.0), one.between_samples
        square = one.variance / share if share > 0 else 0.0
        is_moving = share > NOTHING and one.features < MANY and square > MOVES * self.square.get(column, np.inf)
        fell = share < ALIKE and one.variance <= FALLEN * largest and largest > 0 and not is_moving
        always = self.always.get(column, 0)
        self.square[column] = square
        self.first.setdefault(column, one.variance)
        self.largest[column] = max(largest, one.variance)
        self.always[column] = always + 1 if share < SAME and always >= 0 else -1
        if not self.fallen.get(column, 0) and self.always[column] <= 1:
            self.from_step[column] = step
        self.fallen[column] = self.fallen.get(column, 0) + 1 if fell else 0
        self.shown[column] = [*self.shown.get(column, [])[1 - KEPT :], (step, share)]

    def _note_losses(self, starts: Sequence[Start]) -> None:
        self.has_classes |= any(start.kind == "cross-entropy" for start in starts)
        known = [s.trivial for s in starts if s.kind == "squared error" and s.trivial > 0]
        self.spread_of_targets = min([self.spread_of_targets, *known])

    def _has_collapsed(self, step: int, column: int, one: Seen, optimizer: int | None) -> bool:
        looks = self.fallen[column]
        is_sudden = looks == 1 and one.variance <= FALLEN_AT_ONCE * self.largest[column]
        if self.has_classes:
            is_dead = one.between_samples < EXACT
            is_long = looks >= PLATEAU and step - self.from_step[column] >= LONG
            is_harm = self._is_stalled(optimizer) if is_dead else self.progress.is_no_lower(optimizer)
            return looks >= PATIENCE and (is_harm or is_long) and self._is_many(one)
        is_guess = self.progress.now() > OF_A_GUESS * self.spread_of_targets
        is_harm = self.progress.is_no_lower(optimizer) if is_guess else self._is_stalled(optimizer)
        if (is_guess or one.features < MANY) and looks < PLATEAU and not is_harm:
            return False
        return (looks >= PATIENCE or is_sudden) and self._is_many(one)

    def _is_many(self, one: Seen) -> bool:
        """Few outputs with targets far from 0 are nearly the same by nature."""
        return one.features >= MANY or one.between_samples < NOTHING or self.progress.fall() < HALVED

    def _never_differed(self, column: int, one: Seen) -> bool:
        always = self.always[column]
        is_exact = one.between_samples < EXACT and always >= SEVERAL_EXACT
        is_long = always >= SEVERAL and one.variance <= GROWS * self.first[column]
        return is_exact or is_long

    def _is_one_for_all(self, end: int, seen: dict[int, Seen]) -> bool:
        """Of what has a rival and gives many numbers, a generator: exactly the same, while others' outputs differ? One noise
        for all samples is its fault, too."""
        others = any(one.between_samples > VARIES for column, one in seen.items() if column not in {BATCH, end})
        return others and 0 <= seen[end].between_samples < EXACT

    def _is_stalled(self, optimizer: int | None) -> bool:
        """Has the loss of this optimizer stalled? None: those of all."""
        return self.progress.is_stalled if optimizer is None else self.progress.has_stalled(optimizer)

    def _first(self, end: int, seen: dict[int, Seen], holds: dict[int, int]) -> int:
        """The first of the modules up to this end from which on it holds for all that were looked at."""
        first = end
        for column in self.layers.before(end):
            if column not in seen or self.tensors[column].module in ("Embedding", "EmbeddingBag"):
                continue
            if holds[column] < 1:
                break
            first = column
        return first

    def _ends(self, groups: Sequence[Group]) -> dict[int, int | None]:
        """What each model, and what each optimizer's modules, give last, with the optimizer."""
        held = {c: group.optimizer for group in groups for c in group.columns}
        models: dict[str, int] = {}
        trained: dict[int, int] = {}
        for column in self.layers.outputs:  # in the order of execution
            weight = self.layers.weight(column)
            if column in self.first:
                models[self.tensors[column].model] = column
                if weight in held:
                    trained[held[weight]] = column
        ends: dict[int, int | None] = dict.fromkeys(models.values())
        return ends | {column: optimizer for optimizer, column in trained.items()}

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
                ValueEvidence("variance over samples / mean square", one.between_samples, ALIKE),
                ValueEvidence("samples in this look", one.samples, None, "samples"),
                SeriesEvidence("variance over samples / mean square", steps, shares, ALIKE),
            ),
            fix="Look for the cause before it: dead or saturated units, weights decayed to 0, too high a learning "
            "rate. In siamese "
            "training stop the gradient of one branch; in a GAN lower the discriminator's learning rate.",
            depth=self.tensors[column].order / 1e6,
        )

    def lacking(self) -> tuple[Outcome, str] | None:
        if not any(len(shown) >= PATIENCE for shown in self.shown.values()):
            return Outcome.NOT_ENOUGH_DATA, "outputs of several samples were looked at fewer than twice"
        return None
