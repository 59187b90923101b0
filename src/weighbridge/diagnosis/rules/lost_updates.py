"""Most of each update is lost in rounding: the weights are kept in too few bits for steps of this size.

Symptom        The loss falls slower than in float32, or stops, while gradients and learning rate look right.
How it decides Of all elements of weights kept in bfloat16 or float16 that one optimizer steps, the share `lost`: the
               gradient is not 0 and the update is. It is exact at each step; only whether it stays so must be seen. Told
               where it is above NEARLY_ALL at SOON recorded steps in a row; or while the loss is above LEARNT of its first,
               where it is above LIMIT at FEW, by more than these differ among each other and once momentum has built up
               (BUILT; Adam's first steps are its longest), or at PATIENCE. In these steps nothing was left out.
What to do     Keep the weights in float32 and compute in bfloat16 (`torch.autocast`); or an optimizer with stochastic
               rounding or a compensated (Kahan) sum.
When it errs   While the learning rate rises, at the end of a schedule and once a model has converged, updates are lost and
               none is missed: steps whose learning rate is above that of the step before, or whose lr times gradient is
               below TAIL of the largest so far, do not count. Optimizers that keep what was lost for later steps (Kahan)
               are not known.
References     Zamirai et al. 2020, "Revisiting BFloat16 Training": an update below half a spacing, 2^-9 of the weight, is
               lost.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, SeriesEvidence, ValueEvidence
from weighbridge.diagnosis.losscourse import LossCourse
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.taken import taken
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.format import counted, share

LIMIT = 0.5  # most of the elements; a run with .63 still trained, one with .96 did not (design notes, N2)
PATIENCE = 20
FEW = 3  # by chance all of three lie on one side, farther from it than from each other, in 1 of 30 runs of a share of one half
LEARNT = 0.5  # of the first loss: later updates grow shorter by nature, and most of them were not lost when it counted
BUILT = 0.9  # of its momentum: an update has its full length
NEARLY_ALL, SOON = 0.9, 5  # of so many elements there is no chance in a share; a few steps, for Adam's first are the longest
TAIL = 0.1
HALF = ("bfloat16", "float16")


class LostUpdates(Rule):
    id, title = "lost-updates", "Updates are lost in rounding"
    severity, certainty, since = "warning", "test", "0.1"
    needs = Needs(gradient=["l2_norm"], update=["lost_fraction"], tables=["steps", "groups"])
    experiment = (
        "The same 50 steps with float32 weights: if the loss falls no faster, the updates that were lost did not matter."
    )
    causes = ("low-learning-rate", "stalled-loss")

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.shares: list[float] = []
        self.seen, self.largest, self.rate_before, self.is_told = 0, 0.0, np.inf, False
        self.begun, self.elements, self.course = -1, 0, LossCourse()

    def start(self, tensors: Tensors) -> None:
        self.tensors = tensors
        self.columns = [c for c, t in enumerate(tensors) if t.dtype in HALF and not t.is_output]
        self.counts = np.array([tensors[c].count for c in self.columns], float)

    def read(self, block: Block) -> Iterator[Finding]:
        if not self.columns or self.is_told:
            return
        lost = block["update.lost_fraction"][:, self.columns]
        rate = block.of_steps("lr")[:, self.columns]
        rate = np.where(np.isnan(rate), 1.0, rate)  # of steps by hand nobody knows it: taken for always the same
        lost = np.where(block.of_steps("skipped", 1.0)[:, self.columns] == 0, lost, np.nan)
        momentum = self._heavy_ball(block)
        size = np.where(np.isnan(lost), 0.0, rate * block["gradient.l2_norm"][:, self.columns])
        losses = {one.at: one.loss for one in taken(block)}
        for i in np.flatnonzero(~np.isnan(lost).all(axis=1)).tolist():
            self.course.add(losses.get(i, np.nan))
            there = ~np.isnan(lost[i])
            self.begun = block.start + i if self.begun < 0 else self.begun
            highest, intended = float(rate[i][there].max()), float(np.sqrt((size[i] ** 2).sum()))
            self.largest = max(self.largest, intended)
            is_rising, self.rate_before = highest > self.rate_before, highest
            if is_rising or not intended >= TAIL * self.largest or not intended:
                continue
            self.seen += 1
            self.elements = int(self.counts[there].sum())
            total = float((lost[i] * self.counts)[there].sum() / self.elements)
            if total <= LIMIT:
                self.steps, self.shares = [], []
                continue
            self.steps.append(block.start + i)
            self.shares.append(total)
            if self._is_clear(float(momentum[i][there].max()) ** (block.start + i - self.begun + 1)):
                self.is_told = True
                yield self._finding(lost[i])
                return

    def _heavy_ball(self, block: Block) -> np.ndarray:
        """Momentum that makes updates longer step by step; 0 where an optimizer corrects for that, as Adam does."""
        is_corrected = np.zeros(len(block.tensors), bool)
        for group in block.groups:
            is_corrected[list(group.columns)] = "betas" in group.settings
        momentum = np.nan_to_num(block.of_steps("momentum"))
        return np.where(is_corrected, 0.0, np.clip(momentum, 0.0, 1.0))[:, self.columns]

    def _is_clear(self, missing: float) -> bool:
        """missing: the part of its length that momentum has not given the update yet."""
        if len(self.steps) >= SOON and min(self.shares[-SOON:]) > NEARLY_ALL:
            return True
        if self.course.has_improved(1 - LEARNT):
            return False
        low, high = min(self.shares[-FEW:]), max(self.shares[-FEW:])
        is_steady = len(self.steps) >= FEW and low - LIMIT > high - low
        return len(self.steps) >= PATIENCE or (is_steady and missing <= 1 - BUILT + 1e-12)

    def _finding(self, lost: np.ndarray) -> Finding:
        worst = [c for c, s in zip(self.columns, lost, strict=True) if s > LIMIT]
        places = self.tensors.together(worst, self.tensors.is_parameter)
        dtype = self.tensors[self.columns[0]].dtype
        return Finding(
            place=places[0][0] if len(places) == 1 else "",
            first_step=self.steps[0],
            told_step=self.steps[-1],
            message=f"{share(self.shares[-1])} of the elements kept in {dtype} had a gradient and did not move, as most did in "
            f"{counted(len(self.steps), 'step')} in a row: their updates are below half the spacing of {dtype}.",
            evidence=(
                ValueEvidence("share of updates lost", self.shares[-1], LIMIT),
                ValueEvidence("elements looked at in each of these steps", self.elements, None, "elements"),
                SeriesEvidence("share of updates lost", tuple(self.steps), tuple(self.shares), LIMIT),
            ),
            fix="model.float() before the optimizer is made, and forward pass and loss under torch.autocast(device_type, "
            "dtype=torch.bfloat16): the weights stay in float32.",
            depth=2.0,
        )

    def lacking(self) -> tuple[Outcome, str] | None:
        if not self.columns:
            return Outcome.NOT_APPLICABLE, "no parameter is kept in bfloat16 or float16"
        if self.seen < FEW:
            return Outcome.NOT_ENOUGH_DATA, f"{counted(self.seen, 'step')} with updates weighed; {FEW} are needed"
        return None
