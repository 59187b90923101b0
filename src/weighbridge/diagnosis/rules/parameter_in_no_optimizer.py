"""A trainable parameter gets a gradient, and no optimizer holds it.

Symptom        A layer keeps the numbers that it was initialised with; the others have to learn around it.
How it decides Exact: the parameter requires a gradient, a loss of the first step depends on it (its graph), and SOON steps
               have passed since the model has it in which no optimizer that steps held it. Where the graph was not taken
               down: the loss's gradient by what its module gives is not 0, and WAIT steps have passed. In mid-run: the model
               has put another parameter in its place, and the optimizer goes on stepping the one before (`replaced`, seen by
               capture).
What to do     Build the optimizer after the last change of the model, or add the parameter to it (`add_param_group`). Where
               the parameter is meant to stay as it is, `requires_grad_(False)` says so and saves its part of the backward
               pass.
When it errs   A backbone left out on purpose with gradients on is told as a note: all that is left out lies before all that
               is trained, is more than half of the model, and was not thawed in mid-run. A warning where nothing has trained
               it: at least FRESH of its norms hold exactly what norms begin with, and all of them do; or at least FRESH of
               its weights, and all that can be judged, are drawn as torch's own layers draw theirs. Parameters whose
               module gives nothing that was recorded are not judged.
References     Jiang et al. 2025, "Training with Confidence: Catching Silent Errors in Deep Learning Training with Automated
               Proactive Checks" (TrainCheck); PyTorch documentation, torch.optim, "Constructing it".
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, TableEvidence, ValueEvidence
from weighbridge.diagnosis.parameters import unoptimized
from weighbridge.diagnosis.rule import Severity
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.tensors import Tensors, in_code
from weighbridge.firstpass import from_text
from weighbridge.format import counted, share

SOON = 3  # steps, where the graph of a first loss holds the parameter: whoever steps with its gradients has done so by then
WAIT = 10  # steps; a GAN's slower optimizer steps at every fifth or so (Gulrajani et al. 2017: five critic steps)
REPLACED = "replaced"  # event of capture, one per parameter
FRESH = 2  # one hidden layer of random numbers under a trained head is a method (extreme learning machines)
MOST_OF = 0.5  # of the model's elements: what is left out on purpose is a backbone, a forgotten layer is not


class ParameterInNoOptimizer(Rule):
    id, title = "parameter-in-no-optimizer", "A trainable parameter is in no optimizer"
    severity, certainty, since = "warning", "proof", "0.1"
    needs = Needs(parameter=["count"], activation_gradient=["rms"], tables=["steps", "groups", "graph", "events"])
    causes = ("stalled-loss", "low-learning-rate")
    experiment = "Look for the parameter in optimizer.param_groups, by identity: if it is there, this is wrong."

    def __init__(self) -> None:
        self.steps, self.is_used, self.is_told = 0, np.zeros(0, bool), np.zeros(0, bool)
        self.first_step = -1
        self.met = np.zeros(0, np.int64)  # steps that had been taken when a parameter came into the model
        self.frozen, self.thawed = set[int](), set[int]()
        self.is_trial = False  # asked before training, by `inspect`
        self.in_graph: set[str] = set()  # parameters that a loss of the first step depends on
        self.fresh: dict[str, bool] = {}  # of norms and weights: do they hold what torch begins with?

    def start(self, tensors: Tensors) -> None:
        frozen = {c for c, t in enumerate(tensors) if not t.requires_grad and not t.is_output}
        self.thawed = (self.thawed | self.frozen) - frozen  # somebody means them to learn
        self.tensors, self.frozen = tensors, frozen
        self.is_used, self.is_told = tensors.grown(self.is_used), tensors.grown(self.is_told)
        self.met = tensors.grown(self.met, self.steps)
        self.outputs = {
            c: tensors.outputs_of(c) for c in np.flatnonzero(tensors.is_parameter).tolist() if tensors[c].requires_grad
        }

    def read(self, block: Block) -> Iterator[Finding]:
        for row in block.rows("graph"):
            first = from_text(row["detail"])
            self.is_trial |= first.has_gradients
            self.fresh = {p.name: p.is_fresh for p in first.parameters if p.is_fresh is not None} | self.fresh
            self.in_graph |= set() if first.has_gradients else first.graph.leaves.keys()
            yield from unoptimized(first)
        yield from self._replaced(block)
        used = np.asarray(block["activation_gradient.rms"] > 0)
        weighed = {*np.flatnonzero(used.any(axis=1)).tolist()}  # at most steps nothing is of what modules give
        held = {column for group in block.groups for column in group.columns}
        stepped = {row["step"] for row in block.rows("steps")}
        candidates = [c for c in self.outputs if c not in held and not self.is_told[c]]
        has_changed = True  # since the candidates were looked at: nothing of a block without a change is looked at twice
        for i in range(len(block)):
            if i in weighed:
                has_changed |= bool((used[i] & ~self.is_used).any())
                self.is_used |= used[i]
            if block.start + i not in stepped:
                continue
            self.first_step = block.start + i if self.first_step < 0 else self.first_step
            self.steps += 1
            if self.steps < SOON or not candidates:
                continue
            if has_changed or self.steps == WAIT or (self.steps - self.met[candidates] == SOON).any():
                has_changed = False
                left_out = [c for c in candidates if self._is_left_out(c)]
                candidates = [c for c in candidates if c not in left_out]
                yield from self._tell(left_out, held, block.start + i)

    def _replaced(self, block: Block) -> Iterator[Finding]:
        """Parameters of the model that took the place of those which an optimizer still steps."""
        found: dict[int, list[int]] = {}
        for row in block.rows("events"):
            column = self.tensors.column.get(row["tensor"]) if row["kind"] == REPLACED else None
            if column in self.outputs and not self.is_told[column]:
                found.setdefault(row["step"], []).append(column)
        for step, columns in found.items():
            self.is_told[columns] = True
            for place, mine in self.tensors.together(columns, self.tensors.is_parameter):
                yield self._of_replaced(place, mine, step)

    def _of_replaced(self, place: str, columns: list[int], step: int) -> Finding:
        return Finding(
            place=place,
            first_step=step,
            told_step=step,
            message=f"{counted(len(columns), 'parameter')} of {place or 'the model'} were replaced, and the optimizer still "
            f"steps those that stood there before: from step {step} on what the model uses never changes.",
            evidence=(
                TableEvidence(
                    "replaced", ("parameter", "elements"), tuple((self.tensors.name(c), self.tensors[c].count) for c in columns)
                ),
            ),
            fix="Build the optimizer anew after parameters were replaced, or change their numbers in place: with "
            "torch.no_grad(): parameter.copy_(new).",
            depth=-0.5,
        )

    def _is_left_out(self, column: int) -> bool:
        if self.steps - self.met[column] < SOON:  # pruning puts another one in the place of a weight: an optimizer follows
            return False
        is_used = bool(self.is_used[self.outputs[column]].any())
        return self.tensors.name(column) in self.in_graph or (self.steps >= WAIT and is_used)

    def _tell(self, left_out: list[int], held: set[int], step: int) -> Iterator[Finding]:
        self.is_told[left_out] = True
        severity: Severity = "note" if self._is_backbone(left_out, held) else "warning"
        for place, columns in self.tensors.together(left_out, self.tensors.is_parameter):
            part = sum(self.tensors[c].count for c in columns) / max(1, self._elements())
            path = in_code(place.rpartition(":")[2])
            what = f"{path}.parameters()" if len(columns) > 1 else f"[{path}]"
            rows = tuple((self.tensors.name(c), self.tensors[c].count) for c in columns)
            yield Finding(
                place=place,
                first_step=self.first_step,
                told_step=step,
                message=f"{counted(len(columns), 'parameter')} of {place or 'the model'} ({share(part)} of all elements) "
                f"could learn, but in {counted(self.steps, 'step')} no optimizer that steps has held them: they never change.",
                evidence=(
                    ValueEvidence("share of the model's elements", part),
                    TableEvidence("in no optimizer", ("parameter", "elements"), rows),
                ),
                fix=f"optimizer.add_param_group({{'params': {what}}}), or build the optimizer after the model is complete; if "
                "one holds them, call its step().",
                severity=severity,
                depth=-0.5,
            )

    def _elements(self) -> int:
        return sum(t.count for t in self.tensors if not t.is_output)

    def _is_backbone(self, left_out: list[int], held: set[int]) -> bool:
        """Does all of it lie before all that is trained, and is it most of the model?"""
        trained = [self.tensors[c].order for c in held if not self.tensors[c].is_output]
        if self.thawed & {*left_out}:
            return False
        is_before = bool(trained) and max(self.tensors[c].order for c in left_out) < min(trained) if left_out else False
        is_most = sum(self.tensors[c].count for c in left_out) > MOST_OF * self._elements()
        return is_before and is_most and not self._is_untrained(left_out)

    def _is_untrained(self, left_out: list[int]) -> bool:
        """Do its norms, or else its weights, hold the numbers that they are made with?"""
        told = [(self.tensors[c].role, self.fresh.get(self.tensors.name(c))) for c in left_out]
        for roles in (("norm_scale",), ("weight", "embedding")):
            mine = [is_fresh for role, is_fresh in told if role in roles and is_fresh is not None]
            if len(mine) >= FRESH and all(mine):
                return True
        return False

    def lacking(self) -> tuple[Outcome, str] | None:
        if self.is_trial:
            return None
        if self.steps < WAIT and not self.in_graph:
            return Outcome.NOT_ENOUGH_DATA, f"{counted(self.steps, 'step')} of an optimizer; {WAIT} are needed"
        if not self.is_used.any() and not self.in_graph:
            return Outcome.NOT_ENOUGH_DATA, "the loss's gradient by outputs was not recorded: Plan(activation_gradients=...)"
        return None
