"""Rules beside a training. Oracle: `weighbridge.diagnose` of the finished run, and what each test does itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import weighbridge
from tests.diagnosis.batches import step_batch, weighbridge_table
from tests.diagnosis.test_ill_trainings import _Masked, _NeverZeroed, at
from tests.diagnosis.trainings import HEALTHY, Training, seeded, sgd_mlp, train, wine_dropout
from weighbridge.capture.marks import Marks
from weighbridge.capture.recorder import Recorder
from weighbridge.diagnosis import Diagnosis, Needs, registry
from weighbridge.diagnosis.arriving import Arriving
from weighbridge.diagnosis.engine import Engine
from weighbridge.diagnosis.stream import Block, RecordedRun, needed

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
