"""Biases that cannot change the loss.

Symptom        The bias drifts or stays where it is, and the network is the same without it.
How it decides What the bias adds is followed through the graph (flow.py): on every path a batch or instance norm in training
               subtracts it with the channel's mean, or a softmax loses it because it is the same for all terms (the key bias of
               attention without rotary embedding). A proof; LayerNorm and GroupNorm are none.
What to do     Build the layer with bias=False; the norm has a shift of its own.
When it errs   An output that the loss does not use may need the bias.
References     Ioffe and Szegedy 2015, "Batch Normalization", section 3.2; Namazifar et al. 2023, arXiv 2302.08626 (key bias).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from weighbridge.diagnosis import Finding, TableEvidence, ValueEvidence
from weighbridge.format import counted
from weighbridge.preflight.finding import finding, in_code
from weighbridge.preflight.flow import Absorbed, absorbed
from weighbridge.preflight.records import Graph, Parameter, Trial

# Where a parameter enters as a bias: the operation and which of its inputs.
CAST = "ToCopy"  # to another dtype, by autocast
AS_BIAS = frozenset({("Addmm", 0), ("Convolution", 2), ("Linear", 2), ("Add", 0), ("Add", 1)})


@dataclass(frozen=True, slots=True)
class Redundant:
    """A bias that the loss does not depend on."""

    parameter: Parameter
    by: Absorbed
    is_before_norm: bool
    absorber: str  # the module that takes it out


def redundant_biases(graph: Graph, parameters: Iterable[Parameter]) -> Iterator[Redundant]:
    """Every redundant bias, in the order of the parameters."""
    for parameter in parameters:
        leaf = graph.leaves.get(parameter.name)
        if leaf is None or len(parameter.shape) != 1 or not _is_bias(graph, leaf):
            continue
        by = absorbed(graph, leaf)
        if by is not None:
            where = graph.nodes[by.nodes[0]].module
            yield Redundant(parameter, by, by.is_by_norm(graph), where)


def _is_bias(graph: Graph, leaf: int) -> bool:
    users = graph.users[leaf]
    return all(
        _is_bias(graph, user) if graph.nodes[user].op == CAST else (graph.nodes[user].op, place) in AS_BIAS
        for user, place in users
    )


def redundant(trial: Trial) -> Iterator[Finding]:
    """One warning per bias before a norm, one note for all that a softmax loses."""
    found = list(redundant_biases(trial.graph, trial.parameters))
    yield from (_before_norm(trial, one) for one in found if one.is_before_norm)
    others = [one for one in found if not one.is_before_norm]
    if others:
        yield _before_softmax(trial, others)


def _before_norm(trial: Trial, one: Redundant) -> Finding:
    norm = f"{in_code(one.absorber)} ({trial.kinds.get(one.absorber, 'norm')})"
    message = (
        f"{norm} subtracts each channel's mean, and with it all that {one.parameter.name} adds: "
        f"{counted(one.parameter.count, 'parameter')}, {counted(saved_bytes(trial, [one]), 'byte')} for nothing."
    )
    return finding("warning", "proof", one.parameter.name, message, _without(trial, one), *_evidence(trial, [one]))


def _before_softmax(trial: Trial, found: Sequence[Redundant]) -> Finding:
    count = sum(one.parameter.count for one in found)
    names = found[0].parameter.name if len(found) == 1 else f"{found[0].parameter.name} and {len(found) - 1} like it"
    verb = "adds" if len(found) == 1 else "add"
    message = (
        f"{names} {verb} the same to all scores of a softmax, which only sees differences: "
        f"{counted(count, 'parameter')}, {counted(saved_bytes(trial, found), 'byte')} for nothing."
    )
    table = TableEvidence("biases", ("parameter", "count"), tuple((o.parameter.name, o.parameter.count) for o in found))
    return finding(
        "note", "proof", found[0].parameter.name, message, _without(trial, found[0]), table, *_evidence(trial, found)
    )


def saved_bytes(trial: Trial, found: Sequence[Redundant]) -> int:
    """Bytes of these biases, their gradients, and what the optimizer keeps of them where that is known."""
    return sum(one.parameter.size_bytes for one in found) * (2 + (trial.state_tensors or 0))


def _evidence(trial: Trial, found: Sequence[Redundant]) -> Iterator[ValueEvidence]:
    yield ValueEvidence("parameters saved", sum(one.parameter.count for one in found))
    yield ValueEvidence("bytes saved, gradient and optimizer state included", saved_bytes(trial, found), unit="byte")
    gradient = found[0].parameter.gradient_rms
    if gradient is not None:
        yield ValueEvidence("rms of its gradient (rounding only)", gradient)


def _without(trial: Trial, one: Redundant) -> str:
    module, _, attribute = one.parameter.name.rpartition(".")
    written = trial.written.get(module, "")
    if attribute != "bias" or not written:
        return f"Leave {in_code(one.parameter.name)} out."
    body = re.sub(r"(, )?bias=(True|False)", "", written.removesuffix(")"))
    return f"{in_code(module)} = nn.{body}, bias=False)"
