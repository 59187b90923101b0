"""Reads a run as docs/format.md describes it, with pyarrow, json and zlib alone. Oracle: the rows that were written."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_rows import rows, steps, tensors

from weighbridge.records import TABLES
from weighbridge.store.compact import compact_run
from weighbridge.store.downsample import bucket_schema
from weighbridge.store.layout import create_run
from weighbridge.store.writer import RankWriter

PAGE = (Path(__file__).parents[2] / "docs" / "format.md").read_text()
LINE = 192


def unseal(line: bytes) -> dict[str, Any]:
    assert line.endswith(b'"}\n')
    blank = line[:-11] + b"00000000" + line[-3:]
    assert line[-11:-3] == f"{zlib.crc32(blank):08x}".encode()
    content: dict[str, Any] = json.loads(line)
    assert content.get("format", 1) == 1
    return content


def read_segment(stem: Path) -> list[pa.RecordBatch]:
    sidecar, data = stem.with_suffix(".flushes").read_bytes(), stem.with_suffix(".arrows").read_bytes()
    found, schema = [], None
    for at in range(0, len(sidecar) - LINE + 1, LINE):
        line = unseal(sidecar[at : at + LINE])
        part = data[line["offset"] : line["offset"] + line["length"]]
        assert f"{zlib.crc32(part):08x}" == line["crc"]
        if line["kind"] == "flush":
            reader = pa.BufferReader(part)
            schema = schema or pa.ipc.read_schema(reader)
            found.append(pa.ipc.read_record_batch(pa.ipc.read_message(reader), schema))
            assert found[-1].num_rows == line["rows"]
    return found


def read_unit(folder: Path, name: str) -> pa.Table:
    manifest = unseal((folder / "manifest.json").read_bytes())
    for file, entry in manifest["files"].items():
        content = (folder / file).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry["size"], entry["sha256"])
    return pq.read_table(folder / name)


def read_table(rank: Path, table: str) -> pa.Table:
    pieces = []
    numbers = sorted({int(m[1]) for path in rank.iterdir() if (m := re.match(rf"{table}-(\d+)", path.name))})
    assert numbers == list(range(1, len(numbers) + 1))
    for number in numbers:
        stem = rank / f"{table}-{number:04d}"
        pieces.append(read_unit(stem, f"{table}.parquet") if stem.is_dir() else pa.Table.from_batches(read_segment(stem)))
    return pa.concat_tables(pieces, promote_options="permissive")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = create_run(tmp_path, "first", {"config": {"lr": 0.1}})
    writer = RankWriter(path, segment_steps=100)
    writer.write({"tensors": tensors()}, 0, 0)
    for first in range(0, 330, 30):
        writer.write({"rows": rows(first, first + 30), "steps": steps(first, first + 30)}, first, first + 29)
    compact_run(path)  # all but the open segments
    return path


def test_a_run_reads_as_the_page_says(run: Path) -> None:
    assert unseal((run / "run.json").read_bytes())["info"] == {"config": {"lr": 0.1}}
    rank = run / "rank-0"
    assert {p.is_dir() for p in rank.glob("rows-*")} == {True, False}
    found = read_table(rank, "rows").sort_by([("step", "ascending"), ("tensor", "ascending"), ("quantity", "ascending")])
    wanted = pa.Table.from_batches([rows(first, first + 30) for first in range(0, 330, 30)])
    for name in ("step", "tensor", "quantity", "sum_sq", "min", "nan", "hist_first"):
        np.testing.assert_array_equal(found.column(name).to_numpy(), wanted.column(name).to_numpy())
    assert found.column("hist").to_pylist() == wanted.column("hist").to_pylist()
    assert read_table(rank, "tensors").column("name").to_pylist()[1] == "layers.0.bias"
    np.testing.assert_allclose(read_table(rank, "steps").column("loss").to_numpy(), 1 / np.arange(1, 331))


def test_buckets_read_as_the_page_says(run: Path) -> None:
    unit = run / "rank-0" / "rows-0001"
    buckets = read_unit(unit, "buckets-64.parquet").to_pylist()
    single = read_unit(unit, "rows.parquet").to_pylist()
    for bucket in buckets:
        mine = [
            row
            for row in single
            if (row["tensor"], row["quantity"], row["step"] // 64) == (bucket["tensor"], bucket["quantity"], bucket["bucket"])
        ]
        assert (len(mine), mine[0]["step"], mine[-1]["step"]) == (bucket["rows"], bucket["first_step"], bucket["last_step"])
        assert bucket["zero"] == sum(row["zero"] for row in mine)
        full = np.zeros(132, np.int64)
        for row in mine:
            full[row["hist_first"] : row["hist_first"] + len(row["hist"])] += np.array(row["hist"], np.int64)
        counts = full[bucket["hist_first"] : bucket["hist_first"] + len(bucket["hist"])]
        assert counts.tolist() == bucket["hist"]
        assert counts.sum() == full.sum()
        finite = [row for row in mine if row["count"] > row["nan"]]
        sizes = [np.sqrt(row["sum_sq"] / (row["count"] - row["nan"])) for row in finite]
        assert bucket["rows_finite"] == len(sizes)
        assert bucket["rms_sum"] / bucket["rows_finite"] == pytest.approx(np.mean(sizes))
        assert (bucket["rms_low"], bucket["rms_high"]) == (pytest.approx(min(sizes)), pytest.approx(max(sizes)))


def test_the_page_names_every_table_and_column() -> None:
    for table, schema in TABLES.items():
        assert f"`{table}`" in PAGE
        missing = [name for name in schema.names if f"`{name}`" not in PAGE]
        assert not missing, (table, missing)
    merged = [name for name in bucket_schema().names if not name.endswith(("_sum", "_low", "_high"))]
    assert not [name for name in merged if f"`{name}`" not in PAGE]


def test_bucket_columns_by_class_are_those_of_the_page() -> None:
    from weighbridge.catalog import STATISTICS
    from weighbridge.store.downsample import weight_of

    finite = {"rms", "mean", "abs_mean", "std", "min", "max", "abs_max"}
    for statistic in STATISTICS.values():
        expected = "rows_ratio" if statistic.name == "ratio" else "rows_finite" if statistic.name in finite else "rows"
        assert weight_of(statistic) == expected
