"""Oracle: what the command says, and a real socket."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from weighbridge.cli import ui
from weighbridge.errors import BadInput, NotARun
from weighbridge.server import page

SOURCE = Path(__file__).parents[2] / "src"


def test_without_the_page_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(page.PageNotBuilt, match="WEIGHBRIDGE_SKIP_UI=1") as told:
        page.check_built(tmp_path)
    assert "npm ci" in str(told.value)
    assert "weighbridge show" in str(told.value)


def test_over_ssh_it_prints_the_tunnel_line() -> None:
    far = {"SSH_CONNECTION": "10.0.0.2 50000 10.0.0.9 2222", "USER": "ada"}
    lines = ui.announcement(Path("runs"), "127.0.0.1", 8765, far)
    assert any("ssh -N -L 8765:localhost:8765 -p 2222 ada@10.0.0.9" in line for line in lines)
    assert not any("ssh" in line for line in ui.announcement(Path("runs"), "127.0.0.1", 8765, {}))


def test_an_outside_address_is_said_to_be_open_to_others() -> None:
    assert any("Anyone who reaches 0.0.0.0:80" in line for line in ui.announcement(Path("runs"), "0.0.0.0", 80, {}))


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place, says in ((tmp_path / "file", "is a file"), (tmp_path / "none", "There is no folder")):
        with pytest.raises(NotARun, match=says):
            ui._existing(place)


def test_before_the_first_run_the_page_opens_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ui._existing(Path("weighbridge-runs")) == Path("weighbridge-runs")
    assert not list(tmp_path.iterdir())  # it is made when something is kept


def test_a_taken_port_is_passed_over_unless_it_was_asked_for() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match="Leave --port out"):
            ui._listen("127.0.0.1", port)
    first = ui._listen("127.0.0.1", -1)
    first.listen()
    second = ui._listen("127.0.0.1", -1)
    assert second.getsockname()[1] > first.getsockname()[1] >= ui.FIRST_PORT
    first.close()
    second.close()


@pytest.mark.skipif(not (page.STATIC / "index.html").is_file(), reason="the page is not built")
def test_it_serves_until_ctrl_c_and_ends_quietly(folder: Path) -> None:
    code = "import sys; from weighbridge.cli.main import run; sys.argv = ['weighbridge', 'ui', *sys.argv[1:]]; run()"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    server = subprocess.Popen(
        [sys.executable, "-c", code, str(folder), "--port", "0", "--no-open"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        address = line.split()[-1]
        with urllib.request.urlopen(f"{address}api/runs", timeout=120) as answer:
            assert sorted(json.load(answer)["groups"][0]["names"]) == ["first", "second"]
        with urllib.request.urlopen(f"{address}api/growth?run=first", timeout=120) as events:
            told = [events.readline().decode() for _ in range(4)]
            assert "event: grown\n" in told
            server.send_signal(signal.SIGINT)  # while a stream of events is open
            _, err = server.communicate(timeout=120)
    finally:
        server.kill()
    assert (server.returncode, err) == (0, "")
