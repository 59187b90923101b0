"""The loss is an error with a minus before it: training makes the error as large as it can.

Symptom        The loss is negative and falls without end; the model gets worse and worse at its task, weights grow.
How it decides Exact, on the graph of the first loss and its value: the root leads back, through means, sums, differences,
               signs and constant factors, to errors that cannot be negative (cross-entropy, squared or absolute difference
               to a target, ...), all of them with a minus, and the loss is below 0, at PATIENCE steps in a row; or to one
               with a factor of unknown sign. Or it leads to a log-probability, or to the probability of the targets'
               classes, to their overlap (Dice) or to a cosine similarity with given vectors, and no sign turns it around.
               Losses by hand are seen: z_y - logsumexp(z), the logarithm of a quotient of exponentials (InfoNCE), normal
               densities and mixtures of them, errors over a variance or times a factor that is never below 0 (focal).
               Penalties on the weights do not count. With `maximize=True` in the optimizer the same the other way, and where
               an update written by hand goes along the gradient (their cosine is above CLIMBS) from its first step on:
               momentum carries one that descends uphill now and then.
What to do     Take the minus out (`F.cross_entropy` and the other loss functions of torch have theirs already); take
               `maximize=True` out where a loss is minimised.
When it errs   Errors that are made large on purpose stand beside a pass that makes another small (GANs): with passes of
               several kinds it says nothing. Making a model forget (gradient ascent on some data) looks the same. Weights
               of samples that are not all above 0, differences of two outputs and sums in which one error has a plus
               are not judged. A policy gradient with centred advantages cannot be: with costs in place of rewards the same
               graph is right.
References     PyTorch documentation, torch.nn.CrossEntropyLoss, NLLLoss ("the input is expected to contain
               log-probabilities"), torch.optim.SGD (maximize).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, SeriesEvidence, TableEvidence
from weighbridge.diagnosis.lossterms import LIKELY, LIKENESS, OVERLAP, PENALTY, PROBABLE, Term, terms
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.taken import Taken, norm_of, taken
from weighbridge.firstpass import from_text

PATIENCE = 3
GOOD = (LIKELY, PROBABLE, OVERLAP, LIKENESS)  # the more the better
BOUNDED = (PROBABLE, OVERLAP, LIKENESS)  # of which the loss's value tells no sign
CLIMBS = 0.5  # any optimizer that descends has a cosine below 0 at its first step, and on the whole after it; behind a valley
# momentum carries it uphill for some steps


class WrongLossSign(Rule):
    id, title = "wrong-loss-sign", "An error is made large instead of small"
    severity, certainty, since = "error", "proof", "0.1"
    causes = (
        *("growing-loss", "high-learning-rate", "exploding-weights", "exploding-gradient", "exploding-activation"),
        *("dead-units", "saturated-units", "collapsed-output", "loss-spike", "gradient-spike", "nonfinite-origin"),
    )
    needs = Needs(gradient=["l2_norm"], update=["l2_norm", "dot_gradient_update"], tables=["graph", "steps", "groups"])
    experiment = "Print the loss and the accuracy over 20 steps: if both fall, the finding is right."

    def __init__(self) -> None:
        self.kinds: list[tuple[str, int]] = []  # per kind of pass: what its root leads to, and with which sign
        self.descends: set[int] = set()  # optimizers of which a step went down
        self.run: list[tuple[int, float]] = []  # steps in a row, and their loss
        self.is_told = False

    def read(self, block: Block) -> Iterator[Finding]:
        self.kinds += [judged(terms(from_text(row["detail"]).graph)) for row in block.rows("graph")]
        if len(self.kinds) != 1 or not self.kinds[0][0] or self.is_told:
            return
        name, sign = self.kinds[0]
        rising = {g.optimizer for g in block.groups if g.settings.get("maximize")}
        uphill = {(one.step, one.optimizer) for one in taken(block) if self._climbs(block, one)}
        for row in block.rows("steps"):
            climbs = row["optimizer"] in rising or (row["step"], row["optimizer"]) in uphill
            loss = 0.0 if row["loss"] is None else float(row["loss"])
            # What is not known of a factor, the loss tells: its sign is that before an error, as errors are not negative.
            # A loss that is below 0 although no factor turned it has weights of classes, or targets that do not fit it.
            is_of_sign = loss > 0 and sign >= 0 if climbs else loss < 0 and sign <= 0
            is_wrong = not climbs if name in BOUNDED else is_of_sign
            self.run = [*self.run, (row["step"], loss)] if is_wrong else []
            if len(self.run) == PATIENCE:
                self.is_told = True
                yield self._finding(name, climbs, row["optimizer"] in rising)
                return

    def _climbs(self, block: Block, one: Taken) -> bool:
        """Does this step go along the gradient, as all before it?"""
        if one.optimizer in self.descends:  # nearly all, from the first step on
            return False
        cosine = _cosine(block, one)
        if cosine < -CLIMBS:
            self.descends.add(one.optimizer)
        return cosine > CLIMBS

    def _finding(self, name: str, climbs: bool, is_set: bool) -> Finding:
        steps, losses = zip(*self.run, strict=True)
        how = "a minus stands before it"
        if climbs:
            how = (
                "the optimizer climbs (maximize=True)" if is_set else "the weights are moved along its gradient, not against it"
            )
        if name in GOOD and not climbs:
            how = "no minus stands before it"
        return Finding(
            place="",
            first_step=steps[0],
            told_step=steps[-1],
            message=f"The loss is the {name} of the targets, and {how}: each step makes the model worse.",
            evidence=(
                SeriesEvidence("loss", steps, losses, 0.0),
                TableEvidence("what the root of the loss leads to", ("operation",), ((name,),)),
            ),
            fix="Take maximize=True out."
            if is_set
            else "Subtract lr times the gradient from the weights: p -= lr * p.grad."
            if climbs
            else "Turn the sign of the loss around before backward().",
            depth=0.98,
        )

    def lacking(self) -> tuple[Outcome, str] | None:
        if not self.kinds:
            return Outcome.NOT_ENOUGH_DATA, "the graph of a first loss was not recorded"
        if len(self.kinds) > 1:
            return Outcome.NOT_APPLICABLE, "there are backward passes of several kinds"
        return None if self.kinds[0][0] else (Outcome.NOT_APPLICABLE, "the loss is no single error of a known kind")


def _cosine(block: Block, one: Taken) -> float:
    """Between the gradient that an optimizer used and its update, over all its tensors; 0 where one is not known."""
    dots, gradients, updates = (
        block[name][one.at, one.columns] for name in ("update.dot_gradient_update", "gradient.l2_norm", "update.l2_norm")
    )
    size = norm_of(gradients) * norm_of(updates)
    return float(np.nansum(dots)) / size if 0 < size < np.inf else 0.0


def judged(parts: Sequence[Term]) -> tuple[str, int]:
    """What a loss is said to be, "" = nothing that is known, and the sign of the factor before it: +1, -1, or 0 = not known.

    What is better the larger it is (GOOD) is no error: there the sign is turned around, so that -1 is always the wrong one.
    """
    known = [term for term in parts if term.name and term.name != PENALTY]
    signs = {term.sign * (-1 if term.name in GOOD else 1) for term in known}
    is_alone = len(known) == 1 and all(term.name for term in parts)
    if not known or len(signs) > 1 or (0 in signs and not is_alone):
        return "", 0
    if known[0].has_factor and known[0].name == LIKELY:
        return "", 0
    names = {term.name for term in parts}
    for name in names & {*BOUNDED}:  # alone, or of two views: a part of a larger loss may hold them down on purpose
        if signs != {-1} or len(names) > 1 or (name == PROBABLE and not (is_alone and known[0].is_picked)):
            return "", 0
    return " and ".join(dict.fromkeys(term.name for term in known)), signs.pop()
