"""What is kept in memory between questions. Oracle: the engine's own GROUP BY over the same files, and counting by hand."""

from __future__ import annotations

import dataclasses
import gc
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_rows import rows, steps, tensors

from weighbridge.records import Quantity
from weighbridge.store import pictures, recent
from weighbridge.store.compact import compact_run
from weighbridge.store.layout import create_run, rank_folder
from weighbridge.store.limit import thin
from weighbridge.store.query import RowQuery
from weighbridge.store.recent import Recent, Single
from weighbridge.store.record import RunRecord, open_run
from weighbridge.store.sources import plan_rows
from weighbridge.store.units import units
from weighbridge.store.writer import RankWriter

NUMBERS = ("mean", "min", "max", "bad")


@pytest.fixture
def growing(tmp_path: Path) -> tuple[Path, RankWriter]:
    """A run whose training goes on."""
    run = create_run(tmp_path, "growing", {})
    writer = RankWriter(run)
    writer.write({"tensors": tensors(), "rows": rows(0, 40), "steps": steps(0, 40)}, 0, 39)
    return run, writer


def grown(writer: RankWriter, first: int, stop: int) -> None:
    writer.write({"rows": rows(first, stop), "steps": steps(first, stop)}, first, stop - 1)


@pytest.mark.parametrize(
    "statistic", ["gradient.rms", "gradient.min", "update.ratio", "gradient.nonfinite_count", "parameter.mean"]
)
@pytest.mark.parametrize(("buckets", "start", "stop"), [(40, 0, 40), (7, 0, 40), (3, 5, 38), (1, 0, 40), (5, 11, 12)])
def test_pictures_of_kept_values_are_those_of_the_engine(
    growing: tuple[Path, RankWriter], monkeypatch: pytest.MonkeyPatch, statistic: str, buckets: int, start: int, stop: int
) -> None:
    opened = open_run(growing[0])
    opened.heat_map(statistic, 40)  # all that is cut out below
    kept = opened.heat_map(statistic, buckets, start, stop)
    monkeypatch.setattr(pictures, "SHARED_FROM", 0)
    asked = opened.heat_map(statistic, buckets, start, stop)
    for name in NUMBERS:
        np.testing.assert_allclose(getattr(kept, name), getattr(asked, name), rtol=1e-14, err_msg=name)


def test_elements_that_are_not_finite_are_counted_at_their_worst_step() -> None:
    found = {
        "tensor": np.array([7, 7, 7, 3]), "step": np.array([10, 11, 13, 12]),
        "value": np.array([1.0, np.nan, 5.0, 2.0]), "bad": np.array([0, 9, 2, 0]),
    }  # fmt: skip
    place = np.full(8, -1)
    place[[3, 7]] = [0, 1]
    single = Single.of(10, 15, place, 2, [found])
    mean, least, greatest, bad = single.cells(np.array([1, 0]), 10, 15, 2)
    np.testing.assert_array_equal(mean, [[1.0, 5.0, np.nan], [np.nan, 2.0, np.nan]])
    np.testing.assert_array_equal(least, mean)
    np.testing.assert_array_equal(greatest, mean)
    np.testing.assert_array_equal(bad, [[9.0, 2.0, np.nan], [np.nan, 0.0, np.nan]])
    np.testing.assert_array_equal(single.cells(np.array([1]), 12, 14, 20)[3], [[2.0]])


@pytest.mark.parametrize("width", [2, 16, 17, 40])
def test_narrow_and_wide_cells_are_put_together_alike(width: int) -> None:
    values = np.random.default_rng(0).normal(size=(70, 40))
    values[3, 5] = values[69, 39] = np.nan
    single = Single(0, 40, values, np.ones(values.shape, bool), np.empty((3, 0), np.int64))
    mean, least, greatest, _ = single.cells(np.arange(70), 0, 40, width)
    for cell, first in enumerate(range(0, 40, width)):
        part = values[:, first : first + width]
        np.testing.assert_allclose(mean[:, cell], np.nanmean(part, axis=1), rtol=1e-13)
        np.testing.assert_array_equal(least[:, cell], np.nanmin(part, axis=1))
        np.testing.assert_array_equal(greatest[:, cell], np.nanmax(part, axis=1))


def test_the_same_is_not_read_twice(growing: tuple[Path, RankWriter], monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    real = RowQuery.singles
    monkeypatch.setattr(RowQuery, "singles", lambda self, *asked: (read.append(asked), real(self, *asked))[1])
    opened = open_run(growing[0])
    opened.heat_map("gradient.rms", 40)
    opened.heat_map("gradient.rms", 5, 10, 30, [opened.tensors[1]])
    opened.heat_map("gradient.rms", 3, 0, 12)
    assert len(read) == 1
    opened.heat_map("gradient.mean", 3, 0, 12)
    opened.heat_map("gradient.mean", 3)
    assert [asked[0] for asked in read] == [Quantity.GRADIENT] * 3, "what was read for twelve steps does not serve all"


def test_a_run_that_has_grown_is_read_again(growing: tuple[Path, RankWriter]) -> None:
    run, writer = growing
    opened = open_run(run)
    before = opened.heat_map("gradient.rms", 100)
    grown(writer, 40, 50)
    assert opened.refresh()
    after = opened.heat_map("gradient.rms", 100)
    assert (before.mean.shape[1], after.mean.shape[1]) == (40, 50)
    assert np.isfinite(after.mean[:, 40:]).any()
    np.testing.assert_array_equal(after.mean, open_run(run).heat_map("gradient.rms", 100).mean)


def shown_alike(opened: RunRecord, run: Path) -> None:
    """What is drawn of a run that was watched is what a fresh look at its files gives."""
    for statistic in ("gradient.rms", "gradient.nonfinite_count", "update.ratio"):
        watched, fresh = opened.heat_map(statistic, 2000), open_run(run).heat_map(statistic, 2000)
        for name in NUMBERS:
            np.testing.assert_array_equal(getattr(watched, name), getattr(fresh, name), err_msg=f"{statistic}, {name}")


def test_of_a_run_that_grows_only_what_is_new_is_read(
    growing: tuple[Path, RankWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, writer = growing
    opened = open_run(run)
    shown_alike(opened, run)
    read: list[tuple[int, int]] = []
    real = RowQuery.singles

    def counted(query: RowQuery, *asked: Any) -> Any:
        if query is opened._query:
            read.append(asked[2:])
        return real(query, *asked)

    monkeypatch.setattr(RowQuery, "singles", counted)
    for first in range(40, 140, 10):  # 53 and 97 + 13 are steps with elements that are not finite
        grown(writer, first, first + 10)
        opened.refresh()
        shown_alike(opened, run)
        assert read == [(first, first + 10)] * 3
        read.clear()


def test_steps_that_are_trained_again_are_read_again(growing: tuple[Path, RankWriter]) -> None:
    run, writer = growing
    opened = open_run(run)
    shown_alike(opened, run)
    writer.finish(40, compact_seconds=0)
    second = RankWriter(run, attempt=1)
    second.write({"steps": steps(10, 20, 1)}, 10, 19)  # of which no rows are: step 13 was not finite, and is none any more
    opened.refresh()
    shown_alike(opened, run)
    for first in (20, 30):
        second.write({"rows": rows(first, first + 10, attempt=1), "steps": steps(first + 10, first + 20, 1)}, first, first + 19)
        opened.refresh()
        shown_alike(opened, run)


def test_compaction_changes_no_row_and_thinning_does(tmp_path: Path) -> None:
    run = create_run(tmp_path, "growing", {})
    writer = RankWriter(run, segment_steps=300)
    writer.write({"tensors": tensors()}, 0, 0)
    for first in range(0, 1500, 100):
        grown(writer, first, first + 100)
    opened = open_run(run)
    version = opened._all.version
    opened.heat_map("gradient.rms", 2000)
    compact_run(run)
    opened.refresh()
    assert opened._all.version != version
    assert opened._all.unchanged_below(version) > 1500
    folder = rank_folder(run, 0)
    compacted = [unit for unit in units(folder)["rows"] if unit.is_compacted]
    gone = thin(compacted[3], 10**6)
    assert gone is not None
    opened.refresh()
    assert opened._all.unchanged_below(version) <= gone[0]


def test_counts_of_what_is_not_finite_are_not_read_where_the_footers_say_there_is_none(tmp_path: Path) -> None:
    run = create_run(tmp_path, "made", {})
    writer = RankWriter(run, segment_steps=10)
    writer.write({"tensors": tensors()}, 0, 0)
    for first in range(0, 70, 10):  # steps 13 and 50 have elements that are not finite
        grown(writer, first, first + 10)
    before = {name: open_run(run).heat_map(name, 2000) for name in ("gradient.rms", "gradient.nonfinite_count", "update.ratio")}
    compact_run(run)
    opened = open_run(run)
    files = plan_rows(opened._all.lead.parts["rows"], 0, 70, looks=True).files
    assert [len(listed) for (_, _, is_finite), listed in sorted(files.items()) if is_finite] == [4]
    assert [len(listed) for (_, _, is_finite), listed in sorted(files.items()) if not is_finite] == [2]
    for name, one in before.items():
        for number in NUMBERS:
            np.testing.assert_array_equal(getattr(opened.heat_map(name, 2000), number), getattr(one, number))


def test_all_lines_of_a_layer_come_from_one_look_into_the_bucket_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = create_run(tmp_path, "made", {})
    writer = RankWriter(run, segment_steps=320)
    writer.write({"tensors": tensors()}, 0, 0)
    for first in range(0, 1280, 160):
        grown(writer, first, first + 160)
    writer.finish(1280, compact_seconds=0)
    compact_run(run)
    monkeypatch.setattr(pictures, "SHARED_FROM", 0)
    asked: list[str] = []
    real = RowQuery._run
    monkeypatch.setattr(RowQuery, "_run", lambda self, plan, text: (asked.append(text), real(self, plan, text))[1])
    opened = open_run(run)
    names = [tensor.name for tensor in opened.tensors[:2]]
    statistics = ["parameter.rms", "gradient.rms", "update.ratio", "gradient.nonfinite_count", "parameter.rms"]
    together = opened.several_buckets(names, statistics, 20)
    assert len(asked) == 1
    for one, (name, statistic) in zip(together, [(n, s) for n in names for s in statistics], strict=True):
        alone = opened.series_buckets(name, statistic, 20)
        single = opened.series_buckets(name, statistic, 1280)  # of the rows themselves
        for number in NUMBERS:
            np.testing.assert_array_equal(getattr(one, number), getattr(alone, number))
        with np.errstate(invalid="ignore"):
            np.testing.assert_allclose(one.max, np.fmax.reduce(single.max.reshape(20, 64), axis=1), rtol=1e-12)
    opened.several_buckets(names, statistics, 20, 10)
    assert len(asked) == 1 + 2 * 2 * 5 + 3, "where single rows answer, too, each quantity has a question, and the ratio"


def test_who_looked_long_ago_reads_all(growing: tuple[Path, RankWriter]) -> None:
    run, writer = growing
    opened = open_run(run)
    opened._all.lead._news = deque(opened._all.lead._news, maxlen=3)
    version = opened._all.version
    for first in (40, 50, 60, 70):
        assert opened._all.unchanged_below(version) >= 40
        grown(writer, first, first + 10)
        opened.refresh()
    assert opened._all.unchanged_below(version) == 0


def test_a_run_that_is_watched_for_long_leaves_nothing_of_its_past(
    growing: tuple[Path, RankWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures in cells, series and answers carry the steps they span in their question: each look has another one."""
    run, writer = growing
    monkeypatch.setattr(pictures, "SINGLES_AT_MOST", 0)
    opened = open_run(run)
    sizes = []
    for first in range(40, 340, 10):
        grown(writer, first, first + 10)
        opened.refresh()
        opened.heat_map("gradient.rms", 10)
        opened.series(opened.tensors[0].name, "gradient.rms")
        opened.kept("heat", lambda: bytes(1000))
        sizes.append(sum(key[0] == opened._owner for key in recent.RECENT._kept))
    assert set(sizes) == {3}


def test_memory_is_bounded_and_given_back() -> None:
    kept = Recent(most=100)
    for number in range(30):
        kept.get(("run", number), 0, lambda old: np.zeros(4))
    assert kept._bytes <= 100
    assert list(kept._kept) == [("run", number) for number in (27, 28, 29)]
    kept.get(("run", 28), 0, lambda old: old)
    assert next(reversed(kept._kept)) == ("run", 28)
    assert kept.get(("run", 28), 1, lambda old: np.zeros(1) if old is None else old).size == 1, "of another version"


def test_what_is_kept_of_a_run_goes_with_it(growing: tuple[Path, RankWriter]) -> None:
    opened = open_run(growing[0])
    opened.heat_map("gradient.rms", 40)
    owner = opened._owner
    assert any(key[0] == owner for key in recent.RECENT._kept)
    del opened
    gc.collect()
    assert not any(key[0] == owner for key in recent.RECENT._kept)


@pytest.mark.parametrize("start", [None, 30])
def test_what_is_not_weighed_of_a_tensor_is_missing(growing: tuple[Path, RankWriter], start: int | None) -> None:
    opened = open_run(growing[0])
    stranger = dataclasses.replace(opened.tensors[0], id=77, name="a/out", role="output")
    heat = opened.heat_map("gradient.rms", 40, start, None, [opened.tensors[0], stranger])
    assert np.isnan(heat.mean[1]).all()
    np.testing.assert_array_equal(heat.mean[0], opened.heat_map("gradient.rms", 40, start).mean[0])
