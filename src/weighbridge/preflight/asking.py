"""The rules of the registry that read graphs, asked before training: one block without steps, with the trial's pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from weighbridge.diagnosis import Diagnosis, Finding, registry
from weighbridge.diagnosis.engine import Engine
from weighbridge.diagnosis.graphrule import BEFORE, GraphRule
from weighbridge.diagnosis.parameters import symmetric
from weighbridge.diagnosis.rule import Rule
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.firstpass import FirstPass, to_text


class SymmetricInitialisation(GraphRule):
    """Until the registry has it."""

    id, title = "symmetric-initialisation", "Units that start alike"
    severity, certainty, since = "error", "proof", "0.1"

    def judge(self, passes: Sequence[FirstPass]) -> Iterator[Finding]:
        for first in passes:
            yield from symmetric(first)


def ask(first: FirstPass, subject: str) -> Diagnosis:
    """What the rules say of one pass. A rule that fails by its own bug says so; the others go on."""
    engine = Engine(_rules())
    row = {"step": BEFORE, "detail": to_text(first)}
    arrays = {name: np.empty((1, 0)) for name in engine.needs.statistics}
    tables = {name: (row,) if name == "graph" else () for name in engine.needs.tables}
    engine.feed(Block(BEFORE, 0, Tensors(()), (), arrays, tables))
    return engine.diagnosis(subject)


def _rules() -> list[type[Rule]]:
    found = [rule for rule in registry.rules() if "graph" in rule.needs.tables]
    return found if any(rule.id == SymmetricInitialisation.id for rule in found) else [*found, SymmetricInitialisation]
