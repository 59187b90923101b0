"""Oracle: weighbridge.diagnose itself, asked in this process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from tests.server.conftest import client_of, make_run
from tests.store import made_rows
from weighbridge.diagnosis import Finding, ValueEvidence
from weighbridge.diagnosis.engine import diagnose
from weighbridge.diagnosis.kept import jsonable, row_of
from weighbridge.errors import WeighbridgeError
from weighbridge.records import FINDINGS
from weighbridge.server.api import Api
from weighbridge.server.asking import RULES, WORKER, GivenUp, Rules, Several
from weighbridge.server.diagnosing import Diagnoser
from weighbridge.server.notes import notes_of
from weighbridge.server.runs import Runs
from weighbridge.store.layout import create_run
from weighbridge.store.record import open_run
from weighbridge.store.writer import RankWriter


def ask(diagnoser: Diagnoser, runs: Runs, name: str) -> dict[str, object]:
    with runs.use(name) as record:
        return diagnoser.ask(name, record)


def test_the_rules_answers_come_as_they_were_given(folder: Path) -> None:
    runs = Runs(folder)
    diagnoser = Diagnoser(runs)
    assert ask(diagnoser, runs, "first")["pending"] is True
    assert diagnoser.wait(60)
    told = ask(diagnoser, runs, "first")
    truth = jsonable(diagnose(folder / "first").record())
    assert told["pending"] is False
    assert told["causes"] == truth["causes"]
    assert [f["message"] for f in told["findings"]] == [f["message"] for f in truth["findings"]]  # type: ignore[attr-defined]
    assert all(f["title"] and f["evidence"] for f in told["findings"])  # type: ignore[attr-defined]
    assert len(told["rules"]) == len(truth["rules"])  # type: ignore[arg-type]


def test_a_run_is_asked_again_only_when_it_has_grown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = RULES.ask
    monkeypatch.setattr(RULES, "ask", lambda run: (asked.append(1), real(run))[1])
    monkeypatch.setattr("weighbridge.server.runs.REFRESH_SECONDS", 0.0)
    run = make_run(folder, "growing", steps=10, finish=False)
    runs = Runs(folder)
    diagnoser = Diagnoser(runs)
    for _ in range(3):
        ask(diagnoser, runs, "growing")
        assert diagnoser.wait(60)
    assert len(asked) == 1
    writer = RankWriter(run, attempt=1)
    writer.write({"rows": made_rows.rows(10, 11, attempt=1), "steps": made_rows.steps(10, 11, attempt=1)}, 10, 10)
    ask(diagnoser, runs, "growing")
    assert diagnoser.wait(60)
    assert len(asked) == 1, "one step of ten is no fifth"
    writer.write({"rows": made_rows.rows(11, 16, attempt=1), "steps": made_rows.steps(11, 16, attempt=1)}, 11, 15)
    assert ask(diagnoser, runs, "growing")["steps"] == 9, "the last answer stands until there is another"
    assert diagnoser.wait(60)
    assert ask(diagnoser, runs, "growing")["steps"] == 15  # the last one of a run that grows may not be complete


def test_where_rules_beside_the_training_tell_the_run_is_read_again_when_it_is_twice_as_long(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    real = RULES.ask
    monkeypatch.setattr(RULES, "ask", lambda run: (asked.append(1), real(run))[1])
    monkeypatch.setattr("weighbridge.server.runs.REFRESH_SECONDS", 0.0)
    run = make_run(folder, "told", steps=10, finish=False)
    writer = RankWriter(run, attempt=1)
    found = Finding("layers.0", 3, 4, "It is dead.", (ValueEvidence("v", 1.0),), "Use GELU.", "dead-units", "warning", "test")
    told = [dict(zip(FINDINGS.names, row_of(found, 1), strict=True))]
    writer.write({"findings": pa.RecordBatch.from_pylist(told, FINDINGS)}, 9, 9)
    runs = Runs(folder)
    diagnoser = Diagnoser(runs)
    at_once = ask(diagnoser, runs, "told")
    assert (at_once["known"], at_once["pending"]) == (True, True)
    assert ("dead-units", "layers.0") in [(f["rule"], f["place"]) for f in at_once["findings"]]  # type: ignore[attr-defined]
    for first, stop, times in ((10, 15, 1), (15, 21, 2)):
        assert diagnoser.wait(60)
        writer.write(
            {"rows": made_rows.rows(first, stop, attempt=1), "steps": made_rows.steps(first, stop, attempt=1)}, first, stop - 1
        )
        ask(diagnoser, runs, "told")
        assert diagnoser.wait(60)
        assert len(asked) == times


def test_a_run_that_cannot_be_read_is_a_sentence_and_the_others_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = RULES.ask

    def broken(run: Path) -> object:
        if "second" in str(run):
            raise ValueError("a rule that breaks everything")
        return real(run)

    monkeypatch.setattr(RULES, "ask", broken)
    runs = Runs(folder)
    diagnoser = Diagnoser(runs)
    ask(diagnoser, runs, "second")
    ask(diagnoser, runs, "first")
    assert diagnoser.wait(60)
    assert ask(diagnoser, runs, "second")["error"] == "a rule that breaks everything"
    assert ask(diagnoser, runs, "first")["known"] is True


def test_the_endpoint_answers_at_once(client: TestClient) -> None:
    told = client.get("/api/findings?run=first").json()
    assert told["pending"] is True
    assert client.get("/api/findings?run=frist").status_code == 404


def test_jumps_of_the_learning_rate_and_restarts_are_noted(tmp_path: Path) -> None:
    steps = made_rows.steps(0, 10).to_pylist()
    for row in steps:
        row["lr"] = [0.1 if row["step"] < 6 else 0.2]
    run = create_run(tmp_path, "made", {})
    tables = {"steps": pa.RecordBatch.from_pylist(steps, made_rows.STEPS), "rows": made_rows.rows(0, 10)}
    RankWriter(run).write({**tables, "tensors": made_rows.tensors()}, 0, 9)
    assert notes_of(open_run(run)) == [{"step": 6, "text": "learning rate ×2"}]
    RankWriter(run, attempt=1).write(
        {"steps": made_rows.steps(8, 12, attempt=1), "rows": made_rows.rows(8, 12, attempt=1)}, 8, 11
    )
    told = notes_of(open_run(run))
    assert {"step": 8, "text": "attempt 1 begins at step 8; 8 to 9 trained again"} in told


def test_a_smooth_schedule_is_no_event(tmp_path: Path) -> None:
    steps = made_rows.steps(0, 10).to_pylist()
    for row in steps:
        row["lr"] = [0.1 * 0.9 ** row["step"]]
    run = create_run(tmp_path, "made", {})
    tables = {"steps": pa.RecordBatch.from_pylist(steps, made_rows.STEPS), "rows": made_rows.rows(0, 10)}
    RankWriter(run).write({**tables, "tensors": made_rows.tensors()}, 0, 9)
    assert notes_of(open_run(run)) == []
    assert client_of(tmp_path, tmp_path).get("/api/notes?run=made").json() == []


def test_every_endpoint_has_a_route(folder: Path) -> None:
    paths = {route.path for route in Api(Runs(folder)).routes()}  # type: ignore[attr-defined]
    assert {"/api/heat", "/api/cell", "/api/layers", "/api/findings", "/api/notes"} <= paths


def test_the_rules_are_asked_in_a_process_of_their_own(folder: Path) -> None:
    rules = Rules()
    try:
        steps, state, said = rules.ask(folder / "first")
        process = rules._process
        assert process is not None
        assert process.pid != os.getpid()
        truth = diagnose(folder / "first")
        assert (steps, state) == (truth.steps, "finished")
        assert jsonable(said.record()) == jsonable(truth.record())
        process.kill()  # as if it had ended by itself
        process.wait()
        assert rules.ask(folder / "first")[2].steps == truth.steps
        rules._end()
        rules._process = subprocess.Popen(  # one that ends while it is asked
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert rules.ask(folder / "first")[2].steps == truth.steps
        with pytest.raises(WeighbridgeError, match="nowhere"):
            rules.ask(folder / "nowhere")
    finally:
        rules.close()
    with pytest.raises(WeighbridgeError, match="has ended before"):
        rules.ask(folder / "first")


class Slow:
    """In the place of the rules: a question is answered when the test lets it be."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, truth: Path) -> None:
        said = diagnose(truth)
        self.answer = (said.steps, "finished", said)
        self.let: dict[str, threading.Event] = {}
        self.begun: list[str] = []
        self.given_up: list[str] = []
        monkeypatch.setattr(RULES, "ask", self.ask)
        monkeypatch.setattr(RULES, "give_up", self.give_up)

    def ask(self, run: Path) -> object:
        self.begun.append(run.name)
        assert self.let.setdefault(run.name, threading.Event()).wait(60)
        if run.name in self.given_up:
            raise GivenUp("nobody waits")
        return self.answer

    def give_up(self, run: Path) -> None:
        self.given_up.append(run.name)
        self.let[run.name].set()

    def until(self, begun: int) -> None:
        deadline = time.monotonic() + 60
        while len(self.begun) < begun and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(self.begun) == begun


def runs_named(folder: Path, *names: str) -> Runs:
    for name in names:
        make_run(folder, name, steps=10)
    return Runs(folder)


def test_a_long_diagnosis_does_not_hold_up_the_next_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = runs_named(tmp_path, "long", "short")
    slow, diagnoser = Slow(monkeypatch, tmp_path / "short"), Diagnoser(runs)
    ask(diagnoser, runs, "long")
    slow.until(1)
    ask(diagnoser, runs, "short")
    slow.until(2)
    slow.let["short"].set()
    deadline = time.monotonic() + 60
    while ask(diagnoser, runs, "short")["pending"] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ask(diagnoser, runs, "short")["known"] is True
    assert ask(diagnoser, runs, "long")["pending"] is True
    slow.let["long"].set()
    assert diagnoser.wait(60)
    assert slow.begun == ["long", "short"]


def both_busy(folder: Path, monkeypatch: pytest.MonkeyPatch, names: str) -> tuple[Runs, Slow, Diagnoser]:
    """Both processes of rules are at work, on a and b."""
    runs = runs_named(folder, *names)
    slow, diagnoser = Slow(monkeypatch, folder / "a"), Diagnoser(runs)
    for number, name in enumerate("ab", 1):
        ask(diagnoser, runs, name)
        slow.until(number)
    return runs, slow, diagnoser


def test_who_came_last_is_answered_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, slow, diagnoser = both_busy(tmp_path, monkeypatch, "abcd")
    ask(diagnoser, runs, "c")
    ask(diagnoser, runs, "d")
    slow.let["a"].set()
    slow.until(3)
    for name in "dbc":
        slow.let.setdefault(name, threading.Event()).set()
    assert diagnoser.wait(60)
    assert slow.begun == ["a", "b", "d", "c"]
    assert slow.given_up == []


def test_what_nobody_asks_for_any_more_is_given_up_where_others_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, slow, diagnoser = both_busy(tmp_path, monkeypatch, "abc")
    ask(diagnoser, runs, "c")
    assert slow.given_up == []  # somebody has just asked for both
    monkeypatch.setattr("weighbridge.server.diagnosing.GONE_SECONDS", 0.0)
    ask(diagnoser, runs, "c")
    slow.until(3)
    assert slow.given_up == ["a"]
    assert slow.begun == ["a", "b", "c"]
    for name in "bc":
        slow.let[name].set()
    assert diagnoser.wait(60)
    slow.given_up.clear()
    assert ask(diagnoser, runs, "a")["pending"] is True  # asked anew: nothing is kept of what was given up
    assert diagnoser.wait(60)
    assert ask(diagnoser, runs, "a")["known"] is True


def test_what_is_given_up_ends_its_process_and_the_next_question_is_answered(folder: Path, tmp_path: Path) -> None:
    several, asked = Several(), tmp_path / "asked"
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", f"input(); open({str(asked)!r}, 'w'); input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        several._free[-1]._process = process  # one that takes for ever
        raised: list[BaseException] = []

        def wait_for_it() -> None:
            try:
                several.ask(folder / "first")
            except GivenUp as error:
                raised.append(error)

        thread = threading.Thread(target=wait_for_it)
        thread.start()
        while not asked.exists():
            time.sleep(0.01)
        several.give_up(folder / "second")
        assert process.poll() is None
        several.give_up(folder / "first")
        thread.join(60)
        assert len(raised) == 1
        assert process.returncode is not None
        assert several.ask(folder / "first")[2].steps == diagnose(folder / "first").steps
    finally:
        several.close()


def test_the_process_of_the_rules_ends_with_whoever_asked(tmp_path: Path) -> None:
    ends = subprocess.Popen([sys.executable, "-m", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert ends.stdin is not None
    ends.communicate(timeout=60)
    assert ends.returncode == 0
