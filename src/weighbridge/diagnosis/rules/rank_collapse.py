"""What the last hidden layers give lies along one direction, or is the same at all positions, while the inputs do not.

Symptom        The loss stays near that of a constant predictor; widening the network changes nothing.
How it decides The participation ratio (sum of eigenvalues)^2 / sum of squares of the covariance of up to 64 vectors: 1 = one
               direction. Followed from the last hidden output backwards as long as it is below ONE. Told, at PATIENCE looks,
               where inputs have at least INPUT_DIRECTIONS, every layer of the path is at least WIDE, and the loss does not
               fall: either LONG steps after this was so from the start of training on and what is beyond the one direction has
               not grown, or where there were FALL times as many before, the variance beside the main one has halved and the
               head needs more than one (it has more than NEEDS_ONE outputs). Or where the positions of one sample, which were
               not alike at first, are all alike at the end of the path (variance over positions below ALIKE of the mean
               square). At PATIENCE looks where SEVERAL attentions or more lie on every way through the graph of the loss,
               behind them no mean over the positions, and SEVERAL times on the path a FALL-th or less was left of what
               positions differed by, from the start of training on or while the loss does not fall. Else where this lasts
               PLATEAU steps (LONG, if DEEP attentions lie on every way) without growing and the loss does not fall.
What to do     Residual connections around attention and deep blocks; norms; initialisation that keeps correlations
               (orthogonal); a lower learning rate.
When it errs   A classifier that has learned two classes, or a regression, ends in one direction by right: once the loss has
               fallen nothing is said. Layers behind a bottleneck of fewer than WIDE units have few directions by design.
               Of several heads side by side (a detector's, with a bias that says "nothing here") none is on the way to
               another: an affine layer whose outputs the last one cannot take is left out. What frozen layers alone give
               was learnt elsewhere (two classes end in one direction): nothing is said. One attention that starts out
               the same for all its positions learns its way out: its logits have a gradient as long as the values that it
               takes differ, which above another such attention they do not. A mean over the positions asks for none of their
               differences: it is not told at once. What is added to all positions alike (sigmoid's
               0.5, a bias) hides how they differ, and takes nothing away.
References     Roy & Vetterli 2007, "The effective rank". Dong et al. 2021, "Attention is not all you need: pure attention
               loses rank doubly exponentially with depth". Papyan et al. 2020 (neural collapse: C classes end in C - 1
               directions). Saxe et al. 2014, "Exact solutions to the nonlinear dynamics of learning" (directions are learnt
               one by one).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import numpy as np

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, SeriesEvidence, TableEvidence, ValueEvidence
from weighbridge.diagnosis.layers import AFFINE, NORMS, RECURRENT, Layers
from weighbridge.diagnosis.mixing import attentions
from weighbridge.diagnosis.progress import Progress
from weighbridge.diagnosis.spreads import BATCH, Seen, by_step
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.firstpass import from_text
from weighbridge.format import number

ONE: Final = 1.5  # directions: one of them holds 80 % of the variance or more
INPUT_DIRECTIONS: Final = 4.0
WIDE: Final = 8
FALL: Final = 4.0  # times less than it was (design notes, A3)
ALIKE: Final = 1e-3  # of the mean square
UNLIKE: Final = 0.05
SEVERAL: Final = 2  # attentions: dL/dlogit(i, j) = g(i).(v(j) - mean of v) is 0 where the values are alike (Dong et al. 2021)
PATIENCE: Final = 2
LONG: Final = 20  # steps: a deep network begins with few directions (its layers make samples alike), and learns its way out
PLATEAU: Final = 100  # steps: what to attend to is learnt after such plateaus
DEEP: Final = 4  # attentions; two or three that are pooled are usual, and learn
GROWS: Final = 1.5  # times what was beyond one direction at first: it is on its way
OUT: Final = 1 + (ONE - 1) / 2  # and half of the way out
NEEDS_ONE: Final = 2  # outputs that one direction serves: k numbers need k, k classes k - 1 (Papyan et al. 2020)
LEFT: Final = 0.5  # of the variance beside the main direction: what is learnt first grows along one, and takes nothing away
KEPT: Final = 16


class RankCollapse(Rule):
    id, title = "rank-collapse", "A representation has lost its directions"
    severity, certainty, since = "warning", "heuristic", "0.1"
    needs = Needs(tables=["spread", "steps", "groups", "graph"])
    travels = "deeper"
    causes = ("collapsed-output", "stalled-loss")
    experiment = (
        "Give the layers before this place a residual connection and train 50 steps: if the loss falls no "
        "faster, rank is not why."
    )

    def __init__(self) -> None:
        self.progress = Progress()
        self.looks = 0
        self.attentions: list[int] = []  # of each first pass: on every way to the loss,
        self.asked: list[int] = []  # and where what positions differ by is asked for
        self.alike: dict[int, float] = {}  # what positions differed by when they were alike first
        self.first: dict[int, float] = {}  # directions at the first look,
        self.largest: dict[int, float] = {}  # and the most
        self.beside: dict[int, float] = {}  # the most variance beside the main direction
        self.streak: dict[tuple[int, str], int] = {}
        self.from_step: dict[tuple[int, str], int] = {}
        self.shown: dict[int, list[tuple[int, float, float]]] = {}
        self.told: set[str] = set()

    def start(self, tensors: Tensors) -> None:
        self.tensors, self.layers = tensors, Layers(tensors)

    def read(self, block: Block) -> Iterator[Finding]:
        for row in block.rows("graph"):
            graph = from_text(row["detail"]).graph
            self.asked.append(attentions(graph))
            self.attentions.append(attentions(graph, since_pools=False))
        for step, seen, _ in by_step(block, self.progress):
            self.looks += 1
            for column, one in seen.items():
                self.first.setdefault(column, one.directions)
                self.beside[column] = max(self.beside.get(column, 0.0), _beside(one))
                self.largest[column] = max(self.largest.get(column, 0.0), one.directions)
                self.shown[column] = [*self.shown.get(column, [])[1 - KEPT :], (step, one.directions, one.between_positions)]
            for model in dict.fromkeys(self.tensors[c].model for c in self.layers.outputs):
                if model not in self.told:
                    yield from self._judged(step, model, seen)

    def _judged(self, step: int, model: str, seen: dict[int, Seen]) -> Iterator[Finding]:
        path = self._path(model, seen)
        for kind, begun in (("directions", self._lost_directions(path, seen)), ("positions", self._lost_positions(path, seen))):
            key = (hash(model), kind)
            if begun is None:
                self.streak.pop(key, None)
                continue
            self.streak[key] = self.streak.get(key, 0) + 1
            if self.streak[key] == 1:
                self.from_step[key] = step
                self.alike[begun] = seen[begun].between_positions
            lasts = step - self.from_step[key] + 1
            if kind == "directions":
                is_lost = self._is_lost(begun, seen, self.from_step[key] == 0)
            else:
                is_lost = self._are_lost(begun, path, seen, lasts, self.from_step[key] == 0)
            if self.streak[key] >= PATIENCE and model not in self.told and is_lost:
                self.told.add(model)
                yield self._finding(step, begun, kind, self.from_step[key], seen)

    def _path(self, model: str, seen: dict[int, Seen]) -> list[int]:
        """The hidden outputs in the order of execution, up to what the last affine module is given."""
        mine = [c for c in self.layers.outputs if self.tensors[c].model == model and c in seen]
        affine = [i for i, c in enumerate(mine) if self.tensors[c].module in AFFINE and self.layers.weight(c) is not None]
        self.needs_more = bool(affine) and self.layers.units(mine[affine[-1]]) > NEEDS_ONE
        path = mine[: affine[-1]] if affine else []
        while path and self._is_head_of_its_own(path[-1], mine[affine[-1]]):
            path.pop()
        return path

    def _is_head_of_its_own(self, column: int, last: int) -> bool:
        """Is it affine, and gives what the last affine module cannot take, flattened or not? So both read what is before."""
        weight, taken = self.layers.weight(column), self.layers.weight(last)
        if weight is None or taken is None or self.tensors[column].module not in AFFINE:
            return False
        given, wanted = self.tensors[weight].shape[0], self.tensors[taken].shape[1:2]
        return bool(wanted) and given != wanted[0] and (given < WIDE or wanted[0] % given > 0)

    def _lost_directions(self, path: list[int], seen: dict[int, Seen]) -> int | None:
        """The first output from which on all are in one direction up to the last; None = there is none, or by design."""
        given = seen.get(BATCH) or (seen[path[0]] if path else None)
        if given is None or not given.directions >= INPUT_DIRECTIONS:
            return None
        begun = None
        for column in reversed(path):
            if not seen[column].directions < ONE:
                break
            begun = column
        if begun is None or any(self._is_narrow(c) for c in path):  # behind it too: scores of attention end in one unit
            return None
        layers = [c for c in path if self.layers.weight(c) is not None]
        if layers and not any(map(self.layers.is_trained, layers)):  # what a frozen backbone gives are data
            return None
        return begun

    def _is_narrow(self, column: int) -> bool:
        weight = self.layers.weight(column)
        kind = self.tensors[column].module
        if weight is None or kind in NORMS:
            return False
        shape = self.tensors[weight].shape
        return kind in AFFINE | RECURRENT and (shape[0] < WIDE or (len(shape) == 2 and shape[1] < WIDE))

    def _lost_positions(self, path: list[int], seen: dict[int, Seen]) -> int | None:
        """The same for positions: alike from here to the end, unlike at first."""
        spread = [c for c in path if seen[c].between_positions == seen[c].between_positions]
        if len(spread) < 2 or not seen[spread[0]].between_positions > UNLIKE:
            return None
        begun = None
        for column in reversed(spread):
            if not seen[column].between_positions < ALIKE:
                break
            begun = column
        return begun

    def _is_lost(self, column: int, seen: dict[int, Seen], is_from_start: bool) -> bool:
        """Has it been so for long without a way out, or were there more before, and does the loss not fall?"""
        if is_from_start:
            is_on_its_way = seen[column].directions > max(OUT, 1 + GROWS * (self.first[column] - 1))
            return self.progress.is_stalled and self.progress.steps >= LONG and not is_on_its_way
        were_more = self.needs_more and self.largest[column] >= FALL * seen[column].directions
        were_more &= _beside(seen[column]) < LEFT * self.beside[column]
        return self.progress.is_stalled and were_more

    def _are_lost(self, column: int, path: list[int], seen: dict[int, Seen], lasts: int, is_from_start: bool) -> bool:
        """Do several attentions after one another make positions alike? Else: for long, and does the loss not fall?"""
        left = [seen[c].between_positions for c in path if seen[c].between_positions == seen[c].between_positions]
        losses = sum(after * FALL < before for before, after in pairwise(left))
        if losses >= SEVERAL and min(self.asked, default=0) >= SEVERAL:
            return is_from_start or self.progress.is_stalled
        is_deep = losses >= SEVERAL and min(self.attentions, default=0) >= DEEP
        is_on_its_way = left[-1] > GROWS * self.alike.get(column, 0.0)
        return self.progress.is_stalled and lasts >= (LONG if is_deep else PLATEAU) and not is_on_its_way

    def _finding(self, step: int, column: int, kind: str, since: int, seen: dict[int, Seen]) -> Finding:
        name, one = self.layers.place(column), seen[column]
        shown = self.shown[column]
        steps = tuple(row[0] for row in shown)
        given = seen.get(BATCH)
        if kind == "directions":
            message = (
                f"From {name or 'the model'} on up to the last layer, all vectors lie along one direction: their "
                "participation ratio is "
                f"{number(one.directions)} of at most {one.most}."
            )
            values, limit, what = tuple(row[1] for row in shown), ONE, "participation ratio"
        else:
            message = (
                f"From {name or 'the model'} on up to the last layer, a sample's positions are all alike: they differ by "
                f"{number(one.between_positions)} of the mean square."
            )
            values, limit, what = tuple(row[2] for row in shown), ALIKE, "variance over positions / mean square"
        table = [("batch", given.directions, given.between_positions)] if given else []
        table += [
            (self.tensors.name(c), seen[c].directions, seen[c].between_positions) for c in self.layers.outputs if c in seen
        ]
        return Finding(
            place=name,
            first_step=since,
            told_step=step,
            message=message,
            evidence=(
                ValueEvidence(what, values[-1], limit),
                SeriesEvidence(f"{what} of {name}", steps, values, limit),
                TableEvidence(f"at step {step}", ("output", "participation ratio", "between positions"), tuple(table)),
            ),
            fix="Put residual connections around attention and deep blocks, norms between them, or start with "
            "orthogonal weights.",
            depth=self.tensors[column].order / 1e6,
        )

    def lacking(self) -> tuple[Outcome, str] | None:
        if self.looks < PATIENCE:
            return Outcome.NOT_ENOUGH_DATA, "outputs were looked at fewer than twice"
        return None


def _beside(one: Seen) -> float:
    """Variance beside the main direction, up to a factor near 1."""
    return float(np.nan_to_num(one.variance * (1 - 1 / one.directions)))
