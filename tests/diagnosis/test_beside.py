"""Rules beside a training. Oracle: `weighbridge.diagnose` of the finished run, and what each test does itself."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import weighbridge
from tests.diagnosis.test_ill_trainings import _Masked, _NeverZeroed, at
from tests.diagnosis.trainings import HEALTHY, Training, seeded, sgd_mlp, train, wine_dropout
from weighbridge.capture.marks import Marks
from weighbridge.capture.recorder import Recorder
from weighbridge.diagnosis import Diagnosis, Finding, Needs, Rule, ValueEvidence, beside, registry, waiting
from weighbridge.diagnosis.arriving import Arriving
from weighbridge.diagnosis.beside import Beside
from weighbridge.diagnosis.engine import Engine
from weighbridge.diagnosis.stream import Block, RecordedRun, needed
from weighbridge.records import ROWS

Job = tuple[Mapping[str, pa.RecordBatch], Marks]


@dataclass
class Tap:
    """What the writer hands to whoever reads along."""

    jobs: list[Job]

    def add(self, batches: Mapping[str, pa.RecordBatch], marks: Marks) -> None:
        self.jobs.append((batches, marks))


def recorded(training: Training, where: Path, monkeypatch: pytest.MonkeyPatch, steps: int, seed: int) -> tuple[Path, list[Job]]:
    """The run, and its jobs: handed over after some of the steps, at random, in the middle of others."""
    random, tap = np.random.default_rng(seed), Tap([])
    before = Recorder.step_done

    def step_done(self: Recorder, step: int) -> None:
        before(self, step)
        if random.random() < 0.4:
            self.hand_over()

    def begin(self: Any, *_: Any) -> None:
        self.recorder.reader, self.has_begun = tap, True

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "step_done", step_done)
        patch.setattr("weighbridge.capture.live.Live.begin", begin)
        path = train(training, where, steps)
    return path, tap.jobs


def replayed(path: Path, jobs: list[Job], seed: int) -> tuple[Diagnosis, int]:
    """What the rules say of these jobs, looking after some of them; and how much came too late."""
    random = np.random.default_rng(seed)
    engine = Engine(registry.rules())
    arriving = Arriving(engine.needs)
    for batches, marks in jobs:
        arriving.add(batches)
        if random.random() < 0.5:
            for block in arriving.blocks(min(marks.below, arriving.next + int(random.integers(1, 9)))):
                engine.feed(block)
    for block in arriving.blocks(arriving.stop):
        engine.feed(block)
    return engine.diagnosis(str(path)), arriving.late


def unstepped() -> Training:
    training = sgd_mlp()
    training.optimizers = []
    return training


def unzeroed() -> Training:
    training = sgd_mlp()
    training.optimizers = [_NeverZeroed(training.model.parameters(), lr=0.01)]
    return training


def undone() -> Training:
    training = sgd_mlp()
    optimizer = _Masked(training.model.parameters(), lr=0.1)
    optimizer.kept = training.model[2].weight
    training.optimizers = [optimizer]
    return training


def left_in_evaluation() -> Training:
    training = wine_dropout()
    training.also = at(13, training.model.eval)
    return training


def poisoned() -> Training:
    training = sgd_mlp()
    training.also = at(7, lambda: training.model[4].weight.data.fill_(float("nan")))
    return training


def growing() -> Training:
    """A group and a module join, and the second optimizer steps at every third step only."""
    training = sgd_mlp()
    added = torch.nn.Linear(10, 10)
    first = torch.optim.SGD(training.model[:4].parameters(), lr=0.1)
    second = torch.optim.SGD(training.model[4].parameters(), lr=0.1)

    def also(step: int) -> None:
        training.optimizers = [first, second] if step % 3 == 2 else [first]
        if step == 20:
            training.model.append(added)
            first.add_param_group({"params": added.parameters(), "lr": 0.02})

    training.also = also
    return training


ILL: dict[str, Callable[[], Training]] = {
    made.__name__: made for made in (unstepped, unzeroed, undone, left_in_evaluation, poisoned, growing)
}


@pytest.mark.parametrize("name", [*HEALTHY, *ILL])
def test_what_is_said_beside_a_training_is_what_is_said_afterwards(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, jobs = recorded(seeded({**HEALTHY, **ILL}[name]), tmp_path, monkeypatch, 45, seed=len(name))
    after = weighbridge.diagnose(path)
    assert (name in ILL and name != "growing") <= bool(after.findings)
    for seed in range(6):
        live, late = replayed(path, jobs, seed)
        assert repr(live.record()) == repr(after.record())
        assert late == 0


def test_blocks_that_arrive_hold_the_numbers_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, jobs = recorded(seeded(growing), tmp_path, monkeypatch, 30, seed=1)
    names = ("rms", "mean", "std", "abs_max", "zero_fraction", "nonfinite_count", "count", "sum", "l1_norm", "l2_norm", "min")
    needs = Needs(
        **dict.fromkeys(("parameter", "gradient", "activation", "activation_gradient"), names),
        update=(*names, "lost_fraction", "dot_gradient_update"),
        tables=["steps", "events", "calls", "passes", "groups", "units", "coherence"],
    )
    arriving, found = Arriving(needs), list[Block]()
    for batches, marks in jobs:
        arriving.add(batches)
        found += arriving.blocks(marks.below)
    found += arriving.blocks(arriving.stop)
    expected = list(RecordedRun(weighbridge.open_run(path), needs).blocks())
    assert [b.start for b in found[1:]] == [b.stop for b in found[:-1]]
    assert (found[0].start, found[-1].stop) == (0, expected[-1].stop)
    edges = sorted({b.start for b in (*found, *expected)})
    ours, theirs = ([part for b in blocks for part in b.cut(*edges)] for blocks in (found, expected))
    assert len(ours) == len(theirs) > 10
    for one, other in zip(ours, theirs, strict=True):
        assert (one.start, one.stop, one.tensors, one.groups) == (other.start, other.stop, other.tensors, other.groups)
        assert {n: a.tobytes() for n, a in one.arrays.items()} == {n: a.tobytes() for n, a in other.arrays.items()}
        assert repr(sorted(one.tables.items())) == repr(sorted(other.tables.items()))


def test_only_what_is_complete_is_handed_out() -> None:
    arriving = Arriving(needed([]))
    steps = pa.RecordBatch.from_pylist(
        [{"step": s, "attempt": 0, "optimizer": o} for s in range(3) for o in (0, 1)], weighbridge_table("steps")
    )
    arriving.add({"steps": steps.slice(0, 5)})  # the second optimizer has not stepped at step 2 yet
    assert [(b.start, b.stop, len(b.rows("steps"))) for b in arriving.blocks(2)] == [(0, 2, 4)]
    arriving.add({"steps": steps.slice(5)})
    assert [(b.start, b.stop, len(b.rows("steps"))) for b in arriving.blocks(3)] == [(2, 3, 2)]
    arriving.add({"steps": steps.slice(0, 1)})
    assert [b.rows("steps") for b in arriving.blocks(4)] == [()]
    assert arriving.late == 1


def test_what_is_said_too_late_holds_from_the_next_step_on() -> None:
    arriving = Arriving(Needs(tables=["graph", "events"]))
    arriving.add(step_batch(0, 3))
    assert [b.stop for b in arriving.blocks(2)] == [2]
    said = {"step": 0, "attempt": 0, "kind": "warned", "tensor": -1, "message": "m", "detail": "{}", "time_ns": 0}
    arriving.add({"events": pa.RecordBatch.from_pylist([said], weighbridge_table("events"))})
    graph = {"step": 1, "attempt": 0, "detail": "{}"}
    arriving.add({"graph": pa.RecordBatch.from_pylist([graph], weighbridge_table("graph"))})
    (block,) = arriving.blocks(3)
    assert [(row["step"], row["kind"]) for row in block.rows("events")] == [(2, "warned")]
    assert [row["step"] for row in block.rows("graph")] == [2]
    assert arriving.late == 2


def weighbridge_table(name: str) -> pa.Schema:
    from weighbridge.records import TABLES

    return TABLES[name]


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


def step_batch(first: int, number: int = 1) -> dict[str, pa.RecordBatch]:
    rows = [{"step": s, "attempt": 0, "optimizer": 0, "skipped": False} for s in range(first, first + number)]
    return {"steps": pa.RecordBatch.from_pylist(rows, weighbridge_table("steps"))}


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
