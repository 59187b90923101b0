"""Oracle: what the reader sees before and after, and what lies on the disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.server.conftest import make_run
from tests.store import made_rows
from weighbridge.server.compactor import Compactor, elsewhere
from weighbridge.server.runs import Runs
from weighbridge.store.layout import create_run
from weighbridge.store.writer import RankWriter


def killed_run(folder: Path, name: str) -> Path:
    """A run of four segments whose writer went away without finishing."""
    run = create_run(folder, name, {})
    writer = RankWriter(run, segment_steps=10)
    writer.write({"tensors": made_rows.tensors()}, 0, 0)
    for first in range(0, 40, 10):
        writer.write({"rows": made_rows.rows(first, first + 10), "steps": made_rows.steps(first, first + 10)}, first, first + 9)
    return run


def test_a_run_that_is_looked_at_is_compacted_and_reads_the_same(tmp_path: Path) -> None:
    run, other = killed_run(tmp_path, "seen"), killed_run(tmp_path, "not-seen")
    runs = Runs(tmp_path)
    with runs.use("seen") as record:
        name = record.tensors[0].name
        before = record.series(name, "gradient.rms")
    assert list(run.glob("rank-0/rows-*.arrows"))
    assert Compactor(runs).look() > 0
    assert list(run.glob("rank-0/rows-*/rows.parquet"))
    assert not list(other.glob("rank-0/*/"))
    with runs.use("seen") as record:
        record.refresh()
        after = record.series(name, "gradient.rms")
    assert after.steps.tolist() == before.steps.tolist()
    assert after.values.tobytes() == before.values.tobytes()


def test_nothing_is_left_to_do_a_second_time(tmp_path: Path) -> None:
    killed_run(tmp_path, "seen")
    runs = Runs(tmp_path)
    with runs.use("seen"):
        pass
    compactor = Compactor(runs)
    compactor.look()
    assert compactor.look() == 0


def test_a_run_that_may_not_be_written_is_read_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = killed_run(tmp_path, "seen")

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(run))

    monkeypatch.setattr("weighbridge.store.compact.write_parquet", refused)
    runs = Runs(tmp_path)
    compactor = Compactor(runs)
    with runs.use("seen") as record:
        assert record.last_step == 39
    assert compactor.look() == 0
    monkeypatch.undo()
    assert compactor.look() == 0  # it is not tried again and again
    with runs.use("seen") as record:
        assert len(record.series(record.tensors[0].name, "gradient.rms").values) == 40


def test_a_damaged_segment_stops_its_own_run_only(tmp_path: Path) -> None:
    broken, whole = killed_run(tmp_path, "broken"), killed_run(tmp_path, "whole")
    runs = Runs(tmp_path)
    for name in ("broken", "whole"):
        with runs.use(name):
            pass
    segment = sorted(broken.glob("rank-0/rows-*.arrows"))[0]
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    assert Compactor(runs).look() > 0
    assert segment.read_bytes() == bytes(data)  # what is damaged is left for `verify`
    assert len(list(whole.glob("rank-0/rows-*/rows.parquet"))) == 3  # the fourth is open: its writer, this process, lives


def test_a_run_deleted_meanwhile_is_no_matter(tmp_path: Path) -> None:
    run = make_run(tmp_path, "gone")
    runs = Runs(tmp_path)
    with runs.use("gone"):
        pass
    shutil.rmtree(run)
    assert Compactor(runs).look() == 0
    assert not os.path.exists(run)


def test_a_process_of_its_own_does_the_same(tmp_path: Path) -> None:
    here, there = killed_run(tmp_path, "here"), killed_run(tmp_path, "there")
    runs = Runs(tmp_path)
    with runs.use("here"):
        assert Compactor(runs).look() == elsewhere(there, 60.0) > 0
    assert elsewhere(there, 60.0) == 0  # nothing is left to do
    files = [sorted(path.relative_to(run) for path in run.rglob("*.parquet")) for run in (here, there)]
    assert files[0] == files[1]
    assert files[0]


def test_what_that_process_cannot_do_is_raised_and_left_as_it_is(tmp_path: Path) -> None:
    broken = killed_run(tmp_path, "broken")
    segment = sorted(broken.glob("rank-0/rows-*.arrows"))[0]
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    with pytest.raises(OSError, match=r"CorruptRun|damaged"):
        elsewhere(broken, 60.0)
    assert segment.read_bytes() == bytes(data)
