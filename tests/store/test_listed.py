"""Oracle: RunRecord, which reads all of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.server.conftest import add_steps, make_run

from weighbridge.server.catalogue import Catalogue
from weighbridge.server.runs import Runs
from weighbridge.store import find
from weighbridge.store.labels import Labels, write_labels
from weighbridge.store.listed import listed
from weighbridge.store.record import RunRecord, list_runs


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the runs that were opened."""
    names: list[str] = []
    real = RunRecord.__init__

    def counted(self: RunRecord, path: Path, *which: int | None) -> None:
        names.append(path.name)
        real(self, path, *which)

    monkeypatch.setattr(RunRecord, "__init__", counted)
    return names


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name in ("a", "b", "c", "d"):
        make_run(tmp_path, name, steps=3)
    return tmp_path


def test_the_newest_are_read_and_the_others_counted(runs: Path, opened: list[str]) -> None:
    found = listed(runs, most=2)
    assert [info.name for info in found.runs] == ["d", "c"]
    assert (found.older, found.unwanted, found.unreadable) == (2, 0, [])
    assert opened == ["d", "c"]
    newest = found.runs[0]
    said = f"<RunInfo d: finished, 3 steps, {newest.tensors} tensors, last loss {newest.last_loss:.6g}>"
    assert repr(newest) == said  # as a list of runs stands in a notebook
    assert [info.name for info in list_runs(runs)] == ["a", "b", "c", "d"]


def test_a_kept_line_says_what_the_run_says_and_opens_nothing(runs: Path, opened: list[str]) -> None:
    truth = [RunRecord(runs / name).info for name in "dcba"]
    Catalogue(Runs(runs, keeps=True)).look(60)
    opened.clear()
    assert listed(runs).runs == truth
    assert opened == []


def test_a_run_that_went_on_is_read_again(runs: Path, opened: list[str]) -> None:
    Catalogue(Runs(runs, keeps=True)).look(60)
    add_steps(runs / "b", 3, 9)
    opened.clear()
    (info,) = [one for one in listed(runs).runs if one.name == "b"]
    assert info.steps == 9
    assert opened == ["b"]


def test_what_is_not_wanted_and_what_cannot_be_read_is_told(runs: Path) -> None:
    write_labels(runs / "d", Labels(is_archived=True))
    (runs / "c" / "run.json").write_text("{")
    found = listed(runs, wanted=lambda path, said: path.name != "d")
    assert [info.name for info in found.runs] == ["b", "a"]
    assert found.unwanted == 1
    assert [path.name for path, _ in found.unreadable] == ["c"]


def test_a_command_without_a_name_opens_the_newest_only(runs: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "RUNS", runs)
    assert find.find_run(None) == runs / "d"
    assert opened == ["d"]
