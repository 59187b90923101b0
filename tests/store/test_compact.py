"""Oracle: the same run read from its segments, and brute force over the single steps' values."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_rows import event, logs, rows, steps, tensors, values

from weighbridge.catalog import all_names
from weighbridge.store.compact import compact_run, stable_order
from weighbridge.store.grid import bucket_grid
from weighbridge.store.layout import create_run
from weighbridge.store.record import RunRecord, open_run
from weighbridge.store.writer import RankWriter

LAST = 1100


def write(path: Path, *, finish: bool = True, segment_steps: int = 300, block: int = 50, stop: int = LAST) -> RankWriter:
    writer = RankWriter(path, segment_steps=segment_steps)
    writer.write({"tensors": tensors(), "events": event(0, "config", '{"a": 1}')}, 0, 0)
    for first in range(0, stop, block):
        last = min(first + block, stop)
        made = {
            "rows": rows(first, last),
            "steps": steps(first, last),
            "values": values(first, last),
            "logs": logs(first, last),
        }
        writer.write(made, first, last - 1)
    if finish:
        writer.finish(stop, compact_seconds=0)
    return writer


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRecord, RunRecord]:
    """The same run as segments and compacted."""
    folder = tmp_path_factory.mktemp("pair")
    plain = create_run(folder, "plain", {})
    write(plain)
    compacted = folder / "compacted"
    shutil.copytree(plain, compacted)
    assert compact_run(compacted) > 4
    return open_run(plain), open_run(compacted)


def test_compaction_leaves_no_segment_of_a_finished_run(pair: tuple[RunRecord, RunRecord]) -> None:
    names = {path.name for path in (pair[1].path / "rank-0").iterdir()}
    assert not [name for name in names if name.endswith((".arrows", ".flushes", ".part"))]
    assert {"rows-0001", "rows-0002", "steps-0001", "values-0001", "finish.json"} <= names


def test_every_series_is_bit_for_bit_the_same_after_compaction(pair: tuple[RunRecord, RunRecord]) -> None:
    for statistic in all_names():
        before, after = (record.series("layers.0.bias", statistic) for record in pair)
        np.testing.assert_array_equal(before.steps, after.steps)
        np.testing.assert_array_equal(before.values, after.values)


def test_the_other_views_are_the_same_after_compaction(pair: tuple[RunRecord, RunRecord]) -> None:
    before, after = pair
    names = ["gradient.rms", "update.ratio", "parameter.min"]
    for step in (0, 299, 300, 1099):
        for name in names:
            np.testing.assert_array_equal(before.at_step(step, names)[name], after.at_step(step, names)[name])
        assert before.values("layers.0.weight", "parameter", step)[0] == step
        np.testing.assert_array_equal(*(r.values("layers.0.weight", "parameter", step)[1] for r in pair))
        np.testing.assert_array_equal(*(r.histogram("layers.0.bias", "update", step)[1] for r in pair))
    np.testing.assert_array_equal(before.losses().values, after.losses().values)
    np.testing.assert_array_equal(before.logged("accuracy").values, after.logged("accuracy").values)
    assert before.config == after.config
    assert before.tensors == after.tensors
    one, other = (record.summary(["gradient.rms"])["gradient.rms"] for record in pair)
    assert [s.last for s in one] == [s.last for s in other]


def brute(record: RunRecord, tensor: str, statistic: str, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    series = record.series(tensor, statistic)
    found = np.full((3, len(first)), np.nan)
    for bucket, (low, high) in enumerate(zip(first, last, strict=True)):
        inside = series.values[(series.steps >= low) & (series.steps <= high)]
        inside = inside[~np.isnan(inside)]
        if len(inside):
            found[:, bucket] = inside.mean(), inside.min(), inside.max()
    return found


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.integers(0, LAST - 1),
    length=st.integers(1, LAST),
    buckets=st.integers(1, 80),
    statistic=st.sampled_from(all_names()),
    which=st.booleans(),
)
def test_downsampling_keeps_every_spike(
    pair: tuple[RunRecord, RunRecord], start: int, length: int, buckets: int, statistic: str, which: bool
) -> None:
    record = pair[int(which)]
    heat = record.heat_map(statistic, buckets, start, start + length)
    assert 1 <= len(heat.step_first) <= buckets
    assert (heat.step_first[0], heat.step_last[-1]) == (start, min(start + length, LAST) - 1)
    np.testing.assert_array_equal(heat.step_first[1:], heat.step_last[:-1] + 1)
    for row, tensor in enumerate(heat.tensors):
        mean, low, high = brute(pair[0], tensor.name, statistic, heat.step_first, heat.step_last)
        np.testing.assert_allclose(heat.mean[row], mean, rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(heat.min[row], low)
        np.testing.assert_array_equal(heat.max[row], high)


def test_series_buckets_are_the_heat_map_of_one_tensor(pair: tuple[RunRecord, RunRecord]) -> None:
    buckets = pair[1].series_buckets("layers.0.bias", "update.ratio", 10)
    heat = pair[1].heat_map("update.ratio", 10)
    np.testing.assert_array_equal(buckets.max, heat.max[1])
    assert buckets.step_last[-1] == LAST - 1


@given(st.integers(0, 200_000), st.integers(1, 10_000_000), st.integers(1, 2000), st.sampled_from([0, 64]))
def test_a_grid_has_at_most_so_many_cells_and_covers_the_range(start: int, length: int, buckets: int, level: int) -> None:
    (base, width, chosen), edges = bucket_grid(start, start + length, buckets, level)
    assert 2 <= len(edges) <= buckets + 1
    assert (edges[0], edges[-1]) == (start, start + length)
    assert (np.diff(edges) > 0).all()
    assert base <= start < base + width
    assert not chosen or (base % chosen == 0 and width % chosen == 0)


def test_the_outcome_does_not_depend_on_who_compacts_and_two_at_once_are_harmless(tmp_path: Path) -> None:
    path = create_run(tmp_path, "both", {})
    write(path)
    alone = tmp_path / "alone"
    shutil.copytree(path, alone)
    compact_run(alone)
    failures: list[BaseException] = []

    def compact() -> None:
        try:
            compact_run(path)
        except BaseException as problem:
            failures.append(problem)

    threads = [threading.Thread(target=compact) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    ours = {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}
    theirs = {p.relative_to(alone): p.read_bytes() for p in alone.rglob("*") if p.is_file()}
    assert ours == theirs


def test_the_open_segment_of_a_live_run_is_left_alone(tmp_path: Path) -> None:
    path = create_run(tmp_path, "live", {})
    writer = write(path, finish=False)
    record = open_run(path)
    compact_run(path)
    assert record.refresh()
    assert (path / "rank-0" / "rows-0001").is_dir()
    assert (path / "rank-0" / "rows-0004.arrows").exists()
    assert len(record.series("layers.0.bias", "gradient.rms").steps) == LAST
    writer.write({"rows": rows(LAST, LAST + 5)}, LAST, LAST + 4)
    record.refresh()
    assert len(record.series("layers.0.bias", "gradient.rms").steps) == LAST + 5


def test_when_a_run_that_died_was_last_heard_of_is_known_after_compaction(tmp_path: Path) -> None:
    path = create_run(tmp_path, "died", {})
    write(path, finish=False).finish(LAST)
    (path / "rank-0" / "finish.json").unlink()  # as if it had been killed, and somebody else had compacted it
    assert not list(path.rglob("*.arrows"))
    last = steps(LAST - 1, LAST).column("time_ns")[0].as_py()
    told = open_run(path).info.last_flush
    assert told is not None
    assert told.timestamp() == pytest.approx(last / 1e9, abs=1e-3)


def test_finish_compacts_within_its_time(tmp_path: Path) -> None:
    path = create_run(tmp_path, "first", {})
    write(path, finish=False).finish(LAST)
    assert not list(path.rglob("*.arrows"))
    assert open_run(path).info.steps == LAST


@pytest.mark.parametrize("is_compacted", [False, True])
def test_a_later_attempt_wins_from_its_first_step_on(tmp_path: Path, is_compacted: bool) -> None:
    path = create_run(tmp_path, "first", {})
    write(path, finish=False)
    second = RankWriter(path, attempt=1)
    second.write({"rows": rows(700, 900, attempt=1), "steps": steps(700, 900, attempt=1)}, 700, 899)
    if is_compacted:
        second.finish(900, compact_seconds=0)
        compact_run(path)
    record = open_run(path)
    losses = record.losses()
    np.testing.assert_allclose(losses.values, 1 / np.arange(1, 901) + (np.arange(900) >= 700))
    series = record.series("layers.0.bias", "gradient.rms")
    np.testing.assert_array_equal(series.steps, np.arange(900))
    late = rows(700, 900, attempt=1)
    mine = (late.column("tensor").to_numpy() == 1) & (late.column("quantity").to_numpy() == 1)
    finite = late.column("count").to_numpy() - late.column("nan").to_numpy()
    with np.errstate(all="ignore"):
        wanted = np.sqrt(late.column("sum_sq").to_numpy() / finite)[mine]
    np.testing.assert_allclose(series.values[700:], wanted)
    heat = record.heat_map("gradient.rms", 10)
    np.testing.assert_allclose(heat.max[1], brute(record, "layers.0.bias", "gradient.rms", heat.step_first, heat.step_last)[2])


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(-2, 2), st.integers(0, 2**33)), min_size=1, max_size=40),
    st.booleans(),
)
def test_rows_are_ordered_as_by_lexsort(rows: list[tuple[int, int, int]], is_in_steps: bool) -> None:
    rows = sorted(rows, key=lambda row: row[2]) if is_in_steps else rows
    keys = [np.array(column, np.int64) for column in zip(*rows, strict=True)]
    found = stable_order(keys)
    expected = np.lexsort(keys[::-1])
    assert (list(range(len(rows))) if found is None else found.tolist()) == expected.tolist()
