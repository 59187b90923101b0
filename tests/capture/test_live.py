"""What becomes of findings while a training runs. Oracles: what each test does itself, and a real HTTP server."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weighbridge
from weighbridge.capture import live
from weighbridge.diagnosis import Finding, Needs, Rule, ValueEvidence, webhook
from weighbridge.diagnosis.kept import findings_in
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.webhook import Webhook
from weighbridge.errors import BadInput, TrainingStopped


class SecondStep(Rule):
    """Told when step 2 is there."""

    id, title, severity, certainty, since = "second-step", "Step 2 is there", "error", "proof", "0"
    needs = Needs(gradient=["rms"], tables=["steps"])

    def read(self, block: Block) -> Iterator[Finding]:
        for row in block.rows("steps"):
            if row["step"] == 2:
                yield Finding("fc", 2, 2, "It is\nthere.", (ValueEvidence("loss", float("nan"), 1.0),), "Nothing.")


MINE: dict[str, Any] = {"rules": [SecondStep], "select": ["second-step"]}


class Loop:
    """A small training, a step at a time."""

    def __init__(self, where: Path, name: str = "run", **wishes: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        self.x = torch.randn(16, 4)
        self.steps = 0
        weighbridge.init(dir=where, name=name)
        self.run = weighbridge.watch(self.model, **wishes)

    def step(self, number: int = 1) -> None:
        for _ in range(number):
            F.mse_loss(self.model(self.x), self.x[:, :1]).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.steps += 1

    def until(self, what: Callable[[], object], seconds: float = 120.0) -> None:
        """Train on until it is so."""
        end = time.monotonic() + seconds
        while not what() and time.monotonic() < end:
            self.step()
            time.sleep(0.01)
        assert what()


def kept(run: weighbridge.Run) -> list[Finding]:
    return list(findings_in(weighbridge.open_run(run.path).whole("findings")))


def test_a_finding_comes_while_the_training_runs_once_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[Finding] = []
    loop = Loop(tmp_path, on_finding=heard.append, **MINE)
    loop.until(lambda: heard)
    loop.until(lambda: kept(loop.run))  # in the files, while the run is written
    assert weighbridge.open_run(loop.run.path).info.state == "live"
    assert loop.run.findings == tuple(heard)
    loop.run.finish()
    assert len(heard) == 1
    assert repr(kept(loop.run)) == repr(heard) == repr(list(weighbridge.diagnose(loop.run.path, **MINE).findings))
    lines = [line for line in capsys.readouterr().err.splitlines() if "second-step" in line]
    assert lines == ["weighbridge: error: second-step at fc, from step 2: It is there. Try: Nothing."]


def test_nothing_is_printed_where_silence_was_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop = Loop(tmp_path, live="silent", **MINE)
    loop.step(5)
    loop.run.finish()
    assert [f.rule for f in kept(loop.run)] == ["second-step"]
    with weighbridge.init(dir=tmp_path, name="quiet", quiet=True) as run:
        weighbridge.watch(loop.model, **MINE)
        loop.step(5)
    assert len(kept(run)) == 1
    assert "second-step" not in capsys.readouterr().err


def test_without_rules_there_is_no_thread(tmp_path: Path) -> None:
    loop = Loop(tmp_path, live=False)
    loop.step(3)
    assert not [t for t in threading.enumerate() if t.name == "weighbridge-rules"]
    loop.run.finish()
    assert kept(loop.run) == []


def test_many_findings_are_not_all_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MOST_LINES", 3)

    class Each(SecondStep):
        id = "each-step"

        def read(self, block: Block) -> Iterator[Finding]:
            for row in block.rows("steps"):
                yield Finding(f"s{row['step']}", row["step"], row["step"], "m", (ValueEvidence("v", 1.0),), "f")

    loop = Loop(tmp_path, rules=[Each], select=["each-step"])
    loop.step(10)
    loop.run.finish()
    lines = capsys.readouterr().err.splitlines()
    assert sum("each-step" in line for line in lines) == 3
    assert sum("more findings are not printed" in line for line in lines) == 1
    assert len(kept(loop.run)) == 10


def test_what_a_callback_raises_is_told_once_and_training_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(finding: Finding) -> None:
        raise KeyError("mine")

    heard: list[Finding] = []
    loop = Loop(tmp_path, on_finding=broken, **MINE)
    weighbridge.watch(nn.Linear(2, 2), on_finding=heard.append)  # a second model of the same run, a second callback
    loop.until(lambda: heard)
    loop.step(5)
    loop.run.finish()
    assert capsys.readouterr().err.count("on_finding raised KeyError: 'mine'") == 1


def test_a_callback_may_finish_the_run(tmp_path: Path) -> None:
    loop = Loop(tmp_path, on_finding=lambda finding: weighbridge.finish(), **MINE)
    loop.until(lambda: weighbridge.open_run(loop.run.path).info.state == "finished")


# ---- stop_on ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def stopped(where: Path, **wishes: Any) -> Iterator[Loop]:
    loop = Loop(where, stop_on="error", **MINE, **wishes)
    yield loop
    record = weighbridge.open_run(loop.run.path)
    assert loop.run.is_finished
    assert record.info.state == "finished"
    assert record.info.steps == loop.steps  # the step that was stopped left no trace
    event = next(e for e in record.events() if e.kind == "interrupted")
    assert event.message == f"stopped before step {loop.steps}: second-step at fc"
    assert [f.rule for f in kept(loop.run)] == ["second-step"]


def test_training_stops_at_the_next_step_and_the_run_is_finished(tmp_path: Path) -> None:
    with stopped(tmp_path) as loop:
        with pytest.raises(TrainingStopped, match=r"stopped before step .* error: second-step at fc") as caught:
            loop.until(lambda: False)
        assert caught.value.finding.rule == "second-step"
        weights = [p.clone() for p in loop.model.parameters()]
        loop.step()  # nobody watches any more
        assert not all(torch.equal(a, b) for a, b in zip(weights, loop.model.parameters(), strict=True))
        loop.steps -= 1


def test_it_is_raised_before_the_weights_change_where_no_backward_pass_comes(tmp_path: Path) -> None:
    with stopped(tmp_path) as loop:
        loop.step(3)
        F.mse_loss(loop.model(loop.x), loop.x[:, :1]).backward()
        assert wait(lambda: loop.run._stepper.stop is not None)
        before = [p.clone() for p in loop.model.parameters()]
        with pytest.raises(TrainingStopped):
            loop.optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(before, loop.model.parameters(), strict=True))


def test_a_with_block_ends_as_with_any_exception(tmp_path: Path) -> None:
    with stopped(tmp_path) as loop, pytest.raises(TrainingStopped), loop.run:
        loop.until(lambda: False)


def test_a_scaler_lets_it_through_also_where_it_leaves_the_step_out(tmp_path: Path) -> None:
    with stopped(tmp_path) as loop:
        loop.step(3)
        scaler = torch.amp.GradScaler("cpu")
        scaler.scale(F.mse_loss(loop.model(loop.x), loop.x[:, :1])).backward()
        loop.model[0].weight.grad[0, 0] = float("inf")
        assert wait(lambda: loop.run._stepper.stop is not None)
        with pytest.raises(TrainingStopped):
            scaler.step(loop.optimizer)


def test_graver_only(tmp_path: Path) -> None:
    class Mild(SecondStep):
        id, severity = "mild-step", "warning"

    loop = Loop(tmp_path, rules=[Mild], select=["mild-step"], stop_on="error")
    loop.until(lambda: loop.run.findings)
    loop.step(3)
    loop.run.finish()
    assert live.as_severities("warning") == {"error", "warning"}


def wait(what: Callable[[], bool], seconds: float = 120.0) -> bool:
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.01)
    return what()


# ---- what cannot be asked for ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"stop_on": "errors"}, "stop_on='errors'"),
        ({"alert": "ftp://x"}, "is not a web address"),
        ({"alert": "hooks.example"}, "is not a web address"),
        ({"live": "loud"}, "live='loud'"),
        ({"live": False, "stop_on": "error"}, "leave live=False out"),
        ({"on_finding": 3}, "cannot be called"),
        ({"select": ["lost-update"]}, "Did you mean lost-updates"),
        ({"rules": ["nowhere.py"]}, "There is no Python file"),
        ({"rules": [int]}, "is no rule"),
    ],
)
def test_what_cannot_be_asked_for_is_said_at_once(wishes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        Loop(tmp_path, **wishes)
    weighbridge.finish()


# ---- alerts -----------------------------------------------------------------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    """Keeps what it is sent."""

    def __init__(self, status: int = 200, hold: threading.Event | None = None) -> None:
        server = self
        self.got: list[dict[str, Any]] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                server.got.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                if hold is not None:
                    hold.wait(120)
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_address[1]}/secret-path"


@contextlib.contextmanager
def server(**more: Any) -> Iterator[Server]:
    with Server(**more) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def test_an_alert_arrives_while_the_training_runs(tmp_path: Path) -> None:
    with server() as web:
        loop = Loop(tmp_path, alert=web.address, **MINE)
        loop.until(lambda: web.got)
        loop.run.finish()
    (message,) = web.got
    assert message["text"] == "error: second-step at fc, from step 2 of run: It is\nthere."
    assert message["run"] == str(loop.run.path)
    assert message["finding"]["evidence"] == [{"kind": "value", "name": "loss", "value": "NaN", "limit": 1.0, "unit": ""}]


@pytest.mark.parametrize("status", [404, 500])
def test_an_address_that_refuses_is_told_once_without_its_path(
    status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with server(status=status) as web:
        loop = Loop(tmp_path, alert=web.address, **MINE)
        loop.step(4)
        loop.run.finish()
    told = capsys.readouterr().err
    assert told.count("was not delivered") == 1
    assert "secret-path" not in told


def test_a_server_that_hangs_holds_nothing_up_and_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "MOST_WAITING", 3)
    said: list[str] = []
    hold = threading.Event()
    finding = Finding("", 0, 0, "m", (ValueEvidence("v", 1.0),), "f", "r", "note", "proof")
    with server(hold=hold) as web:
        sender = Webhook(web.address, Path("run"), said.append)
        sender.send(finding)
        assert wait(lambda: len(web.got) == 1)
        for _ in range(10):
            sender.send(finding)
        assert len(set(said)) == 1  # a run tells each message once
        assert "some are left out" in said[0]
        sender.close(0.05)
        hold.set()
        assert wait(lambda: len(web.got) == 4)


def test_nobody_at_the_address_is_told_and_training_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with server() as web:
        address = web.address
    loop = Loop(tmp_path, alert=address, **MINE)
    loop.step(4)
    loop.run.finish()
    assert capsys.readouterr().err.count("was not delivered") == 1


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
