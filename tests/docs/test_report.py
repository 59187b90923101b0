"""The lines of docs/report.md run. Oracle: the files that they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.cli.calling import call
from tests.server.conftest import make_run

ROOT = Path(__file__).resolve().parents[2]
LINES = re.findall(r"^weighbridge (.*)$", (ROOT / "docs/report.md").read_text(), flags=re.MULTILINE)


def test_every_line_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "weighbridge-runs", "first", steps=12)
    make_run(tmp_path / "weighbridge-runs", "second", steps=8)
    monkeypatch.chdir(tmp_path)
    assert len(LINES) == 6
    for line in LINES:
        answer = call(*line.split())
        assert answer.code in ((0, 1) if line.startswith("check") else (0,)), answer.err
    made = {path.name for path in tmp_path.iterdir()}
    assert {"first.html", "both.html", "first.md", "first-pictures", "both.md", "both-pictures", "report.md"} <= made
