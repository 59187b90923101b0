"""A cut of the clinic, well under a minute: what it says must be true, and what is listed here must stay found."""

from __future__ import annotations

import pytest

from clinic.__main__ import main
from clinic.frame.program import programs
from clinic.frame.score import alarms, delay, hits, placed
from clinic.frame.trial import Result, Trial, run_all
from tests.clinic.apart import in_new_process

CUT = ("forgotten-zero-grad", "zero-initialised-head")


def cut() -> list[Result]:
    chosen = [p for p in programs("tuning") if p.name in CUT]
    return list(run_all([Trial(p, 0, ill) for p in chosen for ill in ((True, False) if p.label else (False,))], jobs=2))


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return in_new_process(cut)


def test_every_program_is_proved_and_trains_the_same_when_watched(results: list[Result]) -> None:
    assert [(r.name, r.failure) for r in results if r.failure or not r.is_proved or not r.is_same] == []


def test_faults_are_named_at_the_right_place_and_soon(results: list[Result]) -> None:
    ill = [r for r in results if r.label]
    assert ill
    assert [r.name for r in ill if not hits(r) or not placed(r) or (delay(r) or 0) > 2] == []


def test_twins_and_healthy_programs_raise_no_alarm(results: list[Result]) -> None:
    assert [(r.name, alarms(r)) for r in results if alarms(r)] == []


def test_the_command_lists_programs_and_proves_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--only", "forgotten*"]) == 0
    assert "zero_grad()" in capsys.readouterr().out
    assert main(["prove", "--only", "forgotten*", "--seeds", "1"]) == 0


def test_what_was_measured_before_is_not_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    prove = ["prove", "--only", "forgotten*", "--seeds", "1"]
    assert main(prove) == 0
    written: list[object] = []
    monkeypatch.setattr("clinic.__main__.save_truths", written.append)
    assert main(prove) == 0
    assert written == []
    assert main([*prove, "--afresh"]) == 0
    assert len(written) == 2


def test_names_are_unique_and_every_program_names_its_source() -> None:
    everything = programs("tuning")
    assert len({p.name for p in everything}) == len(everything)
    assert [p.name for p in everything if len(p.source) < 10 or not p.kind or (p.label and not p.places)] == []
    assert [p.name for p in everything if not p.label and p.steps < 300] == []
