"""Oracle: the full run kept beside the limited one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_rows import rows, steps, tensors

from weighbridge.store import limit, verify
from weighbridge.store.compact import compact_run
from weighbridge.store.layout import create_run
from weighbridge.store.limit import keep_within
from weighbridge.store.record import open_run
from weighbridge.store.status import size_of
from weighbridge.store.verify import verify_run
from weighbridge.store.writer import RankWriter

LAST = 9000


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = create_run(tmp_path_factory.mktemp("limit"), "full", {})
    writer = RankWriter(path, segment_steps=700)
    writer.write({"tensors": tensors(1)}, 0, 0)
    for first in range(0, LAST, 250):
        writer.write({"rows": rows(first, first + 250, 1), "steps": steps(first, first + 250)}, first, first + 249)
    writer.finish(LAST, compact_seconds=0)
    compact_run(path)
    return path


def test_the_oldest_ranges_give_way_but_never_the_first_1000_and_the_last_5000(full: Path, tmp_path: Path) -> None:
    path = tmp_path / "thin"
    shutil.copytree(full, path)
    record = open_run(path)
    before = record.heat_map("gradient.rms", 100)
    done = keep_within(path / "rank-0", 1, LAST - 1)
    assert done[0][0] == 1024
    assert record.refresh()
    assert record.thinned == [(1024, done[-1][1])]
    assert LAST - 1 - 5000 - 700 <= done[-1][1] <= LAST - 1 - 5000
    left = record.series("layers.0.weight", "gradient.rms").steps
    np.testing.assert_array_equal(left, np.r_[0:1024, done[-1][1] + 1 : LAST])
    after = record.heat_map("gradient.rms", 100)
    for name in ("mean", "min", "max"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name), rtol=1e-12)
    assert verify_run(path) == []
    assert size_of(path) < size_of(full)
    assert keep_within(path / "rank-0", 1, LAST - 1) == []


def test_it_stops_as_soon_as_the_folder_is_small_enough(full: Path, tmp_path: Path) -> None:
    path = tmp_path / "thin"
    shutil.copytree(full, path)
    bound = size_of(path / "rank-0") - 1000
    assert len(keep_within(path / "rank-0", bound, LAST - 1)) == 1
    assert size_of(path / "rank-0") <= bound


def test_a_thinned_range_shows_its_buckets_even_where_single_steps_were_asked(full: Path, tmp_path: Path) -> None:
    path = tmp_path / "thin"
    shutil.copytree(full, path)
    keep_within(path / "rank-0", 1, LAST - 1)
    heat = open_run(path).heat_map("gradient.rms", 100, 1500, 2000)
    inside, around = (open_run(full).series("layers.0.weight", "gradient.rms", *r).values for r in ((1500, 2000), (1472, 2048)))
    assert not np.isnan(heat.mean).any()
    assert np.nanmax(inside) <= np.nanmax(heat.max) <= np.nanmax(around)


def test_a_writer_with_a_limit_thins_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = create_run(tmp_path, "first", {})
    writer = RankWriter(path, segment_steps=1000, disk_limit_bytes=200_000)
    writer.write({"tensors": tensors(1)}, 0, 0)
    for first in range(0, LAST, 250):
        writer.write({"rows": rows(first, first + 250, 1)}, first, first + 249)
        if writer._keeper is not None and first > 8000:
            writer._keeper.wait(30)  # the training would not wait
    writer.finish(LAST)
    record = open_run(path)
    told = [(event.detail["first_step"], event.detail["last_step"]) for event in record.events() if event.kind == "thinned"]
    assert told
    assert told[0][0] == 1024
    assert record.thinned == [(1024, told[-1][1])]
    assert LAST - told[-1][1] >= limit.PROTECTED_LAST
    assert verify_run(path) == []


@pytest.mark.parametrize("moment", ["before the file is looked for", "while it is read"])
def test_a_unit_that_is_thinned_while_it_is_verified_is_not_damaged(
    full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    path = tmp_path / "thin"
    shutil.copytree(full, path)
    real, thinned = verify._blocks, []

    def thin_first(file: Path, entry: dict[str, Any]) -> list[verify.Damage]:
        if file.name == "rows.parquet" and not thinned:
            thinned.extend(keep_within(path / "rank-0", 1, LAST - 1))
            if moment == "while it is read" and not file.exists():
                file.stat()  # raises, as opening it does where it went just after it was looked for
        return real(file, entry)

    monkeypatch.setattr(verify, "_blocks", thin_first)
    assert verify_run(path) == []
    assert thinned


@pytest.mark.parametrize(("more", "niceness"), [(["later"], [10]), ([], [])], ids=["in time", "urgent"])
def test_thinning_gives_way_to_others_only_where_it_is_told_to(
    full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], niceness: list[int]
) -> None:
    asked: list[int] = []
    monkeypatch.setattr("os.nice", asked.append)
    monkeypatch.setattr(limit, "keep_within", lambda *_: asked.append(-1))
    limit.main([str(tmp_path), "1000", str(LAST), *more])
    assert asked == [*niceness, -1]


class Started:
    """In the place of a process: it does nothing, for as long as it is asked to."""

    def __init__(self, command: list[str], **_: Any) -> None:
        self.gives_way, self.is_over, self.returncode = "later" in command, False, 0

    def poll(self) -> int | None:
        return 0 if self.is_over else None

    def wait(self, seconds: float | None = None) -> int:
        if not self.is_over:
            raise subprocess.TimeoutExpired("", seconds or 0.0)
        return 0

    def kill(self) -> None:
        self.is_over = True


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Started]:
    """The processes that a keeper starts: none of them ever comes to anything."""
    made: list[Started] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **named: made.append(Started(*args, **named)) or made[-1])
    return made


STARVED = 13_000
FEW_BYTES = 6_000_000


def starved(path: Path, look: Callable[[RankWriter], None] = lambda writer: None) -> None:
    """A run of which nothing is ever thinned while it is written; without a limit it takes twice FEW_BYTES."""
    writer = RankWriter(path, disk_limit_bytes=FEW_BYTES)
    writer.write({"tensors": tensors(4)}, 0, 0)
    for first in range(0, STARVED, 250):
        writer.write({"rows": rows(first, first + 250, 4), "steps": steps(first, first + 250)}, first, first + 249)
        look(writer)
    writer.finish(STARVED, compact_seconds=0)


def test_a_folder_stays_within_its_limit_where_thinning_never_comes_to_anything(tmp_path: Path, started: list[Started]) -> None:
    path = create_run(tmp_path, "starved", {})
    sizes: list[int] = []
    starved(path, lambda writer: sizes.append(size_of(writer.folder)))
    assert max(sizes) <= FEW_BYTES * (1 + limit.SLACK)
    record = open_run(path)
    assert len(record.losses().values) == STARVED
    begins, gone = [event for event in record.events() if event.kind == "dropped"]
    assert begins.detail == {"first_step": gone.detail["first_step"]}
    left = record.series("layers.0.weight", "gradient.rms").steps
    first = gone.detail["first_step"]
    expected = np.r_[0:first, -(-first // limit.KEPT_EVERY) * limit.KEPT_EVERY : STARVED : limit.KEPT_EVERY]
    np.testing.assert_array_equal(left, expected)
    assert gone.detail["rows"] == 12 * (STARVED - len(left))
    assert verify_run(path) == []


def test_thinning_that_gives_way_is_begun_anew_at_usual_priority_where_it_comes_too_late(
    tmp_path: Path, started: list[Started]
) -> None:
    starved(create_run(tmp_path, "starved", {}))
    assert [one.gives_way for one in started] == [True, False]
    assert started[0].is_over


def test_single_steps_are_recorded_again_once_there_is_room(tmp_path: Path, started: list[Started]) -> None:
    path = create_run(tmp_path, "starved", {})

    def late(writer: RankWriter) -> None:
        if writer._last_step == 10_999:
            keep_within(writer.folder, FEW_BYTES // 2, writer._last_step)
            started[-1].is_over = True

    starved(path, late)
    record = open_run(path)
    begins, gone = [event for event in record.events() if event.kind == "dropped"]
    assert begins.detail == {"first_step": gone.detail["first_step"]}
    assert gone.detail["last_step"] == 10_999
    assert gone.step < 11_500  # told when there was room again, not at the end
    left = record.series("layers.0.weight", "gradient.rms").steps
    np.testing.assert_array_equal(left[left >= 11_000][:1000], np.arange(11_000, 12_000))
