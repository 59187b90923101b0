"""The loss's gradient fades on its way back through the layers: the shallow ones learn nothing.

Symptom        The loss stops at what a constant answer would give; only the last layers change.
How it decides Along the modules in the order in which they ran, norm(dL/dh) of what they give (times its rms in front of a
               norm layer, which divides by it). From the first module up to some place, all are below LIMIT of the largest
               behind that place, at PATIENCE recorded steps in a row, and the gap does not close. Below ALONE this is enough;
               up to LIMIT, the last FLAT losses must be no lower than the FLAT before them (rank test of Mann and Whitney, z
               above -CLEAR), and above LEARNT of the loss of a constant answer, where
               that is known. Shortcuts that carry the gradient past a branch are seen: the module before the branch has it.
               Where the modules' outputs are not seen, the gradients of the biases (or weights) stand for them. Weights that
               begin at 0 in the last layer, and what comes after it, do not count. Layers that are no modules are looked
               at in the first pass alone: below ALONE and a loss that has not fallen by IMPROVED in SOON steps, or below
               LIMIT and it is flat. Inside a recurrent layer the same along
               its steps of time, in the first backward pass: what arrives in the first quarter of them is below LIMIT of the
               largest, and the loss is as flat; shorter memories are enough for many tasks, so the gradient alone does not
               tell.
What to do     Initialise for the activation (`nn.init.kaiming_normal_(w, nonlinearity="relu")`), put norm layers or shortcuts
               between the layers, replace sigmoid and tanh by ReLU or GELU in deep models.
When it errs   A tower whose output is meant to count for less than a thousandth of another's. Adam hides the effect on the
               size of the updates for a while, not that on their direction.
References     Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks"; He et al.
               2015, "Delving deep into rectifiers"; Du et al. 2018, "Algorithmic regularization ... layers are automatically
               balanced" (why norms of weight gradients do not show it); Schoenholz et al. 2017, "Deep information
               propagation" (the outputs of a network whose gradients vanish are the same for all samples).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, TableEvidence, ValueEvidence
from weighbridge.diagnosis.chain import Chain, chains
from weighbridge.diagnosis.depth import Profile, levels, levels_of_steps, outputs, parameters, sensitivities, steepest, thinned
from weighbridge.diagnosis.incode import made_passing, started
from weighbridge.diagnosis.losscourse import LossCourse
from weighbridge.diagnosis.ranktest import z_of_fall
from weighbridge.diagnosis.rivals import Rivals
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.tensors import Tensors, in_code
from weighbridge.firstpass import from_text
from weighbridge.format import number

LIMIT = 1e-3  # Zhang et al. 2021 (AUTOTRAINER), first over last layer. A layer so slow turns in a thousand times as many steps
ALONE = (
    6.0**-5
)  # ten layers of ReLU as PyTorch initialises them: each takes 1 / sqrt(6) (He et al. 2015, with Var w = 1 / (3 n))
FLAT = 25
CLEAR = 1.0
PATIENCE = 3  # recorded steps: weights that begin at 0 pass nothing at the first
SOON, IMPROVED = 10, 0.05  # steps in which the loss has not fallen by so much, where a gradient below ALONE was seen once
CLOSING = 1.5  # growth over PATIENCE steps by which a gap is closing: one that begins at 0 grows as 1, 2, 3
LEARNT = 0.5  # of the loss that a constant answer has: what is below has learnt what it can, however flat it is by now
ABRUPT = 0.5  # share of the whole fall at one place, from which that place is the answer and not the whole depth
LEAST = 3  # places, to speak of a depth
EVENT = "through_time"  # written by capture: norms of the gradient, the earliest step of time first
QUARTER = 0.25  # of the steps of time: more than the first one or two is forgotten
Seen = tuple[int, float, list[int], np.ndarray]  # step, ratio, places, sizes


class VanishingGradient(Rule):
    id, title = "vanishing-gradient", "The gradient vanishes on its way to the shallow layers"
    severity, certainty, since = "warning", "heuristic", "0.1"
    needs = Needs(
        activation=["rms"], activation_gradient=["l2_norm"], gradient=["l2_norm"], tables=["steps", "events", "graph"]
    )
    travels = "shallower"
    causes = ("stalled-loss", "dominant-epsilon", "low-learning-rate", "gradient-underflow", "collapsed-output", "dead-units")
    # factors below 1 at each layer take the differences between samples with them, too; a unit behind that then is on for all
    # of them, or off
    same = ("collapsed-output",)
    experiment = (
        "Train 50 steps with a norm layer in front of each activation: if the finding is right, the shallow layers' "
        "gradient is "
        "of the size of the deep ones' and the loss falls."
    )

    def __init__(self) -> None:
        self.rivals = Rivals()
        self.seen: dict[tuple[str, bool], deque[Seen]] = {}
        self.losses: deque[float] = deque(maxlen=2 * FLAT)
        self.told: set[str] = set()
        self.times: dict[str, Mapping[str, Any]] = {}  # what was seen of recurrent layers, by module; told ones are gone
        self.is_recorded = False
        self.chain: Chain | None = None
        self.course, self.trivial = LossCourse(), 0.0  # loss of a constant answer

    def start(self, tensors: Tensors) -> None:
        self.tensors = tensors
        self.profiles = [*outputs(tensors), *parameters(tensors)]

    def read(self, block: Block) -> Iterator[Finding]:
        slopes, sizes, gradients = (
            block[name] for name in ("activation_gradient.l2_norm", "activation.rms", "gradient.l2_norm")
        )
        deep = {p.model for p in self.profiles if p.is_of_outputs and sum(p.is_weighted) >= LEAST}
        profiles = [p for p in self.profiles if len(p.columns) >= LEAST and (p.is_of_outputs or p.model not in deep)]
        losses = {row["step"]: row["loss"] for row in block.rows("steps") if not row["skipped"] and row["loss"] is not None}
        self.rivals.read(block)
        for graph in block.rows("graph"):
            known = [one.trivial for one in from_text(graph["detail"]).starts if one.trivial > 0]
            self.trivial = known[0] if len(known) == 1 else self.trivial
        for event in (row["detail"] for row in block.rows("events") if row["kind"] == EVENT):
            self.is_recorded = True
            if 0 < _kept_through_time(event["norms"]) < LIMIT:
                self.times.setdefault(event["module"], event)
        for chain in chains(block):
            self.is_recorded = True
            if not chain.is_through_time and 0 < _starved(chain.norms) < LIMIT and not _is_of_the_last(chain.norms):
                self.chain = chain
        has_slopes = np.isfinite(slopes).any(axis=1)
        calm = [_is_calm(p, sensitivities(p, slopes, sizes) if p.is_of_outputs else gradients) for p in profiles]
        for i in range(len(block)):
            if block.start + i in losses:
                self.losses.append(losses[block.start + i])
                self.course.add(losses[block.start + i])
                if self.chain is not None and not self.told and block.start + i < self.rivals.since:
                    yield from self._along_chain(self.chain, block.start + i)
                if self.times and block.start + i < self.rivals.since and self._is_flat():
                    yield from (self._through_time(event, block.start + i) for event in self.times.values())
                    self.times = {}
            each = () if block.start + i >= self.rivals.since else zip(profiles, calm, strict=True)
            for profile, is_calm in each:  # each has gradients of its own
                if is_calm[i]:  # as nearly all are
                    self._saw_none(profile)
                    continue
                if profile.is_of_outputs and not has_slopes[i]:
                    continue
                row = sensitivities(profile, slopes[i], sizes[i]) if profile.is_of_outputs else gradients[i]
                if np.isfinite(row[list(profile.columns)]).any():
                    yield from self._look(profile, block.start + i, *levels(profile, row))

    def _look(self, profile: Profile, step: int, places: list[int], sizes: np.ndarray) -> Iterator[Finding]:
        if len(places) < LEAST or profile.model in self.told:
            return
        self.is_recorded = True
        ratio = _starved(sizes)
        seen = self.seen.setdefault((profile.model, profile.is_of_outputs), deque(maxlen=PATIENCE))
        if not 0 < ratio < LIMIT or _is_head_alone(profile, places, sizes):
            self._saw_none(profile)
            return
        seen.append((step, ratio, places, sizes))
        if len(seen) == PATIENCE and ratio <= CLOSING * seen[0][1] and (ratio < ALONE or self._is_flat()):
            self.told.add(profile.model)
            yield self._finding(profile, [*seen])

    def _saw_none(self, profile: Profile) -> None:
        """A step at which no layer starves."""
        self.is_recorded = self.is_recorded or profile.model not in self.told
        if seen := self.seen.get((profile.model, profile.is_of_outputs)):
            seen.clear()

    def _along_chain(self, chain: Chain, step: int) -> Iterator[Finding]:
        """Layers that are no modules, in a first pass; and what has become of the loss since."""
        ratio = _starved(chain.norms)
        is_stuck = ratio < ALONE and self.course.steps >= SOON and not self.course.has_improved(IMPROVED)
        if not is_stuck and not self._is_flat():
            return
        self.told.add("")
        self.chain = None
        first = chain.parameters[0]
        yield Finding(
            place=first,
            first_step=chain.step,
            told_step=step,
            message=f"The loss's gradient by what a product with {first} gives is {number(ratio)} of that behind it "
            f"({number(LIMIT)} is the limit), and in {self.course.steps} steps the loss has not fallen.",
            evidence=(
                ValueEvidence("gradient at the shallow end over that behind it", ratio, LIMIT),
                chain.table("norm of the loss's gradient by what each product gives", chain.norms),
            ),
            fix=f"Initialise each layer for its activation, nn.init.kaiming_normal_({in_code(first)}); put a norm layer or a "
            "shortcut between the layers; in place of sigmoid or tanh, ReLU or GELU.",
            depth=1.9,
        )

    def _is_flat(self) -> bool:
        """A loss that stands; not one far below what a constant answer has, which may have nowhere left to fall."""
        losses = np.array(self.losses)
        has_learnt = self.trivial > 0 and self.course.now < LEARNT * self.trivial
        return not has_learnt and len(losses) == 2 * FLAT and z_of_fall(losses[:FLAT], losses[FLAT:]) > -CLEAR

    def _finding(self, profile: Profile, seen: list[Seen]) -> Finding:
        step, ratio, places, sizes = seen[-1]
        at, share = steepest(np.maximum.accumulate(sizes))
        first = next((p for p in places if profile.is_weighted[p]), places[0])
        names = [self.tensors.place_of(profile.columns[p]) for p in places]
        place = names[at + 1] if share >= ABRUPT else self.tensors.place_of(profile.columns[first])
        what = "what this module gives" if profile.is_of_outputs else "this parameter"
        how = f"most of it is lost at {place}" if share >= ABRUPT else f"a part is lost at each of {len(places)} places"
        return Finding(
            place=place,
            first_step=seen[0][0],
            told_step=step,
            message=f"The loss's gradient by what {names[0] or 'the first module'} gives is {number(ratio)} of that behind it "
            f"({number(LIMIT)} is the limit): {how}.",
            evidence=(
                ValueEvidence("gradient at the shallow end over that behind it", ratio, LIMIT),
                TableEvidence(
                    f"norm of the loss's gradient by {what}, in order, at step {step}",
                    ("where", "norm"),
                    tuple(thinned(list(zip(names, sizes.tolist(), strict=True)))),
                ),
            ),
            fix=self._fix(profile, first),
            depth=1.9,
        )

    def _fix(self, profile: Profile, at: int) -> str:
        """With the first layer as an example; a parameter on its own has its own name."""
        column = profile.columns[at]

        def start(function: str, how: str) -> str:
            if profile.is_of_outputs:
                return started(self.tensors, column, function, f", {how}")
            return f"nn.init.{function}({in_code(self.tensors.name(column))}, {how})"

        return made_passing({self.tensors[c].module for c in profile.columns}, start)

    def _through_time(self, event: Mapping[str, Any], step: int) -> Finding:
        norms = event["norms"]
        kept, steps = _kept_through_time(norms), len(norms)
        return Finding(
            place=event["module"],
            first_step=0,
            told_step=step,
            message=f"Of the loss's gradient {number(kept)} comes back to the first quarter of {steps} steps of time "
            f"({number(LIMIT)} is the limit), and in {len(self.losses)} steps the loss has not fallen: what came early in a "
            "sequence cannot be learnt.",
            evidence=(
                ValueEvidence("gradient in the first quarter of the time over the largest", kept, LIMIT),
                TableEvidence(
                    f"norm of the loss's gradient inside {event['module'] or 'the model'} by step of time, at the first step",
                    ("step of time", "norm"),
                    tuple(thinned([(str(t), norm) for t, norm in enumerate(norms)])),
                ),
            ),
            fix="For a plain RNN, an orthogonal recurrent matrix, torch.nn.init.orthogonal_(rnn.weight_hh_l0), or a GRU; for "
            "an LSTM, a bias of 1 to 3 on the forget gate; or pool over all steps, or attend to them, in place of the last.",
            depth=1.9,
        )

    def lacking(self) -> tuple[Outcome, str] | None:
        return None if self.is_recorded else (Outcome.NOT_ENOUGH_DATA, f"gradients of fewer than {LEAST} layers in a row")


def _starved(sizes: np.ndarray) -> float:
    """The smallest that the largest up to some place is of the largest behind it."""
    return float(_starved_at_each(sizes[None])[0])


def _starved_at_each(sizes: np.ndarray) -> np.ndarray:
    """The same of each row of [steps, places]: float64 [steps]; NaN where one is."""
    ahead = np.maximum.accumulate(sizes, axis=1)[:, :-1]
    behind = np.maximum.accumulate(sizes[:, ::-1], axis=1)[:, ::-1][:, 1:]
    ratios = np.full_like(ahead, np.nan)
    np.divide(ahead, behind, out=ratios, where=~(behind <= 0))
    ratios[behind <= 0] = np.inf
    found = ratios.min(axis=1, initial=np.inf)
    return np.where(found == np.inf, 1.0, found)


def _is_calm(profile: Profile, rows: np.ndarray) -> np.ndarray:
    """Of each step: is all of it known, and no layer starved? bool [steps]."""
    sizes = levels_of_steps(profile, rows)
    if sizes.shape[1] < LEAST:
        return np.zeros(len(sizes), bool)
    ratios = _starved_at_each(sizes)
    return (ratios <= 0) | (ratios >= LIMIT)  # not where it is NaN


def _is_of_the_last(sizes: np.ndarray) -> bool:
    """Is nearly all of it lost in the last product? It may begin near 0 on purpose."""
    at, share = steepest(np.maximum.accumulate(sizes))
    return at + 1 == len(sizes) - 1 and _starved(sizes[:-1]) >= LIMIT and share >= ABRUPT


def _kept_through_time(norms: Sequence[float | None]) -> float:
    """The largest in the first quarter of the time, over the largest of all; NaN where one is not finite."""
    sizes = np.array([np.nan if norm is None else norm for norm in norms])
    largest = float(sizes.max())
    return float(sizes[: max(1, int(QUARTER * len(sizes)))].max()) / largest if largest > 0 else np.nan


def _is_head_alone(profile: Profile, places: list[int], sizes: np.ndarray) -> bool:
    """Is all but a small part of it lost in the last layer? It may begin at or near 0 on purpose."""
    at, share = steepest(np.maximum.accumulate(sizes))
    return places[at + 1] == profile.last_weighted and _starved(sizes[:-1]) >= LIMIT and share >= ABRUPT
