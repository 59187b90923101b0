"""What a rule says of a first pass that is drawn by hand."""

from __future__ import annotations

from tests.diagnosis.graphs import rows
from tests.diagnosis.made import asked, block
from weighbridge.diagnosis import Finding, Outcome, Rule
from weighbridge.firstpass import FirstPass


def found(rule: type[Rule], *passes: FirstPass, step: int = 0) -> list[Finding]:
    diagnosis = asked(rule, block(1, graph=rows(*passes, step=step)))
    assert diagnosis.answers[0].outcome is not Outcome.FAILED, diagnosis.answers[0].reason
    return list(diagnosis)


def places(rule: type[Rule], *passes: FirstPass) -> list[tuple[str, str]]:
    return [(f.place, f.severity) for f in found(rule, *passes)]
