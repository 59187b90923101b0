"""Backward passes run, and no optimizer steps the model: never, or from some step on no more.

Symptom        The loss does not fall at all, gradients are there, no parameter changes.
How it decides Exact: the run has ended, or MOST backward passes that gave the model gradients have run, and no optimizer that
               holds a parameter of a watched model has taken a step. Or the run has ended, and after its last step at
               least LEAST passes have run, as many as for TIMES steps and for PART of all steps before, during which not
               one parameter has moved (warning).
What to do     Call `optimizer.step()` after `loss.backward()`. If you do: the optimizer may hold another model's
               parameters, those from before `model.to(...)`, a copy's or those from before a layer was replaced.
When it errs   Gradients that are wanted for themselves (saliency maps, Fisher information, adversarial examples) under a
               watched model; after a training, where there are many of them.
References     PyTorch documentation, torch.optim, "Taking an optimization step".
"""

from __future__ import annotations

from collections.abc import Iterator

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, SeriesEvidence, ValueEvidence
from weighbridge.diagnosis.stream import Block
from weighbridge.format import counted

LEAST = 20  # passes; fewer are not recorded one by one (docs/format.md, `passes`)
MOST = 1_000  # of one run that still goes on; nobody accumulates over more
SHOWN = 100
TIMES, PART = 4, 0.25  # an accumulation that is four times as long is none; a last look at a model is short beside its training


class StepNotTaken(Rule):
    id, title = "step-not-taken", "No optimizer steps the model"
    severity, certainty, since = "error", "proof", "0.1"
    needs = Needs(tables=["steps", "passes", "events"])
    causes = ("stalled-loss",)
    experiment = "Compare a parameter before and after a turn of the loop: if it has changed, this is wrong."

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.passes, self.last = 0, 0
        self.has_stepped = self.has_ended = self.is_told = False
        self.longest = self.all_passes = 0  # for a step, and for all of them

    def read(self, block: Block) -> Iterator[Finding]:
        if self.is_told:
            return
        for row in block.rows("steps"):
            self.has_stepped, self.last = True, max(self.last, row["step"])
            self.longest = max(self.longest, row["backward_passes"])
            self.all_passes += row["backward_passes"]
        for row in block.rows("passes")[: MOST - self.passes]:  # the same number, however many come at once
            self.passes, self.last = self.passes + 1, max(self.last, row["step"])
            if row["loss"] is not None and len(self.losses) < SHOWN:
                self.losses.append(float(row["loss"]))
        ends = [event["step"] for event in block.rows("events") if event["kind"] in ("finished", "interrupted")]
        self.has_ended |= bool(ends)
        if self.has_stepped:
            yield from self._stopped(block)
            return
        if self.passes < (LEAST if self.has_ended else MOST):
            return
        self.is_told = True
        self.last = max([self.last, *(ends if self.passes < MOST else ())])
        yield Finding(
            place="",
            first_step=0,
            told_step=self.last,
            message=f"In {counted(self.passes, 'backward pass', 'backward passes')} no optimizer that holds a parameter of the "
            "model has taken a step: nothing can be learnt.",
            evidence=(
                ValueEvidence("backward passes without a step", self.passes, LEAST),
                SeriesEvidence("loss of each pass", tuple(range(len(self.losses))), tuple(self.losses)),
            ),
            fix="Call optimizer.step() after loss.backward(), and build the optimizer from this model's parameters: "
            "optimizer = torch.optim.AdamW(model.parameters()).",
            depth=2.0,
        )

    def _stopped(self, block: Block) -> Iterator[Finding]:
        """Steps that were taken, and are no more."""
        left = max((row["detail"] or {}).get("passes_since_step", 0) for row in (*block.rows("events"), {"detail": {}}))
        if not self.longest or left < max(LEAST, TIMES * self.longest, PART * self.all_passes):
            return
        self.is_told = True
        yield Finding(
            severity="warning",
            place="",
            first_step=self.last + 1,
            told_step=self.last + 1,
            message=f"After step {self.last} no optimizer has taken a step, while "
            f"{counted(left, 'backward pass', 'backward passes')} ran and no parameter moved: no more was learnt.",
            evidence=(ValueEvidence("backward passes after the last step", left, LEAST),),
            fix="Look for the condition that keeps optimizer.step() from being called. If these gradients were wanted for "
            "themselves, call run.finish() before them.",
            depth=2.0,
        )

    def lacking(self) -> tuple[Outcome, str] | None:
        if self.has_stepped or self.passes == 0:
            return None if self.has_stepped else (Outcome.NOT_ENOUGH_DATA, "no backward pass without a step was recorded")
        return Outcome.NOT_ENOUGH_DATA, f"{counted(self.passes, 'backward pass', 'backward passes')}, and the run has not ended"
