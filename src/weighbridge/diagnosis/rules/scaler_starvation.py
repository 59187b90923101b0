"""A GradScaler leaves out many steps, although its scale has had time to settle.

Symptom        Training is slower than its number of steps, or does not move: many steps change nothing.
How it decides Of the last WINDOW steps of an optimizer, those that its scaler left out, counted from the first step that
               was taken on (WARM_UP of them at most are the search for a scale, none at a scale of 1 or less, which scales
               nothing): more than LIMIT of WINDOW, or so many of few that chance gives it once in 1 / CHANCE times
               (binomial) even if one in 1 / USUAL were left out. Of those at a scale that had been too high before, or is
               1 or less, no search is the excuse: for them it is one in 1 / AGAIN. A healthy scaler with PyTorch's settings
               leaves out one in about 2,000.
What to do     Look for what overflows in float16 (the finding beside this one may name it). bfloat16 needs no scaler:
               `torch.autocast(..., dtype=torch.bfloat16)`. Call `scaler.update()` once per step.
When it errs   A scaler that is told to double its scale every few steps (`growth_interval`) overflows as often by design.
References     Micikevicius et al. 2018, "Mixed Precision Training", section 3.2; PyTorch documentation,
               torch.amp.GradScaler (init_scale 65536, growth_interval 2000).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, SeriesEvidence, ValueEvidence
from weighbridge.diagnosis.stream import Block
from weighbridge.format import counted

WINDOW = 200
LIMIT = 10  # 5 % of WINDOW; from one in 2,000 it would take chance 10^-19 (binomial, 11 or more of 200)
USUAL = 0.05  # a hundred times what is usual: the scale may still be falling, step by step
AGAIN = 0.002  # four times what is usual: a scale that was too high comes back after 2,000 steps
LOWER = 0.75  # of the scale that was too high: a search halves it
CHANCE = 1e-6
WARM_UP = 20  # halvings of 65536: the scale is then below 1, and nothing that a scale can mend


_BFLOAT16 = "Or compute in bfloat16, which needs no scaler: torch.autocast(device_type, dtype=torch.bfloat16)."
_WHERE_IT_RISES = f"Leave growth_interval and backoff_factor at their defaults: torch.amp.GradScaler(). {_BFLOAT16}"
_WHERE_IT_FALLS = f"Look for the layer whose outputs or gradients overflow in float16. {_BFLOAT16}"


class ScalerStarvation(Rule):
    id, title = "scaler-starvation", "The gradient scaler leaves out many steps"
    severity, certainty, since = "warning", "test", "0.1"
    needs = Needs(tables=["steps"])
    causes = ("stalled-loss", "low-learning-rate")
    experiment = "Run 200 steps in bfloat16 without a scaler: if as many steps are lost, the scale was not the reason."

    def __init__(self) -> None:
        self.left_out: dict[int, deque[int]] = {}  # by optimizer: steps left out inside the window
        self.taken: dict[int, int] = {}  # its own steps since the warm-up ended
        self.early: dict[int, int] = {}
        self.again: dict[int, deque[int]] = {}  # as left_out: those at a scale that is known to be too high
        self.lowest: dict[int, float] = {}  # scale at which a step was left out
        self.scales: dict[int, float] = {}  # of the steps left out, the last LIMIT + 1
        self.has_scaler = False

    def read(self, block: Block) -> Iterator[Finding]:
        for row in block.rows("steps"):
            number = row["optimizer"]
            self.has_scaler |= row["skipped"] or row["loss_scale"] not in (1.0, None)
            scale, is_skipped = float(row["loss_scale"] or 1.0), row["skipped"]
            is_early = number not in self.taken and is_skipped and self.early.get(number, 0) < WARM_UP and scale > 1
            is_known = scale <= 1 or scale > LOWER * self.lowest.get(number, math.inf)
            if is_skipped:
                self.lowest[number] = min(scale, self.lowest.get(number, math.inf))
            if is_early:
                self.early[number] = self.early.get(number, 0) + 1
                continue
            count = self.taken[number] = self.taken.get(number, 0) + 1
            window, again = (windows.setdefault(number, deque()) for windows in (self.left_out, self.again))
            if is_skipped:
                window.append(count)
                again.extend([count] * is_known)
                self.scales = dict([*self.scales.items(), (row["step"], scale)][-LIMIT - 1 :])
            for old in (window, again):
                while old and old[0] <= count - WINDOW:
                    old.popleft()
            if len(window) > LIMIT or (is_skipped and _is_no_chance(len(window), len(again), min(count, WINDOW))):
                yield self._finding(row["step"], len(window), len(again), min(count, WINDOW))
                window.clear()
                again.clear()

    def _finding(self, step: int, left_out: int, again: int, among: int) -> Finding:
        return Finding(
            place="",
            first_step=min(self.scales),
            told_step=step,
            message=f"The gradient scaler left out {left_out} of the last {counted(among, 'step')}; one in 2,000 is usual.",
            evidence=(
                ValueEvidence(f"steps left out among the last {among}", left_out, LIMIT, "steps"),
                ValueEvidence("of these at a scale that had been too high before, or at most 1", again, None, "steps"),
                SeriesEvidence("scale at the steps left out", tuple(self.scales), tuple(self.scales.values())),
            ),
            fix=_WHERE_IT_RISES if again > left_out / 2 and min(self.scales.values()) > 1 else _WHERE_IT_FALLS,
            depth=1.95,
        )

    def lacking(self) -> tuple[Outcome, str] | None:
        return None if self.has_scaler else (Outcome.NOT_APPLICABLE, "no gradient scaler was used")


def _is_no_chance(left_out: int, again: int, among: int) -> bool:
    return min(_chance(left_out, among, USUAL), _chance(again, among, AGAIN)) < CHANCE


def _chance(left_out: int, among: int, usual: float) -> float:
    """Of leaving out so many steps or more, were `usual` of them left out: the tail of the binomial distribution."""
    return sum(math.comb(among, k) * usual**k * (1 - usual) ** (among - k) for k in range(left_out, among + 1))
