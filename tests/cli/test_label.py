"""Oracle: what was said, and the page's own file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.calling import call, refused
from tests.server.conftest import make_run
from weighbridge.store.labels import Labels, read_labels, write_labels


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_run(tmp_path / "weighbridge-runs", "first", steps=3)
    make_run(tmp_path / "weighbridge-runs", "second", steps=3)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "weighbridge-runs"


def test_tags_and_note_are_changed_and_shown(folder: Path) -> None:
    assert call("label", "first", "second", "--tag", "good", "--tag", "old", "--note", "again").code == 0
    assert call("label", "first", "--untag", "old").out == "first: good  again\n"
    assert call("label", "second").out == "second: good old  again\n"
    assert read_labels(folder / "first") == Labels(("good",), "again")
    assert "tags" in call("ls", columns=120).out


def test_archived_runs_are_hidden_and_said(folder: Path) -> None:
    write_labels(folder / "first", Labels((), "", True))
    out = call("ls", columns=120).out
    assert "first" not in out
    assert "1 archived run not shown: weighbridge ls --all" in out
    assert "(archived)" in call("ls", "--all", columns=120).out
    assert {run["name"]: run["archived"] for run in json.loads(call("ls", "--json").out)} == {"first": True, "second": False}
    assert call("label", "first", "--no-archive").out == "first: no tags\n"
    assert "first" in call("ls", columns=120).out


def test_a_wrong_tag_changes_no_run(folder: Path) -> None:
    assert "is no tag" in refused(call("label", "first", "second", "--tag", "two words"))
    assert not list(folder.rglob("labels.json"))


def test_a_damaged_file_does_not_hide_the_list(folder: Path) -> None:
    (folder / "first" / "labels.json").write_text("{}")
    assert "first" in call("ls").out
    assert "labels.json" in refused(call("label", "first"))
    assert "labels.json" in call("verify", "first").out
