"""What the fresh part says of its programs holds, for a cut of it. Oracle: their own plain measurements, without any tool."""

from __future__ import annotations

import pytest

from clinic.frame.program import programs
from clinic.frame.trial import Result, Trial, run_all
from tests.clinic.apart import in_new_process


def tried() -> list[Result]:
    """The first faulty program of each file and its twin, and the first healthy one of each file: seconds, not minutes."""
    first = {p.train.__module__: p for p in reversed(programs("fresh")) if p.ranks == 1}.values()
    assert len(first) > 15
    return list(
        run_all([Trial(p, 0, ill) for p in first for ill in ((True, False) if p.label else (False,))], 2, watched=False)
    )


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return in_new_process(tried)


def test_every_truth_holds_and_every_twin_and_healthy_program_learns(results: list[Result]) -> None:
    assert [(r.name, r.first_true, r.failure) for r in results if r.failure or not r.is_proved] == []


def test_a_truth_holds_in_the_fault_and_not_in_its_twin(results: list[Result]) -> None:
    true = {r.name: r.first_true for r in results}
    ill = [r.name for r in results if r.label]
    assert ill
    assert [name for name in ill if true[name] is None or true[f"{name}-repaired"] is not None] == []
