"""The weights of a layer grow without bound.

Symptom        Norms of weights double again and again; outputs and loss follow, or, behind a norm layer, learning comes to a
               halt.
How it decides The rms of each weight matrix over its first one (or over 0.1 / sqrt(inputs), if it began smaller). Above LIMIT
               where it got there by doubling: each doubling of the last three took no longer than WITHIN steps, and the last
               no longer than SLOWER times the shortest. Or above LIMIT, while the loss is clearly worse than at the start
               (twice its first value three times in a row, or ten times once; or below 0 and ten times as large) and the last
               doubling took less than SLOWS times as long as that before, or above FAR, while the loss does not fall (nor do
               its ranks: test of Mann and Whitney, z above -CLEAR) and its steps promised NEAR of it in all: where they
               promise less, the targets are far (of a million, in their own units). Several doublings in one step are one
               leap. Growth at a constant rate, however fast, takes twice as long for each doubling; that of a learning rate
               in warm-up, too.
What to do     Look for weights that are changed outside the optimizer, a group's learning rate, the sign of weight decay;
               lower the learning rate.
When it errs   Deliberate growth: a temperature kept as a matrix. A weight that starts near 0 and has to become large (a
               linear model of targets in their own units) grows while the loss falls. Rprop lengthens its steps by 1.2 as
               long as signs agree (Riedmiller & Braun 1993), and one step of L-BFGS is many, each as long as the curvature
               says (Liu & Nocedal 1989): of what they hold, doublings say nothing.
References     Soudry et al. 2018, "The implicit bias of gradient descent on separable data" (healthy growth is as log t);
               Arora et al. 2019, "Theoretical analysis of auto rate-tuning by batch normalization" (as t^1/4 behind a norm).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

import numpy as np

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, ValueEvidence
from weighbridge.diagnosis.evidence import TableEvidence
from weighbridge.diagnosis.pace import matrices
from weighbridge.diagnosis.progress import Progress
from weighbridge.diagnosis.ranktest import z_of_fall
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.diagnosis.worse import Worse
from weighbridge.format import number

DOUBLINGS = 3
LIMIT = 2.0**DOUBLINGS
WITHIN = 20  # steps for a doubling (design notes, O4)
SLOWER = 1.1
SLOWS = math.sqrt(
    2
)  # between growth at a rate (1) and at a constant pace (2): Adam's way to targets that are far, or move away
RANKED, LOOKED_BACK, CLEAR = 8, 50, 1.0  # losses of each half, and of both at most; standard errors (ranktest.py)
NEAR = 1.0  # all of the loss, by all steps together: what grows for nothing has promised that long ago
FAR = 64.0  # whatever the course, where it does no good: six doublings
LENGTHENING = ("Rprop", "LBFGS")
PAUSE = 5  # times what the later doublings took, or WITHIN: what grew before that is another story
SMALLEST = 0.1  # of the gain 1 that keeps sizes: below it a layer has hardly begun


class ExplodingWeights(Rule):
    id, title = "exploding-weights", "Weights grow without bound"
    severity, certainty, since = "warning", "heuristic", "0.1"
    needs = Needs(parameter=["rms"], update=["dot_gradient_update"], tables=["steps", "groups"])
    causes = (
        *("nonfinite-origin", "growing-loss", "stalled-loss", "exploding-activation", "exploding-gradient", "saturated-units"),
        *("dead-units", "low-learning-rate", "attention-logit-growth", "loss-spike", "gradient-spike"),
    )
    experiment = (
        "Put the weights of that layer back to their first norm after each step: if the finding is right, the loss no longer "
        "rises."
    )

    def __init__(self) -> None:
        self.begun, self.told = np.zeros(0), np.zeros(0, bool)
        self.passed: dict[int, list[int]] = {}  # by column: steps at which it was seen first, and each time it had doubled
        self.level = np.zeros(0)
        self.worse, self.progress = Worse(), Progress()
        self.losses: deque[float] = deque(maxlen=LOOKED_BACK)
        self.seen = 0
        self.promised = 0.0  # of the loss, by all steps; NaN = not known
        self.has_moved = False  # what a step is held against

    def start(self, tensors: Tensors) -> None:
        self.tensors = tensors
        self.columns = np.flatnonzero(matrices(tensors) & tensors.is_parameter)
        self.least = np.array([SMALLEST / math.sqrt(max(1, t.count // max(1, t.shape[0] if t.shape else 1))) for t in tensors])
        self.begun, self.level = tensors.grown(self.begun, np.nan), tensors.grown(self.level, np.nan)
        self.told = tensors.grown(self.told)

    def read(self, block: Block) -> Iterator[Finding]:
        by_step = {row["step"]: row for row in block.rows("steps") if not row["skipped"]}
        self.lengthened = {c for group in block.groups if group.kind in LENGTHENING for c in group.columns}
        rows = block["parameter.rms"]
        is_there = np.isfinite(rows[:, self.columns])
        self.seen += int(is_there.any(axis=1).sum())
        falls = -block["update.dot_gradient_update"][:, self.columns].sum(axis=1)
        looks = self._looks(rows, 0)
        for i in range(len(block)):
            taken = by_step.get(block.start + i)
            is_worse = self.worse.read(None if taken is None else taken["loss"])
            if taken is not None:
                self.progress.read(taken)
                self.losses.append(np.nan if taken["loss"] is None else taken["loss"])
                self.promised += falls[i] / abs(self.losses[-1] or np.nan)
            if looks[i]:
                yield from self._look(block.start + i, rows[i], self.columns[is_there[i]], is_worse)
                if self.has_moved:
                    looks[i + 1 :], self.has_moved = self._looks(rows, i + 1), False

    def _looks(self, rows: np.ndarray, start: int) -> np.ndarray:
        """bool [steps from start on]: is a weight new there, or has one doubled, or grown far and is not told yet?"""
        sizes, begun = rows[start:, self.columns], self.begun[self.columns]
        with np.errstate(invalid="ignore"):
            is_due = (sizes >= 2.0 * self.level[self.columns]) | ((sizes > LIMIT * begun) & ~self.told[self.columns])
        due: np.ndarray = (is_due | (np.isfinite(sizes) & np.isnan(begun))).any(axis=1)
        return due

    def _look(self, step: int, row: np.ndarray, there: np.ndarray, is_worse: bool) -> Iterator[Finding]:
        new = there[np.isnan(self.begun[there])]
        self.has_moved |= len(new) > 0
        self.begun[new] = np.maximum(row[new], self.least[new])
        self.level[new] = self.begun[new]
        self.passed.update((column, [step]) for column in new.tolist())
        for column in there[row[there] >= 2.0 * self.level[there]].tolist():
            doublings = int(math.log2(row[column] / self.level[column]))
            self.passed[column] += [step] * doublings
            self.level[column] *= 2.0**doublings
            self.has_moved = True
        grown = there[(row[there] > LIMIT * self.begun[there]) & ~self.told[there]]
        far = row > FAR * self.begun
        told = [
            c for c in grown.tolist() if (is_worse and not self._slows(c)) or self._doubles(c) or (far[c] and self._is_idle(c))
        ]
        if told:
            self.told[told] = self.has_moved = True
            for place, columns in self.tensors.together(told, matrices(self.tensors)):
                yield self._finding(place, columns, step, row)

    def _is_idle(self, column: int) -> bool:
        """Is it a weight that has grown while the loss did not fall, not even slowly?"""
        losses, half = np.array(self.losses), len(self.losses) // 2
        is_flat = half >= RANKED and z_of_fall(losses[:half], losses[half:]) > -CLEAR
        is_far_from_it = 0 < self.promised < NEAR
        return self.tensors[column].role == "weight" and self.progress.is_stalled and is_flat and not is_far_from_it

    def _slows(self, column: int) -> bool:
        """Has each of the last doublings taken clearly longer than the one before? At a constant pace, twice as long."""
        steps, times = np.unique(self.passed[column], return_counts=True)
        took = (np.diff(steps) / times[1:])[1 - DOUBLINGS :]
        return len(took) == DOUBLINGS - 1 and bool(took[0] >= DOUBLINGS and took[1] >= SLOWS * took[0])

    def _doubles(self, column: int) -> bool:
        """Has it doubled at three steps after one another, each doubling in few steps, the last hardly slower than the fastest?

        Several doublings in one step are a leap, which a far goal needs, and no growth at a rate: the next ones tell.
        """
        steps, times = np.unique(self.passed[column], return_counts=True)
        if column in self.lengthened or len(steps) <= DOUBLINGS:
            return False
        took = (np.diff(steps) / times[1:])[-DOUBLINGS:]  # steps for one doubling
        # in single steps, 1, 1, 1 may be 0.6, 1.2, 2.4
        is_clear = steps[-1] - steps[-DOUBLINGS - 1] >= 2 * DOUBLINGS or times[1:].sum() >= 2 * DOUBLINGS
        return bool((took <= WITHIN).all() and is_clear and took[-1] <= SLOWER * took.min())

    def _began(self, column: int) -> int:
        """The step of the first of the last doublings that belongs to the same growth: a pause of another order ends it."""
        first, *later = reversed(self.passed[column][-DOUBLINGS:])
        pause = WITHIN
        for step in later:
            if first - step > PAUSE * pause:
                break
            first, pause = step, max(pause, first - step)
        return first

    def _finding(self, place: str, columns: list[int], step: int, row: np.ndarray) -> Finding:
        times = {c: float(row[c] / self.begun[c]) for c in columns}
        worst = max(columns, key=lambda c: times[c])
        first = min(self._began(c) for c in columns)
        rows = tuple((self.tensors.name(c), float(self.begun[c]), float(row[c]), times[c]) for c in columns[:12])
        return Finding(
            place=place,
            first_step=first,
            told_step=step,
            message=f"The rms of {self.tensors.name(worst)} is {number(times[worst])} times what it was at the start; its "
            f"last doublings began at step {first}.",
            evidence=(
                ValueEvidence(f"rms of {self.tensors.name(worst)} over its first", times[worst], LIMIT),
                TableEvidence(f"weights at step {step}", ("parameter", "first rms", "rms", "times"), rows),
            ),
            fix="Look at this layer's learning rate and the sign of its weight decay, and for code that changes its "
            "weights outside the "
            "optimizer; else lower the learning rate.",
            depth=2.5,
        )

    def lacking(self) -> tuple[Outcome, str] | None:
        return None if self.seen > 1 else (Outcome.NOT_ENOUGH_DATA, "parameters were recorded at fewer than 2 steps")
