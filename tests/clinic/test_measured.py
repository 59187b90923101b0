"""The measured part is as large and as varied as README.md says. Oracle: its programs' own records, and its files' imports."""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType

import pytest

import clinic.measured
import clinic.tuning
from clinic.frame.program import Program, programs

FAULTS = """
 evaluation-mode-while-training gradient-not-applied gradients-not-zeroed lost-updates nonfinite-origin
parameter-in-no-optimizer parameter-without-gradient scaler-starvation step-not-taken vanishing-gradient
exploding-gradient exploding-activation exploding-weights wrong-initial-scale low-learning-rate high-learning-rate
dead-units saturated-units collapsed-output symmetric-initialisation rank-collapse attention-logit-growth
overtight-clipping excessive-weight-decay loss-spike gradient-spike stale-second-moment dominant-epsilon
gradient-underflow wrong-loss-sign uninformative-data duplicated-data diverged-replicas missing-activation
redundant-bias missing-bias doubled-output-activation unfit-output-activation raw-input-scale high-initial-loss
starved-batch-norm
""".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def measured() -> list[Program]:
    return programs("measured")


def test_every_fault_has_two_programs_at_least(measured: list[Program]) -> None:
    labels = [p.label for p in measured if p.label]
    assert {label: labels.count(label) for label in FAULTS if labels.count(label) < 2} == {}
    assert set(labels) == set(FAULTS)


def test_there_are_as_many_as_promised_on_many_architectures_from_many_sources(measured: list[Program]) -> None:
    ill, well = [p for p in measured if p.label], [p for p in measured if not p.label]
    assert (len(ill) >= 80, len(well) >= 50) == (True, True)
    assert len({p.kind for p in measured}) >= 20
    assert len({p.source for p in measured}) >= 100
    assert all(p.steps >= 300 for p in well)
    assert sum(p.data != "made" for p in well) >= len(well) / 3


@pytest.mark.parametrize(("part", "other"), [(clinic.measured, "clinic.tuning"), (clinic.tuning, "clinic.measured")])
def test_the_two_parts_share_no_code_and_know_no_tool(part: ModuleType, other: str) -> None:
    for file in Path(str(part.__file__)).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom | ast.Import):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                assert not [name for name in names if name.startswith((other, "weighbridge", "clinic.tools"))], file
