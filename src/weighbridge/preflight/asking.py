"""The rules of the registry that read graphs, asked before training: one block without steps, with the trial's pass."""

from __future__ import annotations

import numpy as np

from weighbridge.diagnosis import Diagnosis, registry
from weighbridge.diagnosis.engine import Engine
from weighbridge.diagnosis.graphrule import BEFORE
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.tensors import Tensors
from weighbridge.firstpass import FirstPass, to_text


def ask(first: FirstPass, subject: str) -> Diagnosis:
    """What the rules say of one pass. A rule that fails by its own bug says so; the others go on."""
    engine = Engine([rule for rule in registry.rules() if "graph" in rule.needs.tables])
    row = {"step": BEFORE, "detail": to_text(first)}
    arrays = {name: np.empty((1, 0)) for name in engine.needs.statistics}
    tables = {name: (row,) if name == "graph" else () for name in engine.needs.tables}
    engine.feed(Block(BEFORE, 0, Tensors(()), (), arrays, tables))
    return engine.diagnosis(subject)
