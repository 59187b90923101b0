"""The thread that the rules run on beside a training. Oracle: what the test hands it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.diagnosis.batches import step_batch, weighbridge_table
from weighbridge.capture.marks import Marks
from weighbridge.diagnosis import Finding, Needs, Rule, ValueEvidence, beside, waiting
from weighbridge.diagnosis.beside import Beside
from weighbridge.diagnosis.stream import Block
from weighbridge.records import ROWS

# ---- the thread -------------------------------------------------------------------------------------------------------


class Heard:
    def __init__(self) -> None:
        self.findings: list[tuple[str, str]] = []
        self.said: list[str] = []
        self.times: list[float] = []

    def found(self, finding: Finding, follows_from: str) -> None:
        self.findings.append((finding.key, follows_from))
        self.times.append(time.monotonic())

    def say(self, message: str) -> None:
        self.said.append(message)


class EveryStep(Rule):
    """Tells of each step."""

    id, title, severity, certainty, since = "every-step", "A step", "note", "proof", "0"
    needs = Needs(tables=["steps"])
    busy_seconds = 0.0

    def read(self, block: Block) -> Iterator[Finding]:
        until = time.thread_time() + self.busy_seconds
        while time.thread_time() < until:
            pass
        for row in block.rows("steps"):
            yield Finding(f"s{row['step']}", row["step"], row["step"], "m", (ValueEvidence("v", 1.0),), "f")


class Fails(EveryStep):
    id = "fails"

    def read(self, block: Block) -> Iterator[Finding]:
        raise ZeroDivisionError("of mine")


def started(*rules: type[Rule]) -> tuple[Beside, Heard]:
    heard = Heard()
    thread = Beside(heard)
    thread.start(lambda: rules)
    return thread, heard


def eventually(what: Callable[[], bool], seconds: float = 120.0) -> bool:
    until = time.monotonic() + seconds
    while not what() and time.monotonic() < until:
        time.sleep(0.01)
    return what()


def test_a_finding_is_told_while_the_training_goes_on() -> None:
    thread, heard = started(EveryStep)
    thread.add(step_batch(0, 2), Marks(1, 1))
    assert eventually(lambda: heard.findings[:1] == [("every-step at s0", "")])
    thread.close("run")
    assert heard.findings[1:] == [("every-step at s1", "")]  # the rest at the end
    assert thread.diagnosis is not None
    assert thread.diagnosis.subject == "run"


def test_the_last_step_is_looked_at_where_nothing_more_comes() -> None:
    thread, heard = started(EveryStep)
    thread.add(step_batch(0), Marks(0, 1))
    assert eventually(lambda: bool(heard.findings))
    thread.close("run")


def test_a_rule_that_fails_is_told_once_and_the_others_go_on() -> None:
    thread, heard = started(Fails, EveryStep)
    for step in range(3):
        thread.add(step_batch(step), Marks(step + 1, step + 1))
    thread.close("run")
    assert heard.said == ["the rule fails has failed (ZeroDivisionError: of mine); the others go on"]
    assert len(heard.findings) == 3


def test_rules_that_take_longer_than_their_share_lag_behind_and_catch_up_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "ALLOWANCE_SECONDS", 0.0)
    monkeypatch.setattr(beside, "PERIOD_SECONDS", 0.0)
    monkeypatch.setattr(beside, "SHARE", 1e-6)
    monkeypatch.setattr(EveryStep, "busy_seconds", 0.02)
    thread, heard = started(EveryStep)
    thread.add(step_batch(0), Marks(1, 1))
    assert eventually(lambda: len(heard.findings) == 1)
    for step in range(1, 30):
        thread.add(step_batch(step), Marks(step + 1, step + 1))
    time.sleep(0.3)  # at a millionth, 0.02 s of work buy hours of rest
    assert len(heard.findings) == 1
    thread.close("run", 60)
    assert len(heard.findings) == 30
    assert heard.said == []


def test_what_waits_is_bounded_and_giving_up_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "MOST_IN_MEMORY", 10_000)
    monkeypatch.setattr(waiting, "MOST_ON_DISK", 10_000)
    gate = threading.Event()
    heard = Heard()
    thread = Beside(heard)
    thread.start(lambda: [EveryStep] if gate.wait(120) else [])
    for step in range(200):
        thread.add(step_batch(step), Marks(step + 1, step + 1))
    assert thread.gave_up
    assert not thread._waiting
    gate.set()
    assert eventually(lambda: bool(heard.said))
    thread.close("run")
    assert heard.said == [beside.TOO_FAR]


def test_what_waits_on_disk_is_judged_like_the_rest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(waiting, "MOST_IN_MEMORY", 10_000)
    gate, heard = threading.Event(), Heard()
    thread = Beside(heard, tmp_path)
    thread.start(lambda: [EveryStep] if gate.wait(20) else [])
    for step in range(300):
        thread.add(step_batch(step), Marks(step + 1, step + 1))
    gate.set()
    thread.close("run", 60)
    assert heard.said == []
    assert [key for key, _ in heard.findings] == [f"every-step at s{step}" for step in range(300)]


def test_no_room_on_the_disk_ends_the_rules_and_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(waiting, "MOST_IN_MEMORY", 10_000)
    gate, heard = threading.Event(), Heard()
    thread = Beside(heard, tmp_path / "gone")
    thread.start(lambda: [EveryStep] if gate.wait(20) else [])
    for step in range(300):
        thread.add(step_batch(step), Marks(step + 1, step + 1))
    gate.set()
    assert eventually(lambda: bool(heard.said))
    thread.close("run")
    assert heard.said[0].startswith(beside.NO_DISK)
    assert heard.said[0].endswith(beside.WHOLE)


def test_time_at_the_end_is_bounded_and_what_is_left_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EveryStep, "busy_seconds", 0.1)
    thread, heard = started(EveryStep)
    thread.add(step_batch(0, 10_000), Marks(0, 0))
    thread.close("run", 2.0)  # steps come in blocks of 64: 20 of 157 blocks at the very most
    assert eventually(lambda: bool(heard.said))  # it ends the block that it is in
    assert thread.diagnosis is None
    assert 0 < len(heard.findings) < 5_000
    assert heard.said[0].startswith("the rules have looked at")
    assert "weighbridge diagnose run" in heard.said[0]


def test_shards_are_not_judged_by_one_rank() -> None:
    thread, heard = started(EveryStep)
    row = {"step": 0, "attempt": 0, "tensor": 0, "model": "model", "name": "a", "role": "weight", "placement": "shard"}
    thread.add({"tensors": pa.RecordBatch.from_pylist([row], weighbridge_table("tensors")), **step_batch(0)}, Marks(1, 1))
    thread.close("run")
    assert heard.findings == []
    assert heard.said == [beside.SHARDS]


def test_no_thread_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    for make in itertools.repeat(EveryStep, 3):
        thread, _ = started(make)
        thread.add(step_batch(0), Marks(1, 1))
        thread.close("run")
        thread.close("run")
    assert threading.active_count() == before


def test_what_waits_does_not_keep_the_memory_that_it_came_from() -> None:
    gate = threading.Event()
    thread = Beside(Heard())
    thread.start(lambda: [EveryStep] if gate.wait(20) else [])
    zeros = pa.array(np.zeros(50_000))
    block = pa.record_batch({field.name: zeros.cast(field.type) for field in ROWS if field.name != "hist"})
    held = pa.total_allocated_bytes()
    thread.add({"rows": block.slice(0, 10)}, Marks(0, 0))
    del block
    assert held - pa.total_allocated_bytes() > 4_000_000
    gate.set()
    thread.close("run")
