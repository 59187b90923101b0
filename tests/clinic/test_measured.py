"""The held-out parts are as large and as varied as README.md says. Oracle: their programs' records, their files' text."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import clinic
from clinic.frame.program import PARTS, Program, programs

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


@pytest.fixture(scope="module")
def fresh() -> list[Program]:
    return programs("fresh")


def test_the_fresh_part_has_every_fault_too(fresh: list[Program]) -> None:
    assert {p.label for p in fresh if p.label} == set(FAULTS)


def test_the_fresh_part_is_as_large_and_as_varied_as_promised(fresh: list[Program]) -> None:
    ill, well = [p for p in fresh if p.label], [p for p in fresh if not p.label]
    assert (len(ill) >= 60, len(well) >= 50) == (True, True)
    assert len({p.kind for p in fresh}) >= 40
    assert len({p.source for p in fresh}) == len(fresh)
    assert all(p.steps >= 300 for p in well)
    assert sum(p.data != "made" for p in well) >= len(well) / 3
    assert [p.name for p in ill if not p.places] == []


@pytest.mark.parametrize("part", PARTS)
def test_the_parts_share_no_code_and_know_no_tool(part: str) -> None:
    foreign = (*(f"clinic.{other}" for other in PARTS if other != part), "weighbridge", "clinic.tools")
    for file in (Path(str(clinic.__file__)).parent / part).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom | ast.Import):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                assert not [name for name in names if name.startswith(foreign)], file


def test_the_parts_share_no_class_of_models() -> None:
    """By text: a class of one part stands in no other."""
    seen: dict[str, str] = {}
    for part in PARTS:
        for file in (Path(str(clinic.__file__)).parent / part).glob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.ClassDef) and len(node.body) > 1:
                    assert seen.setdefault(ast.dump(ast.Module(node.body, [])), part) == part, (node.name, file)
