"""Biases that cannot change the loss.

Symptom        The bias drifts or stays where it is, and the network is the same without it.
How it decides What the bias adds is followed through the graph of the first losses (flow.py): on every path a batch or
               instance norm in training (x - x.mean(0) by hand, too) subtracts it with the channel's mean, or a softmax
               loses it because it is the same for all terms (the key bias of attention without rotary embedding: one note
               for all of them). A proof; LayerNorm and GroupNorm are none.
What to do     Build the layer with bias=False; the norm has a shift of its own.
When it errs   An output that no loss of the first step uses may need the bias.
References     Ioffe and Szegedy 2015, "Batch Normalization", section 3.2; Namazifar et al. 2023, arXiv 2302.08626 (key
               bias).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from weighbridge.diagnosis import Finding, Needs, TableEvidence, ValueEvidence
from weighbridge.diagnosis.evidence import Evidence
from weighbridge.diagnosis.graphrule import BEFORE, GraphRule
from weighbridge.diagnosis.redundant import Redundant, redundant_biases
from weighbridge.diagnosis.rule import Severity
from weighbridge.diagnosis.states import kept_of_each
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.tensors import in_code
from weighbridge.firstpass import FirstPass
from weighbridge.format import counted


class RedundantBias(GraphRule):
    id, title = "redundant-bias", "A bias that a norm or a softmax takes out again"
    severity, certainty, since = "warning", "proof", "0.1"
    needs = Needs(tables=["graph", "groups", "steps"])
    experiment = "Leave the bias out and train with the same seed: if the losses differ by more than rounding, it was needed."

    def __init__(self) -> None:
        super().__init__()
        self.kept: Mapping[str, int | None] = {}  # tensors that an optimizer keeps of a parameter, by its name; None: not known

    def judge_at(self, block: Block, step: int, passes: Sequence[FirstPass]) -> Iterator[Finding]:
        """Beside a training an optimizer is known from its first step on."""
        steps = [row for row in block.rows("steps") if row["step"] == step]
        self.kept = kept_of_each(block.groups, block.tensors, steps)
        return self.judge(passes)

    def judge(self, passes: Sequence[FirstPass]) -> Iterator[Finding]:
        """One warning per bias before a norm, one note for all that a softmax loses. Redundant is what is so in all passes."""
        needed: set[str] = set()
        listed: dict[str, tuple[FirstPass, Redundant]] = {}
        for first in passes:
            found = {one.parameter.name: one for one in redundant_biases(first.graph, first.parameters)}
            needed |= first.graph.leaves.keys() - found.keys()
            listed |= {name: (first, one) for name, one in found.items() if name not in listed}
        left = {name: pair for name, pair in listed.items() if name not in needed}
        yield from (self._before_norm(first, one) for first, one in left.values() if one.is_before_norm)
        others = [(first, one) for first, one in left.values() if not one.is_before_norm]
        if others:
            yield self._before_softmax(others[0][0], [one for _, one in others])

    def _before_norm(self, first: FirstPass, one: Redundant) -> Finding:
        norm, cost = f"{in_code(one.absorber)} ({first.kinds.get(one.absorber, 'norm')})", self._cost(first, [one])
        message = (
            f"{norm} subtracts each channel's mean, and with it all that {one.parameter.name} adds: "
            f"{counted(one.parameter.count, 'parameter')}, {cost.words} for nothing."
        )
        return _finding("warning", first, [one], message, cost, ())

    def _before_softmax(self, first: FirstPass, found: Sequence[Redundant]) -> Finding:
        count, cost = sum(one.parameter.count for one in found), self._cost(first, found)
        names = found[0].parameter.name if len(found) == 1 else f"{found[0].parameter.name} and {len(found) - 1} like it"
        verb = "adds" if len(found) == 1 else "add"
        message = (
            f"{names} {verb} the same to all scores of a softmax, which only sees differences: "
            f"{counted(count, 'parameter')}, {cost.words} for nothing."
        )
        table = TableEvidence("biases", ("parameter", "count"), tuple((o.parameter.name, o.parameter.count) for o in found))
        return _finding("note", first, found, message, cost, (table,))

    def _cost(self, first: FirstPass, found: Sequence[Redundant]) -> Cost:
        kept = [self.kept.get(one.parameter.name, first.state_tensors) for one in found]
        each = [one.parameter.size_bytes * (2 + (states or 0)) for one, states in zip(found, kept, strict=True)]
        return Cost(sum(each), None not in kept)


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes of biases, their gradients, and what the optimizer keeps of them where that is known."""

    size_bytes: int
    has_states: bool

    @property
    def words(self) -> str:
        return ("" if self.has_states else "at least ") + counted(self.size_bytes, "byte")

    @property
    def counts(self) -> str:
        """What is among the bytes."""
        return (
            "gradient and optimizer state included" if self.has_states else "gradient included; what an optimizer keeps is not"
        )


def _finding(
    severity: Severity, first: FirstPass, found: Sequence[Redundant], message: str, cost: Cost, shown: tuple[Evidence, ...]
) -> Finding:
    fix, evidence = _without(first, found[0]), (*shown, *_evidence(found, cost))
    return Finding(found[0].parameter.name, BEFORE, BEFORE, message, evidence, fix, severity=severity)


def _evidence(found: Sequence[Redundant], cost: Cost) -> Iterator[ValueEvidence]:
    yield ValueEvidence("parameters saved", sum(one.parameter.count for one in found))
    yield ValueEvidence(f"bytes saved, {cost.counts}", cost.size_bytes, unit="bytes")
    gradient = found[0].parameter.gradient_rms
    if gradient is not None:
        yield ValueEvidence("rms of its gradient (rounding only)", gradient)


def _without(first: FirstPass, one: Redundant) -> str:
    module, _, attribute = one.parameter.name.rpartition(".")
    written = first.written.get(module, "")
    if attribute != "bias" or not written:
        return f"Leave {in_code(one.parameter.name)} out."
    body = re.sub(r"(, )?bias=(True|False)", "", written.removesuffix(")"))
    return f"{in_code(module)} = nn.{body}, bias=False)"
