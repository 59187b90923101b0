"""What becomes of findings while a training runs. Oracles: what each test does itself, and a real HTTP server."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weighbridge
from tests.capture.live_training import MINE, Loop, SecondStep, kept, wait
from weighbridge.capture import live
from weighbridge.diagnosis import Finding, ValueEvidence, webhook
from weighbridge.diagnosis.stream import Block
from weighbridge.diagnosis.webhook import Webhook
from weighbridge.errors import BadInput, TrainingStopped


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
