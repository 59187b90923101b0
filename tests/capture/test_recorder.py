"""A full disk and a disk that does not keep up. Oracle: the same training without us, and clones around `step`."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

import weighbridge
from tests.capture.oracle import PARAMETERS_ALONE, Oracle, check, events, recorded_rows, watched
from weighbridge.capture import recorder
from weighbridge.records import TABLES, Quantity
from weighbridge.store.writer import RankWriter

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
PROGRAM = """
    import os, resource, sys, torch, weighbridge
    from torch import nn
    def training(steps, on_model):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
        on_model(model)
        optimizer = torch.optim.Adam(model.parameters())
        for _ in range(steps):
            optimizer.zero_grad()
            loss = model(torch.randn(4, 6)).square().mean()
            loss.backward()
            optimizer.step()
            yield loss.item()
"""


def run_program(body: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = textwrap.dedent(PROGRAM) + textwrap.dedent(body)
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, env=ENVIRONMENT
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte where we may mount one; else an empty path."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], capture_output=True)
    if mount.returncode:
        yield Path()
        return
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


FULL = """
    plain = list(training(800, lambda model: None))
    folder, limited = sys.argv[1], sys.argv[2] == "limit"
    run = weighbridge.init(dir=folder, name="run")
    if limited:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    losses = []
    for step, loss in enumerate(training(800, run.watch)):
        losses.append(loss)
        if step % 10 == 9:  # small flushes: some of them fit on however fast a machine
            run.flush()
    dropped = run._recorder.rows_dropped
    run.finish()
    assert losses == plain
    print(dropped)
"""


@pytest.mark.parametrize("kind", ["disk", "limit"])
def test_on_a_full_disk_training_goes_on_and_what_was_written_stays_readable(
    kind: str, small_disk: Path, tmp_path: Path
) -> None:
    if kind == "disk" and small_disk == Path():
        pytest.skip("no file system can be mounted here; the limit on the size of files is tested instead")
    folder = small_disk if kind == "disk" else tmp_path
    done = run_program(FULL, str(folder), kind)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("could not write") == 1, done.stderr
    assert "Training goes on; what was written stays readable" in done.stderr
    assert "error of ours" not in done.stderr
    assert int(done.stdout) > 0  # dropped rows are counted
    assert "rows dropped" in done.stderr
    rows = recorded_rows(folder / "run")
    steps = {step for step, _, _ in rows}
    assert len(steps) > 20
    record = weighbridge.open_run(folder / "run")
    assert {t.name for t in record.tensors} == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert record.series("0.weight", "gradient.rms").values.size > 20


def test_rows_that_the_disk_cannot_take_are_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A writer that hangs: memory stays within its bound, training goes on, nothing that is written is wrong."""
    bound, steps = 200_000, 300
    monkeypatch.setattr(recorder, "QUEUE_BYTES", bound)
    monkeypatch.setattr(recorder, "FLUSH_STEPS", 16)
    go_on, real = threading.Event(), RankWriter.write

    def hanging(self: RankWriter, *arguments: Any) -> None:
        go_on.wait()
        real(self, *arguments)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    oracle = Oracle(model)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True, plan=PARAMETERS_ALONE) as run:
        run.watch(model)
        run.flush()
        monkeypatch.setattr(RankWriter, "write", hanging)
        most = 0
        try:
            for _ in range(steps):
                optimizer.zero_grad()
                model(torch.ones(2, 6)).square().mean().backward()
                oracle.step(optimizer)
                most = max(most, run._recorder.queued_bytes)
        finally:
            go_on.set()
        oracle.close()
    assert 0 < most <= bound
    check(run.path, oracle, may_lack=lambda key: True)
    written = len(recorded_rows(run.path))
    assert written + run._recorder.rows_dropped == steps * 4 * 3 + 4
    (finished,) = events(run.path, "finished")
    assert finished.detail["rows_dropped"] == run._recorder.rows_dropped > 0
    assert capsys.readouterr().err.count("the disk does not keep up") == 1


def test_a_disk_that_was_full_only_at_the_start_costs_rows_and_no_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls, real = 0, RankWriter.write

    def full_at_first(self: RankWriter, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls <= 2:
            raise OSError(28, f"No space left on device, call {calls}")
        real(self, *arguments)

    monkeypatch.setattr(RankWriter, "write", full_at_first)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watched(tmp_path, model, may_lack=lambda key: key[0] < 2) as (run, oracle):
        for _ in range(6):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).square().mean().backward()
            oracle.step(optimizer)
            run.flush()
    assert [t.name for t in weighbridge.open_run(run.path).tensors] == ["weight", "bias"]
    assert capsys.readouterr().err.count("could not write") == 1


def test_flush_makes_every_step_so_far_readable(tmp_path: Path) -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    oracle = Oracle(model)
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(model)
        for step in range(7):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).square().mean().backward()
            oracle.step(optimizer)
            if step in (0, 3, 6):
                run.flush()
                check(run.path, oracle)  # no closing row yet


def test_a_pause_in_training_hides_no_step(tmp_path: Path) -> None:
    """Without any flush, what was recorded is handed over by the background thread."""
    model = nn.Linear(3, 1)
    run = weighbridge.init(dir=tmp_path, name="run", quiet=True)
    run.watch(model)
    model(torch.ones(2, 3)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    record = weighbridge.open_run(run.path)
    patience = threading.Event()
    for _ in range(200):
        if record.refresh() and record.last_step == 0:
            break
        patience.wait(0.05)
    assert record.last_step == 0
    run.finish()


def test_the_training_process_has_two_threads_of_ours_and_none_after(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    ours = lambda: [t.name for t in threading.enumerate() if t.name.startswith("weighbridge") and t not in before]
    with weighbridge.init(dir=tmp_path, name="run", quiet=True) as run:
        run.watch(nn.Linear(2, 2))
        assert ours() == ["weighbridge-writer", "weighbridge-rules"]
    assert not ours()
    assert os.path.isdir(run.path)


def test_rows_of_a_small_table_are_arrow_as_columns_one_by_one_would_be() -> None:
    """Oracle: pyarrow's own conversion of each column, byte by byte. NumPy's numbers and arrays, None and tuples are met."""
    three = np.arange(3)
    rows: dict[str, list[tuple[Any, ...]]] = {
        "units": [(7, 0, np.int32(2), Quantity.ACTIVATION, 5, 10, three, three / 2, three * 2.0, three.astype(np.float32))] * 2,
        "steps": [
            (7, 0, 0, 7, loss, loss, 1, np.bool_(True), 0.0, np.nan, 1.0, [0.1], [], (1.0,), 2, 5, 6, size)
            for loss, size in ((None, None), (0.5, 16))
        ],
        "values": [(7, 0, 2, 0, "float32", b"abcd")],
        "events": [],
    }
    for table, made in rows.items():
        schema = TABLES[table]
        columns = zip(*made, strict=True) if made else [()] * len(schema)
        arrays = [pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)]
        found = recorder.Lists(table).batch(made)
        assert found.schema.equals(schema, check_metadata=True)
        assert found.serialize() == pa.RecordBatch.from_arrays(arrays, schema=schema).serialize()
