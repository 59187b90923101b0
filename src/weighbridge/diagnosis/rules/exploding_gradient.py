"""The loss's gradient grows on its way back through the layers, or from step to step, out of all proportion.

Symptom        Updates of the shallow layers are wild; the loss jumps or becomes NaN.
How it decides Along the modules in the order in which they ran, norm(dL/dh) of what they give (times its rms in front of a
               norm layer, which divides by it): the largest over that of the last layer (of several heads side by side, by
               the graph of the first loss, the one with most; without such modules gradients of parameters, of which a mean
               and a deviation per weight are one layer). In the first EARLY steps above LIMIT at PATIENCE in a row, while
               the loss has not lost LEARNT of its first; above AT_ONCE at one recorded step, later only while the loss is
               not below HALVED of its first. Or over
               steps: the norm of the whole gradient is above AT_ONCE times its median over the steps before (but for those of
               what was learnt by heart, a loss below its first by AT_ONCE) and above LIMIT times the largest of the first
               BEGUN steps (new targets of a Q-learner bring back gradients of the beginning), while the loss is clearly
               worse than at the start (twice its first value three times in a row, or ten times once).
What to do     Smaller initial weights, orthogonal for what is applied again and again (RNN); norm layers;
               `torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)` as a belt.
When it errs   Deep batch-norm models without shortcuts begin with gradients that grow by BATCH_NORM per layer (Yang et al.
               2019): so much more is allowed for each.
References     Pascanu et al. 2013, "On the difficulty of training recurrent neural networks"; Glorot & Bengio 2010; Yang et
               al. 2019, "A mean field theory of batch normalization".
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

import numpy as np

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, SeriesEvidence, TableEvidence, ValueEvidence
from weighbridge.diagnosis.chain import Chain, chains
from weighbridge.diagnosis.depth import (
    Profile,
    as_layers,
    levels,
    levels_of_steps,
    outputs,
    parameters,
    sensitivities,
    steepest,
    thinned,
)
from weighbridge.diagnosis.losscourse import LossCourse
from weighbridge.diagnosis.progress import Progress
from weighbridge.diagnosis.rivals import Rivals
from weighbridge.diagnosis.sizes import ends, normed
from weighbridge.diagnosis.stream import Block, rows_by_step, summed
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.diagnosis.worse import Worse
from weighbridge.firstpass import FirstPass, from_text
from weighbridge.format import number

# between 10 and 100, the two readings of ln 100 for the gain over the whole depth (design notes, I2)
LIMIT = 30.0
AT_ONCE = 1e3
PATIENCE = 3
BEGUN = 3  # steps whose gradients are those of the initial weights, as for gradient-spike
EARLY = 20  # steps: later, layers that have learnt large targets may pass more on
BATCH_NORM = 1.21  # root of pi / (pi - 1): what a ReLU layer with batch norm passes on of the gradient (Yang et al. 2019)
ABRUPT = 0.5
LEAST = 3
HISTORY = 50
IMPROVED = 0.02  # of the loss in EARLY steps: where one look alone has shown more than LIMIT
HALVED = 0.5  # what has learnt so much bears its gradients, and near 0 they are rounding
LEARNT = 0.8  # the same in the first EARLY steps, where a loss that began far too high soon halves


class ExplodingGradient(Rule):
    id, title = "exploding-gradient", "The gradient explodes"
    severity, certainty, since = "warning", "heuristic", "0.1"
    needs = Needs(
        activation=["rms", "count"], activation_gradient=["l2_norm"], gradient=["l2_norm"], tables=["steps", "graph", "events"]
    )
    travels = "shallower"
    causes = (
        *(
            "nonfinite-origin",
            "high-learning-rate",
            "growing-loss",
            "stalled-loss",
            "exploding-weights",
            "exploding-activation",
        ),
        *("gradient-spike", "loss-spike", "overtight-clipping", "dead-units", "saturated-units", "scaler-starvation"),
    )
    experiment = (
        "Halve the initial weights (or take orthogonal ones) and look at the first step: if the finding is right, the "
        "gradient at "
        "the shallow end falls by more than half per two layers."
    )

    def __init__(self) -> None:
        self.rivals = Rivals()
        self.rows: dict[tuple[str, bool], deque[int]] = {}
        self.told: set[str] = set()
        self.norms: deque[tuple[int, float]] = deque(maxlen=HISTORY)
        self.at_first: list[float] = []  # the norms of the first BEGUN steps
        self.worse, self.progress, self.begun = Worse(), Progress(), -1
        self.passes: list[FirstPass] = []  # not looked at yet
        self.ends: set[str] = set()
        self.free: set[int] = set()  # outputs that are divided by their own size
        self.is_recorded = False
        self.chain: Chain | None = None  # above LIMIT in the one pass that was looked at
        self.course = LossCourse()

    def start(self, tensors: Tensors) -> None:
        self.tensors = tensors
        self.profiles = [*outputs(tensors), *parameters(tensors)]
        self.is_parameter = tensors.is_parameter
        self.counts = np.array([max(1, t.count) for t in tensors], float)

    def read(self, block: Block) -> Iterator[Finding]:
        slopes, sizes, gradients = (
            block[name] for name in ("activation_gradient.l2_norm", "activation.rms", "gradient.l2_norm")
        )
        deep = {p.model for p in self.profiles if p.is_of_outputs and sum(p.is_weighted) >= LEAST}
        profiles = [p for p in self.profiles if len(p.columns) >= LEAST and (p.is_of_outputs or p.model not in deep)]
        taken = rows_by_step(row for row in block.rows("steps") if not row["skipped"])
        self.passes += [from_text(row["detail"]) for row in block.rows("graph")]
        self.rivals.read(block)
        for chain in chains(block) if not self.told else ():
            yield from self._along_chain(chain)
        has_slopes = np.isfinite(slopes).any(axis=1)
        wholes = np.sqrt(summed(np.nan_to_num(gradients[:, self.is_parameter] ** 2, posinf=np.inf))).tolist()
        bounds: list[np.ndarray] = []
        for i in range(len(block)):
            for row in taken.get(block.start + i, ()):
                self.progress.read(row)
                if self.chain is not None and row["loss"] is not None:
                    self.course.add(row["loss"])
                    yield from self._of_chain(self.chain, block.start + i)
            for place, profile in enumerate(() if block.start + i >= self.rivals.since else profiles):  # gradients of its own
                if profile.is_of_outputs and not has_slopes[i]:
                    continue
                if not bounds:
                    self._learn_from_graphs()
                    bounds = [_at_most(p, self._norms(p, slopes, sizes) if p.is_of_outputs else gradients) for p in profiles]
                if bounds[place][i] <= (LIMIT if self._is_early(block.start + i) else AT_ONCE):  # as nearly all are
                    self._saw_none(profile, block.start + i)
                    continue
                norms = self._norms(profile, slopes[i], sizes[i]) if profile.is_of_outputs else gradients[i]
                if np.isfinite(norms[list(profile.columns)]).any():
                    self.calls = block["activation.count"][i] / self.counts
                    yield from self._along_depth(profile, block.start + i, *levels(profile, norms))
            if block.start + i in taken:
                yield from self._over_steps(block.start + i, taken[block.start + i][-1]["loss"], wholes[i], gradients[i])

    def _along_depth(self, profile: Profile, step: int, places: list[int], sizes: np.ndarray) -> Iterator[Finding]:
        if len(places) < LEAST or profile.model in self.told or not sizes[-1] > 0:
            return
        self.is_recorded = True
        sizes = sizes if profile.is_of_outputs else as_layers(self.tensors, [profile.columns[p] for p in places], sizes)
        ratio = float(sizes.max() / self._at_the_end(profile, places, sizes))
        rows = self.rows.setdefault((profile.model, profile.is_of_outputs), deque(maxlen=PATIENCE))
        is_early = self._is_early(step)
        self.begun = step if self.begun < 0 else self.begun
        norms = sum(self.tensors[c].module.startswith("BatchNorm") for c in profile.columns)
        has_learnt = self.progress.fall() > (LEARNT if is_early else HALVED)
        if ratio <= (LIMIT * BATCH_NORM**norms if is_early else AT_ONCE) or has_learnt:
            rows.clear()
            return
        rows.append(step)
        if len(rows) == PATIENCE or ratio > AT_ONCE:
            self.told.add(profile.model)
            yield self._of_depth(profile, rows[0], step, places, sizes)

    def _is_early(self, step: int) -> bool:
        return self.begun < 0 or step - self.begun < EARLY

    def _norms(self, profile: Profile, slopes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """As `sensitivities`; also of what is divided by its size in a function, not by a norm layer."""
        norms = sensitivities(profile, slopes, sizes)
        each = zip(profile.columns, profile.is_normed, strict=True)
        own = [c for c, is_normed in each if c in self.free and not is_normed]
        norms[..., own] *= sizes[..., own]
        return norms

    def _saw_none(self, profile: Profile, step: int) -> None:
        """A step at which all of it is known and nothing is too large."""
        if profile.model not in self.told:
            self.is_recorded = True
            self.begun = step if self.begun < 0 else self.begun
            if rows := self.rows.get((profile.model, profile.is_of_outputs)):
                rows.clear()

    def _along_chain(self, chain: Chain) -> Iterator[Finding]:
        """Layers that are no modules, in a first pass."""
        self.is_recorded = True
        ratio = float(chain.norms.max() / chain.norms[-1])
        if ratio > AT_ONCE or (ratio > LIMIT and not chain.is_through_time):
            self.chain = chain
            yield from self._of_chain(chain, chain.step)

    def _of_chain(self, chain: Chain, step: int) -> Iterator[Finding]:
        ratio = float(chain.norms.max() / chain.norms[-1])
        if ratio <= AT_ONCE and (self.course.steps < EARLY or self.course.has_improved(IMPROVED)):
            if self.course.steps >= EARLY:
                self.chain = None
            return
        self.chain = None
        if self.told:
            return
        self.told.add("")
        yield Finding(
            place=chain.parameters[0],
            first_step=chain.step,
            told_step=step,
            message=f"The loss's gradient by what a product with {chain.parameters[int(chain.norms.argmax())]} gives is "
            f"{number(ratio)} times that by what the last one gives ({number(LIMIT)} is the limit over the whole depth).",
            evidence=(
                ValueEvidence("largest gradient along the depth over that of the last product", ratio, LIMIT),
                chain.table("norm of the loss's gradient by what each product gives", chain.norms),
            ),
            fix="Make the initial weights smaller (torch.nn.init.orthogonal_ for one that is used again and again), put norm "
            "layers between, and clip: torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0) before optimizer.step().",
            depth=1.5,
        )

    def _learn_from_graphs(self) -> None:
        if self.passes:
            self.ends |= ends(self.passes)
            free = normed(self.passes)
            weights = [c for c, t in enumerate(self.tensors) if not t.is_output and self.tensors.name(c) in free]
            self.free |= {output for c in weights for output in self.tensors.outputs_of(c)}
            self.passes = []

    def _at_the_end(self, profile: Profile, places: list[int], sizes: np.ndarray) -> float:
        """The largest gradient at a layer that ends the graph; the last of all is one."""
        heads = [
            k for k, p in enumerate(places) if self.tensors.place_of(profile.columns[p]).removesuffix(".bias") in self.ends
        ]
        return float(sizes[[*heads, -1]].max())

    def _of_depth(self, profile: Profile, first: int, step: int, places: list[int], sizes: np.ndarray) -> Finding:
        names = [self.tensors.place_of(profile.columns[p]) for p in places]
        ratio = float(sizes.max() / self._at_the_end(profile, places, sizes))
        at, share = steepest(np.maximum.accumulate(sizes[::-1])[::-1])
        shallow = next((k for k, p in enumerate(places) if profile.is_weighted[p]), 0)
        again = self.calls[profile.columns[places[at]]] > self.calls[profile.columns[places[at + 1]]]  # through itself
        again |= not profile.is_of_outputs
        most = names[int(sizes.argmax())]
        place = (names[at] if again else names[at + 1]) if share >= ABRUPT else names[shallow]
        return Finding(
            place=place,
            first_step=first,
            told_step=step,
            message=f"The loss's gradient is {number(ratio)} times as large at {most or 'the first module'} as at "
            f"{names[-1] or 'the last'} ({number(LIMIT)} is the limit over the whole depth).",
            evidence=(
                ValueEvidence("largest gradient along the depth over that of the last layer", ratio, LIMIT),
                TableEvidence(
                    f"norm of the loss's gradient, in order, at step {step}",
                    ("where", "norm"),
                    tuple(thinned(list(zip(names, sizes.tolist(), strict=True)))),
                ),
            ),
            fix="Make the initial weights smaller (torch.nn.init.orthogonal_ for a recurrent one), put norm layers "
            "between, and clip: "
            "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0) before optimizer.step().",
            depth=1.5,
        )

    def _over_steps(self, step: int, loss: float | None, norm: float, row: np.ndarray) -> Iterator[Finding]:
        is_worse = self.worse.read(loss)
        if loss is None or math.isnan(loss) or not norm > 0:
            return
        self.is_recorded = True
        before = float(np.median([n for _, n in self.norms])) if is_worse and self.norms else math.inf
        if not 0 <= loss < self.worse.first / AT_ONCE:
            self.norms.append((step, norm))
        is_far = norm > LIMIT * max(self.at_first, default=0.0)
        if len(self.at_first) < BEGUN:
            self.at_first.append(norm)
        if "" not in self.told and norm > AT_ONCE * before and is_far:
            self.told.add("")
            yield self._of_steps(step, norm / before, row)

    def _of_steps(self, step: int, times: float, row: np.ndarray) -> Finding:
        worst = int(np.nanargmax(np.where(self.is_parameter, row, np.nan)))
        steps, norms = zip(*self.norms, strict=True)
        low = min(norms)
        began = next((s for s, n in self.norms if n > LIMIT * low), step)
        return Finding(
            place=self.tensors.name(worst),
            first_step=began,
            told_step=step,
            message=f"The norm of the whole gradient is {number(times)} times its median over the steps before, the "
            f"largest part of "
            f"it in {self.tensors.name(worst)}, and the loss has risen.",
            evidence=(
                ValueEvidence("norm of the gradient over its median before", times, AT_ONCE),
                SeriesEvidence("norm of the gradient", steps, norms),
            ),
            fix="Look at what is named before it (a learning rate that is too high does this); clip: "
            f"torch.nn.utils.clip_grad_norm_(model.parameters(), {3 * norms[-1] / times:.1g}), three times what was usual.",
            depth=1.5,
            experiment="20 steps from the last checkpoint with a third of the learning rate: if it grows as fast, the rate is "
            "not why.",
        )

    def lacking(self) -> tuple[Outcome, str] | None:
        return None if self.is_recorded else (Outcome.NOT_ENOUGH_DATA, "no gradients were recorded")


def _at_most(profile: Profile, norms: np.ndarray) -> np.ndarray:
    """Of each row of [steps, tensors]: what the largest gradient along the depth is at most of that at the end (the last layer
    is one of those that end the graph), float64 [steps]; NaN where not all is known, or there is no depth."""
    sizes = levels_of_steps(profile, norms)
    if sizes.shape[1] < LEAST:
        return np.full(len(sizes), np.nan)
    last = sizes[:, -1]
    most = np.full(len(sizes), np.nan)
    np.divide(sizes.max(axis=1), last, out=most, where=last > 0)
    return most
