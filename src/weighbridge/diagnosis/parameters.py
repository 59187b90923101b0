"""What a first pass says of single parameters: in no optimizer, without a way to the loss, symmetric."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from weighbridge.diagnosis.evidence import Evidence, TableEvidence, ValueEvidence
from weighbridge.diagnosis.graphrule import BEFORE
from weighbridge.diagnosis.rule import Certainty, Finding, Severity
from weighbridge.diagnosis.tensors import in_code
from weighbridge.firstpass import FirstPass, Parameter
from weighbridge.format import counted

OPAQUE: Final = frozenset({"CheckpointFunction", "CompiledFunction"})  # operations that do not show what they hold
SHOWN: Final = 3  # names in a sentence; all of them are in the evidence


def unoptimized(first: FirstPass) -> Iterator[Finding]:
    """Trainable, with a gradient, and in no parameter group of the optimizer that was given to `inspect`.

    Where the optimizer holds none of the model's parameters at all, it was made for another model: an error.
    """
    if not first.has_optimizer:
        return
    missing = [p for p in first.parameters if p.is_optimized is False and p.gradient_rms is not None]
    if not missing:
        return
    if not any(p.is_optimized for p in first.parameters):
        message = "The optimizer holds none of the model's parameters: no step will change the model."
        fix = "Make the optimizer from model.parameters() after the model has its final form."
        yield _finding("error", missing[0].name, message, fix, _table(missing))
        return
    message = f"{_names(missing)} get a gradient and are in no parameter group of the optimizer: they stay as they are."
    fix = (
        f"optimizer.add_param_group({{'params': [{in_code(missing[0].name)}, ...]}}), or make the "
        "optimizer after all modules; where it is meant, requires_grad_(False) saves their backward pass."
    )
    yield _finding("warning", missing[0].name, message, fix, _table(missing))


def unreached(first: FirstPass) -> Iterator[Finding]:
    """Trainable, in the optimizer where one is given, and not in the graph of the loss of `inspect`.

    A module that did not run is excused where others of the same list did (experts, dropped layers): a note for all of them.
    Where a part of the graph cannot be seen (reentrant checkpoints, compiled code) nothing is said.
    """
    if not first.has_gradients or is_opaque(first):
        return
    lost = [p for p in first.parameters if p.is_trainable and p.name not in first.graph.leaves and p.is_optimized is not False]
    optional = [p for p in lost if not p.is_called and p.is_optional]
    certain = [p for p in lost if p not in optional]
    if certain:
        how = "ran, but no path leads from them to the loss" if any(p.is_called for p in certain) else "did not run"
        message = f"{_names(certain)} {how} on this batch: their gradient is None, and they will not learn from such batches."
        fix = "Use the module's output in the loss (look for detach(), no_grad(), .data, argmax), or remove the module."
        yield _finding("warning", certain[0].name, message, fix, _table(certain))
    if optional:
        message = f"{_names(optional)} did not run on this batch, while others of the same list did."
        fix = "Nothing, where modules are chosen by the data (experts) or dropped at random; else call them in forward()."
        yield _finding("note", optional[0].name, message, fix, _table(optional))


def is_opaque(first: FirstPass) -> bool:
    """Is there an operation that does not show what it holds?"""
    return any(node.op in OPAQUE for node in first.graph.nodes)


def symmetric(first: FirstPass) -> Iterator[Finding]:
    """All units of a layer start alike and get the same gradient: they stay one unit for ever. Of `inspect`'s pass.

    Rows of zeros, or with gradients that differ (a last layer, LoRA's B, a branch that begins with zero), are none.
    Reference: Goodfellow, Bengio, Courville 2016, section 8.4 (initial parameters need to break symmetry).
    """
    for parameter in first.parameters if first.has_gradients else ():
        if parameter.has_equal_rows:
            units = parameter.shape[0]
            message = (
                f"All {units} rows of {parameter.name} are equal and get equal gradients: its {units} units "
                "compute the same, now and after every step."
            )
            fix = f"nn.init.kaiming_normal_({in_code(parameter.name)})"
            yield _finding("error", parameter.name, message, fix, ValueEvidence("equal rows", units, limit=1))


def _finding(severity: Severity, place: str, message: str, fix: str, evidence: Evidence) -> Finding:
    certainty: Certainty = "proof"
    return Finding(place, BEFORE, BEFORE, message, (evidence,), fix, severity=severity, certainty=certainty)


def _names(found: Sequence[Parameter]) -> str:
    names = [p.name for p in found[:SHOWN]]
    left = len(found) - len(names)
    return f"{', '.join(names)} and {counted(left, 'other parameter')}" if left else " and ".join(names)


def _table(found: Sequence[Parameter]) -> TableEvidence:
    return TableEvidence("parameters", ("parameter", "count"), tuple((p.name, p.count) for p in found))
