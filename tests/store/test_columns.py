"""A run of another version of weighbridge, which had a column less or has one more, is read. Oracle: what was written."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from made_rows import rows, steps, tensors

from weighbridge.records import STEPS, TABLES
from weighbridge.store.compact import compact_run
from weighbridge.store.follow import Follower
from weighbridge.store.layout import create_run
from weighbridge.store.record import RunRecord
from weighbridge.store.writer import RankWriter


def without(batch: pa.RecordBatch, name: str) -> pa.RecordBatch:
    return batch.select([one for one in batch.schema.names if one != name])


def with_another(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.append_column("of_a_later_version", pa.array(range(batch.num_rows)))


@pytest.mark.parametrize("is_compacted", [False, True])
@pytest.mark.parametrize("is_older", [False, True])
def test_a_column_less_is_null_and_one_more_is_left_out(is_older: bool, is_compacted: bool, tmp_path: Path) -> None:
    path = create_run(tmp_path, "first", {})
    change = (lambda batch: without(batch, "samples")) if is_older else with_another
    with pytest.MonkeyPatch.context() as other_version:
        other_version.setitem(TABLES, "steps", change(steps(0, 1)).schema)
        writer = RankWriter(path, segment_steps=40)
        writer.write({"tensors": tensors()}, 0, 0)
        for first in range(0, 90, 30):
            writer.write({"rows": rows(first, first + 30), "steps": change(steps(first, first + 30))}, first, first + 29)
    if is_compacted:
        compact_run(path)
    found = RunRecord(path).whole("steps")
    assert found.schema.names == STEPS.names
    assert found.column("loss").to_pylist() == [1 / (step + 1) for step in range(90)]
    assert found.column("samples").to_pylist() == [None] * 90
    followed = Follower(path).poll()["steps"]
    assert {tuple(batch.schema.names) for batch in followed} == {tuple(STEPS.names)}
    assert sorted(step for batch in followed for step in batch.column("step").to_pylist()) == [*range(90)]
