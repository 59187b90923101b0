"""Backward passes run, and no optimizer steps the model, or a part of it: never, or from some step on no more.

Symptom        The loss does not fall at all, gradients are there, no parameter changes.
How it decides Exact: the run has ended, or MOST backward passes that gave the model gradients have run, and no optimizer that
               holds a parameter of a watched model has taken a step. Or the run has ended, and after its last step at
               least LEAST passes have run, as many as for TIMES steps and for PART of all steps before, during which not
               one parameter has moved (warning). Or one of several optimizers that followed one loss (TOGETHER of its steps
               were another's too, after the same backward pass) has not stepped for WAIT steps, and four times as many as
               it ever left out, while its parameters get gradients that are taken away again: a warning where its own zero_grad
               does so, for then it is still in use; a note where it is not touched any more (model.zero_grad(), by hand), as
               one is whose part is done with.
What to do     Call `optimizer.step()` after `loss.backward()`. If you do: the optimizer may hold another model's
               parameters, those from before `model.to(...)`, a copy's or those from before a layer was replaced.
When it errs   Gradients that are wanted for themselves (saliency maps, Fisher information, adversarial examples) under a
               watched model; after a training, where there are many of them. A part that is done with, is not frozen, and
               whose optimizer is still asked to zero_grad.
References     PyTorch documentation, torch.optim, "Taking an optimization step".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, SeriesEvidence, ValueEvidence
from weighbridge.diagnosis.stream import Block, rows_by_step
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.format import counted

LEAST = 20  # passes; fewer are not recorded one by one (docs/format.md, `passes`)
MOST = 1_000  # of one run that still goes on; nobody accumulates over more
SHOWN = 100
WAIT, TOGETHER = 10, 0.9  # steps (capture/unstepped.py); of its steps
TIMES, PART = 4, 0.25  # an accumulation that is four times as long is none; a last look at a model is short beside its training


class StepNotTaken(Rule):
    id, title = "step-not-taken", "No optimizer steps the model"
    severity, certainty, since = "error", "proof", "0.1"
    needs = Needs(tables=["steps", "passes", "events", "groups"])
    causes = ("stalled-loss",)
    experiment = "Compare a parameter before and after a turn of the loop: if it has changed, this is wrong."

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.passes, self.last = 0, 0
        self.has_stepped = self.has_ended = self.is_told = False
        self.longest = self.all_passes = 0  # for a step, and for all of them
        self.taken, self.shared = Counter[int](), Counter[int]()  # steps by optimizer; of these, after a pass for several
        self.last_of: dict[int, int] = {}

    def start(self, tensors: Tensors) -> None:
        self.tensors = tensors

    def read(self, block: Block) -> Iterator[Finding]:
        yield from self._of_several(block)
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

    def _of_several(self, block: Block) -> Iterator[Finding]:
        """One of several optimizers steps no more."""
        rows, events = rows_by_step(block.rows("steps")), rows_by_step(block.rows("events"))
        for step in sorted({*rows, *events}):
            for event in events.get(step, ()):
                if event["kind"] == "unstepped":
                    yield from self._stopped_alone(block, step, event["detail"])
            here = rows.get(step, ())
            losses = {row["loss"] for row in here if row["loss"] is not None}
            for row in here:
                self.taken[row["optimizer"]] += 1
                self.shared[row["optimizer"]] += len(here) > 1 and len(losses) == 1
                self.last_of[row["optimizer"]] = step

    def _stopped_alone(self, block: Block, step: int, detail: Mapping[str, Any]) -> Iterator[Finding]:
        optimizer, missed = detail["optimizer"], detail["missed"]
        taken = self.taken[optimizer]
        if taken < WAIT or self.shared[optimizer] < TOGETHER * taken:
            return
        columns = [c for group in block.groups if group.optimizer == optimizer for c in group.columns]
        mine = [c for c in columns if self.tensors[c].requires_grad]
        for place, held in self.tensors.together(mine, self.tensors.is_parameter):
            yield Finding(
                severity="warning" if detail.get("is_emptied", True) else "note",
                place=place,
                first_step=self.last_of[optimizer] + 1,
                told_step=step,
                message=f"After step {self.last_of[optimizer]} the optimizer of {place or 'the model'} has not stepped "
                f"any more, for {counted(missed, 'step')} of another one over the same loss. Gradients still come, and are "
                "thrown away.",
                evidence=(
                    ValueEvidence("steps without it", missed, WAIT),
                    ValueEvidence("steps that it had taken together with another", self.shared[optimizer], TOGETHER * taken),
                    ValueEvidence("parameters", len(held)),
                ),
                fix="Look for the condition that keeps this optimizer's step() from being called. If its part is done with: "
                "requires_grad_(False), and backward does not compute its gradients any more.",
                depth=2.0,
            )

    def lacking(self) -> tuple[Outcome, str] | None:
        if self.has_stepped or self.passes == 0:
            return None if self.has_stepped else (Outcome.NOT_ENOUGH_DATA, "no backward pass without a step was recorded")
        return Outcome.NOT_ENOUGH_DATA, f"{counted(self.passes, 'backward pass', 'backward passes')}, and the run has not ended"
