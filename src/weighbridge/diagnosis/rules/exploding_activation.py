"""What modules give grows out of all proportion from layer to layer, or from step to step.

Symptom        The loss is huge from the start, or jumps; float16 overflows; then NaN.
How it decides The rms of what the modules give, in the order in which they ran, before the last layer: the largest over that
               of the first (or over 1, where that is larger). Above AT_ONCE at one recorded step, or above LIMIT at PATIENCE
               in a row, and the model's last layer gives at least KEPT of it, too: a norm layer in between would have taken
               it out. Or over steps: the rms of one is above LIMIT times its median over the steps before, and the loss is
               clearly worse than at the start (twice its first value three times in a row, or ten times once), or below 0 and
               ten times as large.
What to do     Smaller initial weights; norm layers; scale each residual branch by 1 / sqrt(number of blocks).
When it errs   Targets so large that hidden layers must be, too.
References     He et al. 2015, "Delving deep into rectifiers", section 2.2; Poole et al. 2016, "Exponential expressivity in
               deep neural networks through transient chaos"; Zhang et al. 2019, "Fixup initialization".
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

import numpy as np

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, SeriesEvidence, TableEvidence, ValueEvidence
from weighbridge.diagnosis.chain import Chain, chains
from weighbridge.diagnosis.depth import Profile, outputs, steepest, thinned
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.tensors import Tensors, in_code
from weighbridge.diagnosis.worse import Worse
from weighbridge.format import number

LIMIT = 1e2  # design notes I1: |ln| of the gain over the whole depth above ln 100
AT_ONCE = 1e3
PATIENCE = 3
KEPT = 1e-2
ABRUPT = 0.5
LEAST = 3
HISTORY = 20
TINY = 1e-30

_AGAIN = "20 steps from the last checkpoint with a third of the learning rate: if it grows as fast, the rate is not why."


class ExplodingActivation(Rule):
    id, title = "exploding-activation", "What modules give explodes"
    severity, certainty, since = "warning", "heuristic", "0.1"
    needs = Needs(activation=["rms"], tables=["steps", "events"])
    travels = "deeper"
    causes = (
        *("nonfinite-origin", "high-initial-loss", "growing-loss", "stalled-loss", "exploding-gradient", "high-learning-rate"),
        *("saturated-units", "dead-units", "loss-spike", "gradient-spike", "exploding-weights", "overtight-clipping"),
    )
    experiment = (
        "Put a norm layer behind each hidden layer: if the finding is right, the first loss is near that of a constant answer."
    )

    def __init__(self) -> None:
        self.rows: dict[str, deque[int]] = {}
        self.told: set[str] = set()
        self.steps: deque[int] = deque(maxlen=HISTORY)
        self.past: deque[np.ndarray] = deque(maxlen=HISTORY)  # float64 [outputs] at each of these steps
        self.worse = Worse()
        self.is_recorded = False

    def start(self, tensors: Tensors) -> None:
        self.tensors = tensors
        self.profiles = [p for p in outputs(tensors) if sum(p.is_weighted) >= LEAST]
        self.is_output = np.flatnonzero(tensors.where(t.is_output for t in tensors))
        wider = [np.full(len(self.is_output), np.nan) for _ in self.past]
        for new, old in zip(wider, self.past, strict=True):
            new[: len(old)] = old
        self.past = deque(wider, maxlen=HISTORY)

    def read(self, block: Block) -> Iterator[Finding]:
        sizes = block["activation.rms"]
        losses = {row["step"]: row["loss"] for row in block.rows("steps") if not row["skipped"]}
        for chain in chains(block) if not self.told else ():
            yield from self._along_chain(chain)
        for i in range(len(block)):
            step = block.start + i
            is_worse = self.worse.read(losses.get(step))
            if not np.isfinite(sizes[i, self.is_output]).any():
                continue
            for profile in self.profiles:
                yield from self._along_depth(profile, step, sizes[i])
            yield from self._over_steps(step, is_worse, sizes[i])

    def _along_depth(self, profile: Profile, step: int, row: np.ndarray) -> Iterator[Finding]:
        hidden = range(profile.first_weighted, profile.last_weighted)
        places = [p for p in hidden if np.isfinite(row[profile.columns[p]])]
        last = row[profile.columns[profile.last_weighted]]
        if len(places) < 2 or profile.model in self.told or math.isnan(last):
            return
        self.is_recorded = True
        sizes = np.array([row[profile.columns[p]] for p in places])
        ratio = float(sizes.max() / max(sizes[0], 1.0))
        seen = self.rows.setdefault(profile.model, deque(maxlen=PATIENCE))
        if ratio <= LIMIT or last < KEPT * sizes.max():
            seen.clear()
            return
        seen.append(step)
        if len(seen) == PATIENCE or ratio > AT_ONCE:
            self.told.add(profile.model)
            yield self._of_depth(profile, seen[0], step, places, sizes)

    def _of_depth(self, profile: Profile, first: int, step: int, places: list[int], sizes: np.ndarray) -> Finding:
        names = [self.tensors.place_of(profile.columns[p]) for p in places]
        ratio = float(sizes.max() / max(sizes[0], 1.0))
        at, share = steepest(np.maximum.accumulate(sizes))
        place = names[at + 1] if share >= ABRUPT else names[0]
        return Finding(
            place=place,
            first_step=first,
            told_step=step,
            message=f"What {names[int(sizes.argmax())] or 'the model'} gives has an rms of {number(float(sizes.max()))}, "
            f"{number(ratio)} times as much as at the first layer, and no norm layer takes it out before the end.",
            evidence=(
                ValueEvidence("largest rms along the depth over that of the first layer", ratio, LIMIT),
                TableEvidence(
                    f"rms of what modules give, in order, at step {step}",
                    ("where", "rms"),
                    tuple(thinned(list(zip(names, sizes.tolist(), strict=True)))),
                ),
            ),
            fix="Make the initial weights smaller (torch.nn.init.kaiming_normal_), put norm layers between, or scale each "
            "residual "
            "branch by 1 / sqrt(number of blocks).",
            depth=0.5,
        )

    def _along_chain(self, chain: Chain) -> Iterator[Finding]:
        """The same where layers are no modules: what each product with a parameter takes, behind the first."""
        self.is_recorded = True
        hidden, names = chain.sizes[1:], chain.parameters
        ratio = float(hidden.max() / max(hidden[0], 1.0))
        if ratio <= AT_ONCE or hidden[-1] < KEPT * hidden.max():
            return
        self.told.add("")
        at, share = steepest(np.maximum.accumulate(hidden))
        yield Finding(
            place=names[at + 1] if share >= ABRUPT else names[0],  # hidden[at + 1] is what comes behind product at + 1
            first_step=chain.step,
            told_step=chain.step,
            message=f"Along {len(names)} products with parameters the rms of what they take grows {number(ratio)} times, and "
            "nothing takes it out before the end.",
            evidence=(
                ValueEvidence("largest rms along the depth over that behind the first product", ratio, AT_ONCE),
                chain.table("rms of what each product takes", chain.sizes),
            ),
            fix="Make the initial weights smaller (torch.nn.init.kaiming_normal_), put norm layers between, or scale what each "
            "branch or step adds.",
            depth=0.5,
        )

    def _over_steps(self, step: int, is_worse: bool, row: np.ndarray) -> Iterator[Finding]:
        """Against the median of each output over the last HISTORY looks; asked only while the loss is bad."""
        self.is_recorded = True
        values = row[self.is_output]
        if is_worse and self.steps and "" not in self.told:
            past = np.array(self.past)
            before = np.full(len(values), np.nan)
            is_seen = np.isfinite(past).any(axis=0)
            before[is_seen] = np.nanmedian(past[:, is_seen], axis=0)
            grown = np.flatnonzero((values > LIMIT * np.maximum(before, TINY)) & (values > 1.0))
            if len(grown):
                self.told.add("")
                first = min(grown.tolist(), key=lambda k: self.tensors[int(self.is_output[k])].order)
                yield self._of_steps(step, first, float(values[first]), max(float(before[first]), TINY))
        self.steps.append(step)
        self.past.append(values)

    def _of_steps(self, step: int, at: int, value: float, before: float) -> Finding:
        seen = [(s, float(v[at])) for s, v in zip(self.steps, self.past, strict=True) if np.isfinite(v[at])] + [(step, value)]
        low, place = min(v for _, v in seen), self.tensors.place_of(int(self.is_output[at]))
        return Finding(
            place=place,
            first_step=next((s for s, v in seen if v > LIMIT / 10 * low), step),
            told_step=step,
            message=f"The rms of what {place or 'the model'} gives is {number(value / before)} times its median over the steps "
            f"before, and the loss is far worse than at the start.",
            evidence=(
                ValueEvidence("rms over its median before", value / before, LIMIT),
                SeriesEvidence(
                    f"rms of what {place or 'the model'} gives", tuple(s for s, _ in seen), tuple(v for _, v in seen)
                ),
            ),
            fix="Look at what is named before it: weights that grow, or a learning rate that is too high. A norm layer behind "
            f"{in_code(place)} keeps its size.",
            depth=0.5,
            experiment=_AGAIN,
        )

    def lacking(self) -> tuple[Outcome, str] | None:
        return None if self.is_recorded else (Outcome.NOT_ENOUGH_DATA, "what modules give was not recorded")
