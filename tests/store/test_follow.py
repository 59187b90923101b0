"""Oracle: the blocks that were written, in their order."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from made_rows import rows, steps

from weighbridge.store.compact import compact_run
from weighbridge.store.follow import Follower
from weighbridge.store.layout import create_run
from weighbridge.store.parquet import same_bits
from weighbridge.store.writer import RankWriter


def same(found: list[pa.RecordBatch], *expected: pa.RecordBatch) -> bool:
    return len(found) == len(expected) and all(
        same_bits(pa.table(a), pa.table(b)) for a, b in zip(found, expected, strict=True)
    )


def test_each_block_comes_once_across_segment_changes(tmp_path: Path) -> None:
    path = create_run(tmp_path, "first", {})
    follower = Follower(path)
    assert follower.poll() == {}
    writer = RankWriter(path, segment_steps=20)
    for first in range(0, 100, 10):
        block = rows(first, first + 10)
        writer.write({"rows": block, "steps": steps(first, first + 10)}, first, first + 9)
        if first % 30 == 0:
            continue  # sometimes two blocks at one poll
        found = follower.poll()
        assert same(found["rows"][-1:], block)
        assert follower.poll() == {}
    everything = Follower(path).poll()["rows"]
    assert same(everything, *(rows(first, first + 10) for first in range(0, 100, 10)))


def test_what_was_compacted_unread_comes_from_parquet(tmp_path: Path) -> None:
    path = create_run(tmp_path, "first", {})
    writer = RankWriter(path, segment_steps=30)
    writer.write({"rows": rows(0, 10)}, 0, 9)
    follower = Follower(path)
    assert same(follower.poll()["rows"], rows(0, 10))
    for first in range(10, 100, 10):
        writer.write({"rows": rows(first, first + 10)}, first, first + 9)
    compact_run(path)
    found = pa.Table.from_batches(follower.poll()["rows"]).sort_by([("step", "ascending"), ("tensor", "ascending")])
    assert sorted(set(found.column("step").to_pylist())) == list(range(10, 100))
    assert found.num_rows == 90 * 9
    assert follower.poll() == {}


def test_from_start_false_leaves_out_what_is_there(tmp_path: Path) -> None:
    path = create_run(tmp_path, "first", {})
    writer = RankWriter(path, segment_steps=15)
    for first in range(0, 50, 10):
        writer.write({"rows": rows(first, first + 10)}, first, first + 9)
    follower = Follower(path, from_start=False)
    assert follower.poll() == {}
    writer.write({"rows": rows(50, 60)}, 50, 59)
    assert same(follower.poll()["rows"], rows(50, 60))
