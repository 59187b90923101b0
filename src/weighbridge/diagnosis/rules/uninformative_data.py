"""Nothing in the inputs tells the targets apart: labels are shuffled, or all inputs are the same.

Symptom        The loss settles where a guess that knows no input would be (ln of the number of classes, the variance of the
               targets) and stays there, although gradients, updates and learning rate look healthy.
How it decides Three things together. Two tests of independence find nothing: distances between inputs against those between
               targets, and targets of nearest neighbours. Over n samples a connection of strength r lies r sqrt(n) standard
               deviations from nothing; both must lie MISSED below that of SEEN, and at most CLEAR from 0, so that of what is
               as strong as SEEN one look in 44 misses it, be it early or late. The mean of the last RECENT losses (from step
               SETTLE on) is, within two standard errors, at least that of the best constant guess, computed from the targets
               that were met, and at most ABOVE of it. And steps were taken that promised PROMISED of the loss, and successive
               gradients do not point the same way (median of the last COMPARED cosines below AGREE): what tells targets apart
               gives new batches the same gradient. Asked from STEPS on, where the promised fall is two standard errors of the
               loss, or from SOON where it is POWER of them: it would have been seen. Inputs that are all the same in every
               batch count as samples that show nothing. Inputs that become all the same in mid-run are told at ALIKE looks in
               a row, after as many at which MANY of a batch's samples differed, whatever the loss.
What to do     Look at ten samples with their labels, as they come out of the loader. Usual causes: features and labels
               shuffled apart, an index that is off by one, a transformation that returns zeros.
When it errs   A task whose answer lies only in how very many features combine, or whose signal is a few per cent of the
               noise, looks like this at its beginning. Not judged: losses that are weighted, smoothed or summed, targets
               of other losses than torch's and cross-entropy, squares and absolute errors by hand, classes of which no
               batch had one twice (contrastive losses number the samples of a batch), batches of one sample, inputs on a
               device, several losses that pull at one model (GANs).
References     Szekely and Rizzo 2014, "Partial distance correlation with methods for dissimilarities"; Cover and Hart 1967,
               "Nearest neighbor pattern classification"; Zhang et al. 2017, "Understanding deep learning requires rethinking
               generalization" (training on random labels).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from weighbridge.diagnosis import INPUT, Finding, Needs, Outcome, Rule, ValueEvidence
from weighbridge.diagnosis.pace import whole_cosines
from weighbridge.diagnosis.rivals import Rivals
from weighbridge.diagnosis.stream import Block, summed
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.format import count, counted, number

SEEN, MISSED = 0.25, 2.0  # strength of a connection, and standard deviations below its mean: 2.3 % of a normal distribution
CLEAR = 3.0  # standard deviations, from 400 samples on: nothing that is independent passes it in more than 1 of 700 runs
SAMPLES = 196  # below, the limit of SEEN is so low (1.5) that chance passes it in a quarter of all runs
SETTLE = 5  # steps in which a fresh model's own guess fades
STEPS = 15  # with a loss
SOON, POWER = 10, 4.0  # steps; standard errors
RECENT = 50  # steps whose losses are compared with the guess: what is learnt slowly shows in the last ones
VISITS = 200  # steps instead, where embeddings are learnt: a row changes only when its token comes again
BELOW = 0.98  # of the constant guess's loss: what was won is no more than this
ABOVE = 1.25
PROMISED = 0.02  # of the loss, all steps together
ERRORS = 2.0
ALIKE, MANY = 2, 0.5  # looks; of a batch: rows of sparse features may be the same by chance
COMPARED = 5
AGREE = 0.5  # learning shuffled labels by heart gives less: it is the same samples, not the same direction, that come again


class UninformativeData(Rule):
    id, title = "uninformative-data", "The inputs say nothing about the targets"
    severity, certainty, since = "warning", "test", "0.1"
    causes = ("stalled-loss", "collapsed-output", "vanishing-gradient", "low-learning-rate", "dead-units", "rank-collapse")
    needs = Needs(update=["dot_gradient_update"], tables=["steps", "groups", "pairing", "coherence"])
    experiment = "50 steps over one batch of 32 samples: a model that fits them learns by heart; new batches must stay as bad."

    def __init__(self) -> None:
        self.sums = {"distance": np.zeros(2), "neighbour": np.zeros(2)}  # sum, and its variance
        self.samples = self.alike = self.met = 0
        self.differed, self.one_sample = 0, (0, -1)  # looks: with many samples, and in a row with one since the step
        self.kinds: set[str] = set()
        self.counts: dict[float, float] = {}
        self.has_repeats = False  # has a batch had one class twice? Else they may be the numbers of its rows
        self.moments: np.ndarray | None = None  # [2, columns]: sums and sums of squares
        self.losses: deque[float] = deque(maxlen=RECENT)
        self.last = -1  # step
        self.rivals = Rivals()
        self.cosines: deque[float] = deque(maxlen=COMPARED)
        self.agree = False  # do the last COMPARED of them?
        self.promise, self.first, self.steps, self.is_told = 0.0, -1, 0, False
        self.promised = 0.0  # the same from SETTLE on
        self.seen = (
            math.inf,
            math.nan,
        )  # of the samples so far: the largest score, and the loss of a guess that knows no input

    def start(self, tensors: Tensors) -> None:
        self.tensors = tensors
        has_tables = any(t.module.startswith("Embedding") for t in tensors)
        self.needed = VISITS if has_tables else SOON

    def read(self, block: Block) -> Iterator[Finding]:
        if self.is_told:
            return
        self.rivals.read(block)
        pairs = {row["step"]: row for row in block.rows("pairing") if _varies(row)}
        cosines = {step: cosine for (step, _), cosine in whole_cosines(block, self.tensors).items()}
        falls = -summed(np.nan_to_num(block["update.dot_gradient_update"], posinf=np.inf, neginf=-np.inf))
        for row in block.rows("steps"):
            if row["step"] == self.last or row["step"] >= self.rivals.since:  # another optimizer at the same step
                continue
            self.last = row["step"]
            if row["step"] in cosines:
                self.cosines.append(cosines[row["step"]])
                self.agree = len(self.cosines) == COMPARED and float(np.median(self.cosines)) > AGREE
            if row["step"] in pairs:
                self._add(pairs[row["step"]])
                if self._has_lost_its_inputs(pairs[row["step"]]):
                    self.is_told = True
                    yield self._lost(pairs[row["step"]])
                    return
            if row["loss"] is None or not math.isfinite(row["loss"]):
                continue
            self._add_loss(float(row["loss"]), float(falls[row["step"] - block.start]), row["step"])
            if self._is_clear():
                self.is_told = True
                yield self._finding(row["step"])
                return

    def _add(self, row: Mapping[str, Any]) -> None:
        self.kinds.add(row["loss"])
        self.first = row["step"] if self.first < 0 else self.first
        if row["samples"] == 1:
            self.alike += row["batch"]
        for name, total in self.sums.items():
            total += (row[name], row[f"{name}_variance"])
        self.samples += row["batch"] if row["samples"] == 1 else row["samples"]
        if row["loss"].startswith("Nll"):
            for one, many in zip(row["first"], row["second"], strict=True):
                self.counts[one] = self.counts.get(one, 0.0) + many
        else:
            now = np.array([row["first"], row["second"]])
            self.moments = now if self.moments is None or self.moments.shape != now.shape else self.moments + now
        self.met += row["batch"]
        self.has_repeats |= max(row["second"]) > 1
        self.seen = (max(abs(score) for score in self.scores().values()), self.floor())

    def _has_lost_its_inputs(self, row: Mapping[str, Any]) -> bool:
        """Is this the second look in a row at a batch of one sample, after others at which samples differed?"""
        if row["samples"] > 1:
            self.differed += row["samples"] >= MANY * row["batch"]
            self.one_sample = (0, -1)
        elif row["batch"] > 1:
            looks, first = self.one_sample
            self.one_sample = (looks + 1, first if looks else row["step"])
        return self.differed >= ALIKE and self.one_sample[0] >= ALIKE

    def _lost(self, row: Mapping[str, Any]) -> Finding:
        looks, first = self.one_sample
        return Finding(
            place=INPUT,
            first_step=first,
            told_step=row["step"],
            message=f"From step {first} on all {row['batch']} inputs of a batch are the same, and their targets are not: "
            "nothing that the model gives can fit them.",
            evidence=(
                ValueEvidence("looks in a row at a batch of one sample", looks, ALIKE),
                ValueEvidence("looks before at which samples differed", self.differed, ALIKE),
            ),
            fix=f"Look at the batch of step {first} as the loader gives it: a file that is empty, a mask that hides all, or a "
            "transformation that returns zeros.",
            depth=-0.8,
            certainty="proof",
        )

    def _add_loss(self, loss: float, falls: float, step: int) -> None:
        self.steps += 1
        self.promise += falls / abs(loss) if loss else math.inf
        if self.steps > SETTLE:
            self.losses.append(loss)
            self.promised += falls

    def scores(self) -> dict[str, float]:
        """Of each test: standard deviations away from independence."""
        return {name: float(s / math.sqrt(v)) if v > 0 else 0.0 for name, (s, v) in self.sums.items()}

    def floor(self) -> float:
        """The loss of the best guess that knows no input; NaN where it is not known."""
        is_of_classes = any(kind.startswith(("Nll", "Binary")) for kind in self.kinds)
        if len(self.kinds) != 1 or (is_of_classes and not self.has_repeats):
            return math.nan
        (kind,) = self.kinds
        if kind.startswith("Nll"):
            share = np.array([*self.counts.values()]) / sum(self.counts.values())
            return float(-(share * np.log(share)).sum())
        assert self.moments is not None
        mean, square = self.moments / self.met
        if kind == "MseLoss":
            return float((square - mean**2).mean())
        if kind.startswith("BinaryCrossEntropy") and np.allclose(mean, square):  # targets of 0 and 1 alone
            inside = np.clip(mean, 1e-12, 1 - 1e-12)
            return float(-(inside * np.log(inside) + (1 - inside) * np.log(1 - inside)).mean())
        return math.nan

    def _is_clear(self) -> bool:
        if self.samples < SAMPLES or self.steps < self.needed or not self.promise >= PROMISED:
            return False
        score, floor = self.seen
        agrees = self.alike < self.samples and self.agree
        if score > self._limit() or agrees or not floor > 0:
            return False
        mean, error = self._level()
        if self.promised < (POWER if self.steps < STEPS else ERRORS) * error:
            return False
        return mean + ERRORS * error >= BELOW * floor and mean - ERRORS * error <= ABOVE * floor

    def _limit(self) -> float:
        """Standard deviations from independence that so many samples may show."""
        return min(CLEAR, SEEN * math.sqrt(self.samples) - MISSED)

    def _level(self) -> tuple[float, float]:
        """Mean of the last losses, and its standard error."""
        return float(np.mean(self.losses)), float(np.std(self.losses)) / math.sqrt(max(len(self.losses) - 1, 1))

    def _finding(self, step: int) -> Finding:
        mean, error = self._level()
        scores = self.scores()
        what = (
            "all inputs of a batch are the same"
            if self.alike >= self.samples
            else f"{count(self.samples)} samples show no connection between inputs and targets"
        )
        return Finding(
            place=INPUT,
            first_step=self.first,
            told_step=step,
            message=f"The loss stays at {number(mean)}, that of a guess that knows no input ({number(self.floor())}), and "
            f"{what}.",
            evidence=(
                ValueEvidence("mean loss", mean, self.floor()),
                ValueEvidence("its standard error", error),
                ValueEvidence("distances: standard deviations from independence", scores["distance"], self._limit()),
                ValueEvidence("neighbours: standard deviations from independence", scores["neighbour"], self._limit()),
                ValueEvidence("samples", self.samples, SAMPLES, "samples"),
                ValueEvidence("losses since the model has settled", len(self.losses), None, "steps"),
            ),
            fix="Look at ten samples with their labels as the loader gives them: are they still together, do inputs differ?",
            depth=-0.8,
        )

    def lacking(self) -> tuple[Outcome, str] | None:
        if self.rivals.since < math.inf:
            return (
                Outcome.NOT_APPLICABLE,
                "several losses pull at one model: a judge that can tell nothing apart may be their aim",
            )
        if not self.samples:
            return (
                Outcome.NOT_APPLICABLE,
                "no targets beside inputs were seen: that needs a loss it knows, batches, CPU memory",
            )
        if self.samples < SAMPLES or self.steps < self.needed:
            seen = f"{counted(self.samples, 'sample')} in {counted(self.steps, 'step')}"
            return Outcome.NOT_ENOUGH_DATA, f"{seen}; {SAMPLES} and {self.needed} are needed"
        return None


def _varies(row: Mapping[str, Any]) -> bool:
    """Do the targets of this batch differ from each other?"""
    if row["loss"].startswith("Nll"):
        return len(row["first"]) > 1
    first, second = np.array([row["first"], row["second"]]) / row["batch"]
    return bool((second - first**2 > 1e-12 * second).any())
