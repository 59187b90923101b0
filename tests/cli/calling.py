"""Calls the command line inside this process, or in one of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

SRC = Path(__file__).parents[2] / "src"
GOLDEN = Path(__file__).parent / "golden"


class Answer:
    """What a call printed and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


def call(*words: str, columns: int = 80) -> Answer:
    """Run a command in this process."""
    from weighbridge.cli.main import build_app

    result = CliRunner().invoke(build_app(), list(words), env={"COLUMNS": str(columns)}, prog_name="weighbridge")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Answer(result.exit_code, result.stdout, result.stderr)


def call_process(*words: str, cwd: Path) -> Answer:
    """Run a command as a user does."""
    done = subprocess.run(
        [sys.executable, "-m", "weighbridge", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(SRC), "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def refused(answer: Answer) -> str:
    """The message of a call that was refused as it should be: exit code 2, on stderr, no traceback."""
    assert answer.code == 2, answer.out + answer.err
    assert "Traceback" not in answer.out + answer.err
    assert answer.err.strip()
    return answer.err


def check_golden(name: str, text: str) -> None:
    """Compare with golden/NAME.txt; WEIGHBRIDGE_WRITE_GOLDEN=1 writes it anew."""
    steady = re.sub(r"[\d.]+ [KM]iB", "SIZE", re.sub(r"started .*", "started WHEN", text))
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("WEIGHBRIDGE_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(steady, encoding="utf-8")
    if not path.exists():
        pytest.fail(f"{path} is missing")
    assert steady == path.read_text(encoding="utf-8")


def write_program(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> Path:
    """NAME.py in a folder that is now the current one; what commands put onto the path and import is undone."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.delitem(sys.modules, name, raising=False)
    path = folder / f"{name}.py"
    path.write_text(text)
    return path
