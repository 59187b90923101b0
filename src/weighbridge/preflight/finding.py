"""A finding of before the training: it has no steps."""

from __future__ import annotations

from weighbridge.diagnosis import Evidence, Finding
from weighbridge.diagnosis.rule import Certainty, Severity

BEFORE = -1  # Finding.first_step of what is so before training


def finding(
    severity: Severity, certainty: Certainty, place: str, message: str, fix: str, *evidence: Evidence, depth: float = 0.0
) -> Finding:
    """A finding whose rule is filled in by `lint`."""
    return Finding(place, BEFORE, BEFORE, message, evidence, fix, severity=severity, certainty=certainty, depth=depth)


def module_of(parameter: str) -> str:
    """The module that a parameter's name begins with.

    >>> module_of("encoder.0.weight"), module_of("scale")
    ('encoder.0', '')
    """
    return parameter.rpartition(".")[0]


def in_code(name: str) -> str:
    """How a program reaches a module or parameter.

    >>> in_code("layers.0.weight"), in_code("")
    ('model.layers[0].weight', 'model')
    """
    return "model" + "".join(f"[{part}]" if part.isdecimal() else f".{part}" for part in name.split(".") if part)
