"""Findings of whole programs: killed, forked, on one core, of other ranks. Oracle: what the files hold afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

import weighbridge
from tests.capture.live_training import MINE, Loop, kept
from weighbridge.diagnosis.kept import findings_in

# ---- processes --------------------------------------------------------------------------------------------------------

PROGRAM = """
    import sys, time, torch, weighbridge
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x = torch.randn(16, 4)
    def step(zero=False):
        (model(x) - x[:, :1]).square().mean().backward()
        optimizer.step()
        if zero:
            optimizer.zero_grad()
"""


def program(code: str, where: Path, **more: Any) -> subprocess.Popen[str]:
    text = textwrap.dedent(PROGRAM) + textwrap.dedent(code)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", text], cwd=where, **pipes, **more)  # type: ignore[call-overload,no-any-return]


def test_a_run_that_is_killed_keeps_its_findings(tmp_path: Path) -> None:
    code = """
        run = weighbridge.watch(model, select=["gradients-not-zeroed"])
        while not run.findings:
            step()
        run.flush()
        print(run.path, flush=True)
        time.sleep(600)
    """
    process = program(code, tmp_path)
    assert process.stdout is not None
    path = tmp_path / process.stdout.readline().strip()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    record = weighbridge.open_run(path)
    assert record.info.state == "ended without finish"
    assert [f.rule for f in findings_in(record.whole("findings"))] == ["gradients-not-zeroed"]


def test_a_run_that_nobody_finishes_ends_with_the_program_and_its_findings(tmp_path: Path) -> None:
    done = program("run = weighbridge.watch(model, select=['gradients-*'])\nfor _ in range(30): step()", tmp_path)
    _, told = done.communicate(timeout=240)
    assert done.returncode == 0
    assert told.count("gradients-not-zeroed") == 1
    (path,) = (tmp_path / "weighbridge-runs").iterdir()
    assert [f.rule for f in findings_in(weighbridge.open_run(path).whole("findings"))] == ["gradients-not-zeroed"]


def test_a_forked_child_neither_diagnoses_nor_waits(tmp_path: Path) -> None:
    code = """
        import os
        run = weighbridge.watch(model)
        for _ in range(30): step(True)
        child = os.fork()
        if child == 0:
            for _ in range(5): step(True)
            run.finish()
            sys.exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        for _ in range(5): step(True)
        run.finish()
        print(len(weighbridge.open_run(run.path).losses().values))
    """
    process = program(code, tmp_path)
    shown, _ = process.communicate(timeout=240)
    assert shown.split() == ["7", "35"]


def test_several_runs_in_one_process_have_each_their_own_findings(tmp_path: Path) -> None:
    before = threading.active_count()
    for number in range(3):
        loop = Loop(tmp_path, f"run-{number}", **MINE)
        loop.step(4)
        assert weighbridge.init(dir=tmp_path, name="next") is not loop.run  # finishes the one before
        assert [f.rule for f in kept(loop.run)] == ["second-step"]
    weighbridge.finish()
    assert threading.active_count() == before


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="there is no choosing of cores here")
def test_on_one_core_too(tmp_path: Path) -> None:
    code = """
        import os
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
        run = weighbridge.watch(model, select=["gradients-not-zeroed"])
        end = time.monotonic() + 120
        while not run.findings and time.monotonic() < end:
            step()
        print([f.rule for f in run.findings])
    """
    shown, _ = program(code, tmp_path).communicate(timeout=240)
    assert shown.split() == ["['gradients-not-zeroed']"]


def test_the_query_engine_stays_out_of_a_training(tmp_path: Path) -> None:
    code = """
        run = weighbridge.watch(model)
        while not run.findings:
            step()
        print([name for name in ("duckdb", "starlette", "rich") if name in sys.modules])
    """
    shown, _ = program(code, tmp_path).communicate(timeout=240)
    assert shown.split() == ["[]"]


def test_other_ranks_do_not_diagnose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("weighbridge.capture.ranks._WAIT_SECONDS", 0.0)
    loop = Loop(tmp_path, stop_on="error", **MINE)
    loop.step(5)
    assert not [t for t in threading.enumerate() if t.name == "weighbridge-rules"]
    loop.run.finish()
    assert loop.run.findings == ()
