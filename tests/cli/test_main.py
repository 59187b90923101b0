"""The frame of the command line, and `ls`. Oracle: what the issue asks of bad input, and runs made for the test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cli.calling import SRC, call, call_process, refused
from tests.report.made import make_run, network
from weighbridge import __version__
from weighbridge.cli.main import COMMANDS
from weighbridge.cli.manual import manual

DOCS = Path(__file__).parents[2] / "docs" / "cli.md"
KILLED = """
import os, sys
from pathlib import Path
from tests.report.made import make_run, network
make_run(Path(sys.argv[1]), network([2, 1]), steps=3, name="killed", finish=False)
os._exit(9)
"""


def test_the_version_is_told() -> None:
    assert call("--version").out.strip() == f"weighbridge {__version__}"


def test_the_help_names_every_command() -> None:
    text = call("--help").out
    for name in COMMANDS:
        if find_spec(f"weighbridge.cli.{name}") is None:
            continue
        assert f"\n  {name} " in text


def test_docs_are_the_help_texts() -> None:
    """Made with: python -m weighbridge.cli.manual > docs/cli.md"""
    assert DOCS.read_text(encoding="utf-8") == manual()


def test_an_unknown_command_suggests_the_nearest() -> None:
    assert "show" in refused(call("shwo"))


def test_the_command_line_loads_no_torch() -> None:
    code = "import sys, weighbridge.cli.main; sys.exit('torch' in sys.modules or 'starlette' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(SRC)}, check=True)


def test_a_refusal_as_a_user_meets_it(tmp_path: Path) -> None:
    message = refused(call_process("show", "nowhere", cwd=tmp_path))
    assert "weighbridge.watch(model)" in message
    assert len(message.splitlines()) == 1


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    make_run(tmp_path / "weighbridge-runs", network([2] * 100), steps=20)
    command = (
        f"{sys.executable} -m weighbridge show first -t '*' -s gradient.rms --csv 2>err | head -1; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    assert done.stdout.splitlines()[-1] == "0"
    assert (tmp_path / "err").read_text() == ""


def test_ls_lists_the_newest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        make_run(tmp_path / "weighbridge-runs", network([2, 1]), steps=3, name=name)
    monkeypatch.chdir(tmp_path)
    lines = call("ls").out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["two", "one"]
    assert "finished" in lines[1]
    assert "0.3333" in lines[1]
    listed = json.loads(call("ls", "--json").out)
    assert [(r["name"], r["steps"], r["tensors"], r["state"]) for r in listed] == [
        ("two", 3, 2, "finished"),
        ("one", 3, 2, "finished"),
    ]


def test_a_run_that_was_killed_says_so(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(SRC), str(root)])
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env={**os.environ, "PYTHONPATH": paths}, check=False)
    assert "ended without finish" in call("ls", str(tmp_path), columns=120).out
    assert "no finish" in call("ls", str(tmp_path), columns=60).out
    assert "ended without finish: everything up to step 2 is here" in call("show", str(tmp_path / "killed")).out


def test_ls_of_nothing_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = call("ls")
    assert answer.code == 0
    assert "weighbridge demo" in answer.out
    assert "No runs in" in call("ls", str(tmp_path)).out
    assert json.loads(call("ls", "--json").out) == []


def test_ls_of_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refused(call("ls", str(tmp_path / "nowhere")))


def test_ls_shows_a_run_that_cannot_be_read_and_why(tmp_path: Path) -> None:
    made = make_run(tmp_path, network([2, 1]), steps=1, name="broken")
    text = bytearray((made.path / "run.json").read_bytes())
    text[30] ^= 4
    (made.path / "run.json").write_bytes(text)
    answer = call("ls", str(tmp_path))
    assert answer.code == 0
    assert "! broken" in answer.out
    assert "run.json" in answer.out.replace("\n", "")
    assert json.loads(call("ls", str(tmp_path), "--json").out)[0]["state"] == "unreadable"
