"""Oracle: the run's own rows, and the terminal's width and height."""

from __future__ import annotations

import fcntl
import math
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from rich.cells import cell_len

from tests.browser.conftest import PATIENCE, SOURCE, go_on, printed, training
from tests.cli.calling import call
from tests.server.conftest import make_run
from tests.server.test_heat import deep_run
from weighbridge.diagnosis.engine import diagnose
from weighbridge.report import top
from weighbridge.store.layout import create_run
from weighbridge.store.record import open_run


@pytest.mark.parametrize("width", [60, 80, 140])
@pytest.mark.parametrize("height", [12, 24, 60])
def test_one_screen_is_never_more_than_the_terminal_holds(tmp_path: Path, width: int, height: int) -> None:
    run = deep_run(tmp_path, 20)
    shown = top.lines(open_run(run), diagnose(run), width, height)
    assert len(shown) <= height
    assert max(cell_len(line.plain) for line in shown) <= width


def test_what_is_not_finite_stands_first_and_then_what_is_far_from_the_others(tmp_path: Path) -> None:
    run = make_run(tmp_path, "made", steps=14)  # step 13 has NaN in all tensors
    record = open_run(run)
    assert all(math.isinf(distance) for _, distance in top.standing_out(record, 3))
    record = open_run(deep_run(tmp_path, 3))
    found = top.standing_out(record, 99)
    distances = [distance for _, distance in found]
    assert distances == sorted(distances, reverse=True)
    last = {t.name: record.series(t.name, "gradient.rms").values[-1] for t in record.tensors}
    middle = sorted(math.log(value) for value in last.values())
    median = (middle[6] + middle[7]) / 2
    assert found[0][1] == pytest.approx(max(abs(math.log(value) - median) for value in last.values()), rel=1e-9)


def test_the_causes_come_with_what_to_try_and_the_rest_is_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path, "made", steps=60)
    diagnosis = diagnose(run)
    told = "\n".join(line.plain for line in top.finding_lines(diagnosis, 200))
    assert diagnosis.causes[0].rule in told
    assert diagnosis.causes[0].fix in told
    if len(diagnosis.findings) > top.FINDINGS:
        assert f"and {len(diagnosis.findings) - top.FINDINGS} more" in told
    assert "reading this run" in top.finding_lines(None, 80)[0].plain


def test_a_run_without_a_step_has_a_screen_too(tmp_path: Path) -> None:
    run = create_run(tmp_path, "none", {})
    told = "\n".join(line.plain for line in top.lines(open_run(run), diagnose(run), 80, 24))
    assert "no tensor yet" in told
    assert "no step yet" in told
    assert "nothing found" not in told


@pytest.mark.parametrize("width", [46, 60])
def test_a_low_and_narrow_screen_shows_the_worst_tensors_too(tmp_path: Path, width: int) -> None:
    run = make_run(tmp_path, "made", steps=60)
    shown = [line.plain for line in top.lines(open_run(run), diagnose(run), width, 13)]
    assert len(shown) <= 13
    assert any(line.startswith("layers.0.weight") for line in shown)
    (caption,) = [line for line in shown if " tensors, the oddest" in line]
    assert caption.endswith(("first", "weight")), "what does not fit is left out whole"


def test_on_a_terminal_it_follows_its_size_and_leaves_it_as_it_was(tmp_path: Path) -> None:
    terminal, inner = pty.openpty()
    resize(terminal, 24, 80)
    with training(tmp_path, "growing", 26, 0.0, hold=25, harm="harm") as child:
        printed(child, "held")
        command = [sys.executable, "-m", "weighbridge", "top", str(tmp_path / "growing"), "--every", "0.2"]
        environment = {**os.environ, "PYTHONPATH": str(SOURCE), "TERM": "xterm"}
        for name in ("COLUMNS", "LINES"):  # they would outdo the terminal
            environment.pop(name, None)
        before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored where the tests were started in the background
        shown = subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner, env=environment, start_new_session=True)
        signal.signal(signal.SIGINT, before)
        os.close(inner)
        first = read_until(terminal, "net.0.weight")
        assert "live" in first
        assert "\x1b[?25l" in first, "the cursor is hidden meanwhile"
        go_on(child)
        read_until(terminal, "nonfinite-origin")
        resize(terminal, 13, 46)
        read_until(terminal, "the oddest gradients first\x1b[0m\r\n", "net.0.weight")
        shown.send_signal(signal.SIGINT)
        last = read_until(terminal, "\x1b[?25h")
    assert shown.wait(PATIENCE) == 130
    assert "Traceback" not in last
    os.close(terminal)


def resize(terminal: int, rows: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def read_until(terminal: int, *words: str) -> str:
    """What is written there until all of these were, one after the other."""
    found, end = "", time.monotonic() + PATIENCE
    while not re.search(".*?".join(map(re.escape, words)), found, re.DOTALL):
        assert time.monotonic() < end, f"no {words} in {found[-2000:]}"
        if select.select([terminal], [], [], 0.1)[0]:
            found += os.read(terminal, 65536).decode(errors="replace")
    return found


def test_in_a_pipe_one_screen_is_printed_and_that_is_all(tmp_path: Path) -> None:
    run = make_run(tmp_path, "made", steps=20)
    answer = call("top", str(run))
    assert answer.code == 0
    assert "layers.0.weight" in answer.out
    assert max(cell_len(line) for line in answer.out.splitlines()) <= 80
    assert call("top", str(tmp_path / "gone")).code == 2


def test_the_screen_ends_by_itself_when_the_run_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from weighbridge.cli import top as command

    run = make_run(tmp_path, "made", steps=20)
    drawn: list[object] = []

    class Screen:
        def __init__(self, **kind: object) -> None: ...
        def __enter__(self) -> Screen:
            return self

        def __exit__(self, *error: object) -> None: ...
        def update(self, what: object, refresh: bool) -> None:
            drawn.append(what)

    monkeypatch.setattr("rich.live.Live", Screen)
    command._watch(run, 0.01)
    assert drawn


def test_a_cause_says_what_happened_and_three_dots_stand_for_what_is_cut(tmp_path: Path) -> None:
    run = make_run(tmp_path, "made", steps=60)
    diagnosis = diagnose(run)
    cause = diagnosis.causes[0]
    wide = [line.plain.strip() for line in top.finding_lines(diagnosis, 200)]
    assert wide[1] == cause.message
    assert not any(line.endswith(" …") for line in wide)
    narrow = [line.plain for line in top.finding_lines(diagnosis, 40)]
    cut = [line for line in narrow if line.endswith(" …")]
    assert cut, "two lines of 32 letters do not hold it"
    assert all(cell_len(line) <= 40 for line in narrow)


def test_above_the_tensors_stands_how_many_of_them_are_shown(tmp_path: Path) -> None:
    record = open_run(deep_run(tmp_path, 20))
    assert top.tensor_lines(record, 100, 5)[0].plain.startswith(
        f"5 of {len(record.tensors)} tensors, the oddest gradients first"
    )
    assert top.tensor_lines(record, 100, 99)[0].plain.startswith("all tensors")
