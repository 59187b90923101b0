"""A disk that stalls: `os.write` of the writer's thread does not return while training goes on.

Oracle: the same training without us, and the memory that Python and NumPy hold by tracemalloc.
"""

from __future__ import annotations

import os
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import weighbridge
from tests.capture.oracle import PARAMETERS_ALONE, recorded_rows
from weighbridge.capture import recorder
from weighbridge.store.verify import verify_run

BOUND = 300_000


class Disk:
    """Writes of the writer's thread wait while it stalls; all others, and all afterwards, go to the real disk."""

    def __init__(self) -> None:
        self.goes_on, self.is_stalled, self.real = threading.Event(), threading.Event(), os.write
        self.goes_on.set()

    def write(self, descriptor: int, data: Any) -> int:
        if threading.current_thread().name == "weighbridge-writer" and not self.goes_on.is_set():
            self.is_stalled.set()
            self.goes_on.wait()
        return self.real(descriptor, data)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk()
    monkeypatch.setattr(os, "write", disk.write)
    monkeypatch.setattr(recorder, "QUEUE_BYTES", BOUND)
    monkeypatch.setattr(recorder, "FLUSH_STEPS", 16)  # six blocks of these rows fill the queue
    yield disk
    disk.goes_on.set()


class Training:
    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 1))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.inputs = torch.randn(64, 4, 6)

    def step(self, number: int) -> float:
        self.optimizer.zero_grad()
        loss = self.model(self.inputs[number % 64]).square().mean()
        loss.backward()
        self.optimizer.step()
        return loss.item()


def test_while_the_disk_stalls_training_goes_on_in_bounded_memory_and_what_is_lost_is_counted(
    tmp_path: Path, disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk goes on only when all steps are done: a training that waited for it would never end."""
    steps, plain = 4000, Training()
    expected = [plain.step(i) for i in range(steps)]
    training, losses, most = Training(), [], 0
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=PARAMETERS_ALONE) as run:
        run.watch(training.model)
        losses += [training.step(i) for i in range(50)]
        run.flush()
        disk.goes_on.clear()
        tracemalloc.start()
        try:
            while not run._recorder.rows_dropped and len(losses) < steps - 1000:
                losses.append(training.step(len(losses)))
                most = max(most, run._recorder.queued_bytes)
            dropped_from, held = len(losses), tracemalloc.get_traced_memory()[0]
            while len(losses) < steps:
                losses.append(training.step(len(losses)))
                most = max(most, run._recorder.queued_bytes)
            grown = tracemalloc.get_traced_memory()[0] - held
        finally:
            tracemalloc.stop()
            disk.goes_on.set()
    assert disk.is_stalled.is_set()
    assert losses == expected
    assert dropped_from < steps - 1000
    assert BOUND / 2 < most <= BOUND
    assert grown < 5 * BOUND  # a block being filled comes and goes; 1,000 steps kept whole would be more
    assert capsys.readouterr().err.count("the disk does not keep up") == 1
    assert verify_run(run.path) == []
    finished = [event for event in weighbridge.open_run(run.path).events() if event.kind == "finished"]
    assert finished[0].detail["rows_dropped"] == run._recorder.rows_dropped > 0
    assert len(recorded_rows(run.path)) + run._recorder.rows_dropped == steps * 4 * 3 + 4


def test_after_the_stall_rows_are_written_again(tmp_path: Path, disk: Disk) -> None:
    training = Training()
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=PARAMETERS_ALONE) as run:
        run.watch(training.model)
        disk.goes_on.clear()
        number = 0
        while not run._recorder.rows_dropped and number < 5000:
            training.step(number)
            number += 1
        disk.goes_on.set()
        run.flush()
        after = number
        for _ in range(20):
            training.step(number)
            number += 1
    series = weighbridge.open_run(run.path).series("0.weight", "gradient.rms")
    assert np.array_equal(series.steps[-20:], np.arange(after, after + 20))
