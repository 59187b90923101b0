"""A parameter is in an optimizer and requires a gradient, and never gets one, or from some step on no more.

Symptom        A layer keeps its first numbers (or only decays), although the optimizer holds it.
How it decides Exact: in each of the first WAIT steps of its optimizer its `grad` was None, while other parameters had one; in
               each of the first SOON where no graph of a first loss holds it either. Or no parameter at all has had a gradient
               in the first SOON steps, and the first backward pass began at a number that nothing was computed to (a loss made
               into a new tensor): an error. In mid-run: it had one at each of at least SEEN steps, and then none (None, or
               nothing but 0 while its module gives what the loss no longer depends on) so often in a row that chance explains
               it with 0.1 % at most; by the graph of the first loss it feeds parameters that still get theirs, and no other
               parameter began to get one meanwhile. BRANCH steps where it lies beside what still learns.
What to do     Look for what cuts the graph before it: `detach()`, `.item()`, `.data`, `torch.no_grad()`, a new tensor made
               of the output, an argmax; or a module that `forward` never calls. Remove it, or freeze it with
               `requires_grad_(False)`.
When it errs   A part that is used less often than once in WAIT steps (a head of another task). One of several like parts of
               which each takes its own share of a batch (experts) is a note: either another one had steps without a
               gradient, or their outputs differ in size within a step. Freezing is said by `requires_grad_(False)`;
               a part that is frozen by `detach()` while its optimizer holds it is told. A head whose loss is no longer
               asked for feeds nothing and is not.
References     PyTorch documentation, "Autograd mechanics"; DistributedDataParallel, `find_unused_parameters`.
               No event in n trials: the rule of three, Hanley & Lippman-Hand 1983.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from weighbridge.diagnosis import Finding, Needs, Outcome, Rule, TableEvidence, ValueEvidence
from weighbridge.diagnosis.cutoff import CutOff
from weighbridge.diagnosis.parameters import is_opaque, unreached
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.firstpass import FirstPass, from_text
from weighbridge.format import counted
from weighbridge.lossgraph import Graph

SOON = 3  # steps, where no graph of the first step holds the parameter, and it is not one of several in a list
WAIT = 20  # steps: a part that is used in every fourth of them is missed in all with a chance of 0.3 % (0.75^20)
APART = "apart"  # event of capture


class ParameterWithoutGradient(Rule):
    id, title = "parameter-without-gradient", "A parameter of an optimizer never gets a gradient"
    severity, certainty, since = "warning", "proof", "0.1"
    needs = Needs(
        gradient=["count", "abs_max"],
        parameter=["count"],
        activation=["count"],
        activation_gradient=["count"],
        tables=["steps", "groups", "graph", "events"],
    )
    causes = ("stalled-loss", "dead-units")
    experiment = "Take the gradient of the loss by this parameter (torch.autograd.grad): if there is one, this is wrong."

    def __init__(self) -> None:
        self.steps, self.first = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.has_one, self.is_told = np.zeros(0, bool), np.zeros(0, bool)
        self.is_routed = np.zeros(0, bool)  # takes, or its like take, a part of each batch only
        self.is_trial = False  # asked before training, by `inspect`
        self.in_graph: set[str] = set()  # parameters that a loss of the first step depends on
        self.lost: set[str] = set()  # that could be, and are not left out by turns
        self.early, self.is_opaque = np.zeros(0, bool), False
        self.cut_off = CutOff()
        self.is_apart, self.without = False, list[int]()  # was the first loss a new tensor? Steps so far, of which none had one
        self.graph: Graph | None = None  # of the first losses that with most parameters

    def start(self, tensors: Tensors) -> None:
        self.tensors = tensors
        self.cut_off.start(tensors)
        for name, fill in (("steps", 0), ("first", -1), ("has_one", 0), ("is_told", 0), ("is_routed", 0)):
            setattr(self, name, tensors.grown(getattr(self, name), fill))
        self.is_meant = tensors.is_parameter & tensors.where(t.requires_grad for t in tensors)
        self.families = [
            (columns, sorted({o for c in columns for o in tensors.outputs_of(c)})) for columns in tensors.families()
        ]

    def read(self, block: Block) -> Iterator[Finding]:
        for row in block.rows("graph"):
            first = from_text(row["detail"])
            self.is_trial |= first.has_gradients
            yield from unreached(first)
            self._note_graph(first)
        self.is_apart |= any(row["kind"] == APART for row in block.rows("events"))
        if self.is_apart and not self.in_graph and not self.has_one.any():
            yield from self._tell_apart(block)
        is_stepped = ~np.isnan(block.of_steps("optimizer_step"))
        is_there = ~np.isnan(block["gradient.count"])
        is_stepped &= ~np.isnan(block["parameter.count"])  # weighed in this step
        is_stepped &= is_there.any(axis=1)[:, None]  # gradients are weighed in this step
        is_stepped &= self.is_meant  # what was frozen in a step, and is thawed later, missed none
        for step, lost in self.cut_off.read(block, is_stepped, self._whole_graph):
            yield from self._tell_cut_off(lost, step)
        sizes = block["activation.count"]
        for i in range(len(block)):
            if not (self.is_meant & ~self.has_one & ~self.is_told).any():  # each has had one: there is nothing to wait for
                self.steps += is_stepped[i:].sum(axis=0)
                return
            self.has_one |= is_there[i]
            for columns, outputs in self.families:
                given = sizes[i, outputs][~np.isnan(sizes[i, outputs])]
                is_uneven = given.size > 1 and bool((given != given[0]).any())
                self.is_routed[columns] |= is_uneven or bool((self.has_one & is_stepped[i] & ~is_there[i])[columns].any())
            self.first[is_stepped[i] & (self.first < 0)] = block.start + i
            self.steps += is_stepped[i]
            told = (self.steps >= WAIT) | ((self.steps >= SOON) & self._out_of_graph())
            told &= ~self.has_one & ~self.is_told & self.is_meant
            if told.any():
                self.is_told |= told
                yield from self._tell(np.flatnonzero(told), block.start + i)

    def _tell_apart(self, block: Block) -> Iterator[Finding]:
        """No parameter has had a gradient in the first steps, behind a loss that is a new tensor."""
        for row in block.rows("steps"):
            if not np.isnan(block["gradient.count"][row["step"] - block.start]).all():
                self.is_apart = False
                return
            self.without.append(row["step"])
            if len(self.without) == SOON:
                self.is_apart = False
                yield Finding(
                    severity="error",
                    place="",
                    first_step=self.without[0],
                    told_step=row["step"],
                    message="The backward pass begins at a number that nothing was computed to: no parameter had a gradient in "
                    f"{counted(SOON, 'step')}, and nothing can be learnt.",
                    evidence=(ValueEvidence("steps without a gradient", float(SOON), SOON),),
                    fix="Call backward() on the loss itself, as the criterion gave it: not on torch.tensor(loss), on "
                    "loss.detach() or on a number that requires_grad was set on.",
                    depth=-0.5,
                )

    def _whole_graph(self) -> Graph | None:
        """Of the first loss; None where a part of it cannot be seen."""
        return None if self.is_opaque else self.graph

    def _note_graph(self, first: FirstPass) -> None:
        if self.graph is None or len(first.graph.leaves) > len(self.graph.leaves):
            self.graph = first.graph
        self.in_graph |= first.graph.leaves.keys()
        self.is_opaque |= is_opaque(first)
        self.lost |= {p.name for p in first.parameters if p.is_trainable and not (p.is_optional and not p.is_called)}
        self.early = np.zeros(0, bool)

    def _out_of_graph(self) -> np.ndarray:
        """Mask: no loss of the first step depends on it."""
        if len(self.early) != len(self.tensors):
            lost = set() if self.is_opaque or not self.in_graph else self.lost - self.in_graph
            self.early = self.tensors.where(self.tensors.name(c) in lost for c in range(len(self.tensors)))
        return self.early

    def _tell(self, told: np.ndarray, step: int) -> Iterator[Finding]:
        for place, columns in self.tensors.together(told.tolist(), self.is_meant):
            yield Finding(
                severity="note" if self.is_routed[columns].all() else "",
                place=place,
                first_step=int(self.first[columns].min()),
                told_step=step,
                message=f"{counted(len(columns), 'parameter')} of {place or 'the model'} had no gradient in any of the "
                f"{counted(int(self.steps[columns].min()), 'step')} of the optimizer that holds them.",
                evidence=(
                    ValueEvidence("steps without a gradient", float(self.steps[columns].min()), WAIT),
                    self._sizes(columns),
                ),
                fix=f"Find what cuts the graph between {place or 'the model'} and the loss (detach, no_grad, .item(), .data), "
                "or a forward that does not call it; if it is meant to stay as it is: requires_grad_(False).",
                depth=-0.5,
            )

    def _tell_cut_off(self, lost: np.ndarray, step: int) -> Iterator[Finding]:
        seen, since = self.cut_off.seen, self.cut_off.lost_at
        for place, columns in self.tensors.together(lost.tolist(), self.is_meant):
            first = int(since[columns].min())
            yield Finding(
                place=place,
                first_step=first,
                told_step=step,
                message=f"{counted(len(columns), 'parameter')} of {place or 'the model'} had a gradient at all of "
                f"{counted(int(seen[columns].min()), 'step')}, and from step {first} on none, while parameters that "
                "they fed still get theirs.",
                evidence=(
                    ValueEvidence("steps with a gradient before", float(seen[columns].min())),
                    ValueEvidence("steps without one since", float(step - first + 1)),
                    self._sizes(columns),
                ),
                fix=f"Look for what changes at step {first} and cuts the graph behind {place or 'the model'} (detach, no_grad, "
                ".data, numbers made into a new tensor, a branch that is skipped); if it is meant to stay as it is from there: "
                "requires_grad_(False).",
                depth=-0.5,
            )

    def _sizes(self, columns: Iterable[int]) -> TableEvidence:
        rows = tuple((self.tensors.name(c), self.tensors[c].count) for c in columns)
        return TableEvidence("without a gradient", ("parameter", "elements"), rows)

    def lacking(self) -> tuple[Outcome, str] | None:
        most = int(self.steps.max(initial=0))
        if self.is_trial or most >= WAIT:
            return None
        return Outcome.NOT_ENOUGH_DATA, f"{counted(most, 'step')} with gradients; {WAIT} are needed"
