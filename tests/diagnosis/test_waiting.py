"""What waits for the rules. Oracle: the batches that were put there, and what the system says of files and memory."""

from __future__ import annotations

import os
import tracemalloc
from collections import deque
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from weighbridge.diagnosis import waiting
from weighbridge.diagnosis.waiting import NoRoom, Waiting


def batches(number: int, rows: int = 100) -> dict[str, pa.RecordBatch]:
    """Of two tables; one has lists, texts and what is not known."""
    random = np.random.default_rng(number)
    rows_table = pa.record_batch({"step": pa.array([number] * rows), "sum": pa.array(random.normal(size=rows))})
    steps = pa.record_batch(
        {"loss": pa.array([None, 0.5]), "lr": pa.array([[0.1, None], []], pa.list_(pa.float64())), "kind": pa.array(["a", ""])}
    )
    return {"rows": rows_table, "steps": steps} if number % 3 else {"rows": rows_table, "empty": steps.slice(0, 0)}


def open_files(folder: Path) -> list[str]:
    """Of this process, in the folder; files without a name among them."""
    found = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    return [path for path in found if path.startswith(str(folder))]


def fill(kept: Waiting[int]) -> None:
    for number in range(1_000):
        kept.put(batches(number), number)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "MOST_IN_MEMORY", 10_000)
    monkeypatch.setattr(waiting, "FILE_BYTES", 20_000)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("seed", range(5))
def test_what_comes_out_is_what_went_in_and_in_its_order(seed: int, tmp_path: Path) -> None:
    random, kept, wanted = np.random.default_rng(seed), Waiting[int](tmp_path), deque[int]()
    for number in range(300):
        kept.put(batches(number), number)
        wanted.append(number)
        for _ in range(int(random.integers(0, 4 if number % 100 > 50 else 2))):
            if wanted:
                found, mark = kept.take()
                assert mark == wanted.popleft()
                assert found == batches(mark)
        assert len(kept) == len(wanted)
    while wanted:
        found, mark = kept.take()
        assert (found, mark) == (batches(wanted.popleft()), mark)
    assert open_files(tmp_path) == []
    with pytest.raises(IndexError):
        kept.take()


@pytest.mark.usefixtures("small")
def test_memory_is_bounded_and_files_have_no_name_and_are_given_back(tmp_path: Path) -> None:
    before, kept = pa.total_allocated_bytes(), Waiting[int](tmp_path)
    for number in range(200):
        kept.put(batches(number), number)
    assert pa.total_allocated_bytes() - before < 40_000  # 200 batches are 350,000 bytes
    assert len(open_files(tmp_path)) > 3
    assert os.listdir(tmp_path) == []
    for _ in range(150):
        kept.take()
    assert 0 < len(open_files(tmp_path)) < 8
    kept.clear()
    assert open_files(tmp_path) == []
    assert len(kept) == 0
    kept.put(batches(0), 0)
    assert kept.take() == (batches(0), 0)


def test_what_waits_in_files_takes_next_to_no_memory_however_much_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "MOST_IN_MEMORY", 0)
    kept, one = Waiting[int](tmp_path), batches(0, 1)
    kept.put(one, 0)
    tracemalloc.start()
    for number in range(1_000, 3_000):
        kept.put(one, number)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert taken / 2_000 < 150  # bytes for each: its place in the queue and its mark
    kept.clear()


@pytest.mark.usefixtures("small")
def test_more_than_may_wait_is_refused_until_some_was_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "MOST_ON_DISK", 50_000)
    kept = Waiting[int](tmp_path)
    with pytest.raises(NoRoom):
        fill(kept)
    assert 20 < len(kept) < 200
    for _ in range(20):
        kept.take()
    kept.put(batches(0), 0)
    kept.clear()


@pytest.mark.usefixtures("small")
def test_a_disk_that_takes_nothing_is_an_error(tmp_path: Path) -> None:
    kept = Waiting[int](tmp_path / "gone")
    with pytest.raises(OSError, match="gone"):
        fill(kept)
