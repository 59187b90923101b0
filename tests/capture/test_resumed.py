"""Which run an attempt goes on in, and which it leaves alone. Oracle: who made which file, as the test itself arranged it."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from weighbridge.capture import ranks
from weighbridge.capture.ranks import Place, open_place
from weighbridge.capture.resume import (
    CannotResume,
    Resumed,
    Seen,
    changes,
    check_resume,
    joined,
    resumed_of,
    run_to_resume,
)
from weighbridge.errors import BadInput
from weighbridge.store import layout, writer
from weighbridge.store.layout import RUN_FILE, create_run, this_process
from weighbridge.store.writer import RankWriter

LAUNCH = "of this test"


@pytest.fixture(scope="module")
def ended() -> int:
    """The id of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


@contextmanager
def written_by(pid: int, **more: Any) -> Iterator[None]:
    """What is made in here was made by that process."""
    process = dataclasses.replace(this_process(), pid=pid, **more)
    with pytest.MonkeyPatch.context() as patch:
        for module in (layout, writer):
            patch.setattr(module, "this_process", lambda: process)
        yield


def finished(run: Path, attempt: int = 0, rank: int = 0, steps: int = 0, **claim: Any) -> None:
    RankWriter(run, rank, attempt, claim=claim).finish(steps)


def test_a_run_is_found_by_its_name_by_its_path_or_by_the_last_words_of_its_name(tmp_path: Path) -> None:
    other = create_run(tmp_path / "elsewhere", "20261126-first", {})
    with pytest.raises(CannotResume, match=r"there is no run 'first' in .* yet$"):
        run_to_resume(tmp_path, "first")
    assert run_to_resume(tmp_path, str(other)) == other
    (tmp_path / "first").mkdir()  # a folder that is no run
    long = create_run(tmp_path, "20261126-first", {})
    assert run_to_resume(tmp_path, "first") == long
    create_run(tmp_path, "20261127-first", {})
    with pytest.raises(CannotResume, match="; several end so: 20261126-first, 20261127-first"):
        run_to_resume(tmp_path, "first")
    exact = create_run(tmp_path, "first-one", {})
    assert run_to_resume(tmp_path, "first-one") == exact


def test_whatever_names_the_run_is_a_name() -> None:
    check_resume(False, None, False)
    check_resume(True, "first", False)
    check_resume(0, None, True)  # the launcher has named it
    with pytest.raises(BadInput, match="which run shall go on"):
        check_resume(0, None, False)


def test_a_run_without_an_attempt_is_its_maker_s_as_long_as_that_lives(tmp_path: Path, ended: int) -> None:
    with pytest.raises(CannotResume, match=r"is being written by process \d+"):
        resumed_of(create_run(tmp_path, "alive", {}), 1, True)
    with written_by(ended):
        gone = create_run(tmp_path, "gone", {})
    assert resumed_of(gone, 1, True) == Resumed(0, 0, 0)


def test_a_run_whose_last_attempt_is_under_way_is_left_alone_though_one_before_has_finished(tmp_path: Path) -> None:
    run = create_run(tmp_path, "first", {})
    finished(run, 0, steps=7)
    assert resumed_of(run, 1, True) == Resumed(1, 7, 7)
    assert resumed_of(run, 1, 3) == Resumed(1, 3, 7)
    assert resumed_of(run, 1, 0) == Resumed(1, 0, 7)
    RankWriter(run, 0, 1)
    with pytest.raises(CannotResume, match="a run has one writer"):
        resumed_of(run, 1, True)


def test_a_run_that_has_finished_goes_on_though_its_attempt_s_file_is_lost(tmp_path: Path, ended: int) -> None:
    with written_by(ended):
        run = create_run(tmp_path, "first", {})
        finished(run, 0, steps=7)
    layout.attempt_file(layout.rank_folder(run, 0), 0).unlink()
    assert resumed_of(run, 1, True).steps == 7


def test_a_run_of_more_processes_than_it_says_is_left_alone(tmp_path: Path) -> None:
    run = create_run(tmp_path, "first", {})
    finished(run)
    finished(run, rank=2)
    with pytest.raises(CannotResume, match="is of 3 processes, and now there are 1"):
        resumed_of(run, 1, True)
    assert resumed_of(run, 3, True).attempt == 1


@pytest.mark.parametrize("host", [{}, {"host": "another machine"}], ids=["here", "elsewhere"])
def test_a_rank_joins_what_rank_0_of_its_launch_has_begun_and_nothing_else(
    tmp_path: Path, ended: int, host: dict[str, str]
) -> None:
    run = create_run(tmp_path, "first", {"world_size": 2})
    assert joined(run, 1, LAUNCH) is None
    finished(run, 0, launch="another", first_step=0)
    with written_by(ended):
        RankWriter(run, 0, 1, claim={"launch": LAUNCH, "first_step": 4})
    assert joined(run, 1, LAUNCH) is None  # of a launch of the same words whose rank 0 is dead
    with written_by(ended if host else os.getpid(), **host):
        RankWriter(run, 0, 2, claim={"launch": LAUNCH, "first_step": 5})
    assert joined(run, 1, LAUNCH) == Resumed(2, 5, 0)
    RankWriter(run, 1, 2)
    assert joined(run, 1, LAUNCH) is None  # it is in it already


def test_a_process_alone_goes_on_only_where_it_is_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "rank_and_world", lambda: (0, 1))
    first = open_place(tmp_path, "first", {})
    assert first == Place(tmp_path / "first", 0)
    finished(first.path, steps=3)
    again = open_place(tmp_path, "first", {}, resume=True)
    assert (again.path, again.attempt, again.start, again.is_alone) == (first.path, 1, 3, True)
    assert open_place(tmp_path, "first", {}) == Place(tmp_path / "first-2", 0)


@pytest.mark.parametrize(("name", "called"), [(None, "run"), ("first", "first")])
def test_where_no_folder_can_be_made_it_is_told_and_nothing_is_raised(tmp_path: Path, name: str | None, called: str) -> None:
    (tmp_path / "file").write_text("")
    place = open_place(tmp_path / "file", name, {})
    assert place.path == tmp_path / "file" / called
    assert place.error.startswith("nothing is recorded: ")


@pytest.fixture
def as_rank(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """This process as that rank of two."""
    monkeypatch.setattr(ranks, "_WAIT_SECONDS", 0.1)
    monkeypatch.setattr(ranks, "launch_key", lambda: LAUNCH)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    return lambda rank: monkeypatch.setenv("RANK", str(rank))


def test_all_ranks_of_a_launch_go_on_in_one_run_or_begin_one(
    tmp_path: Path, as_rank: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_rank(0)
    first = open_place(tmp_path, "first", {}, resume=4)
    assert (first.path.name, first.attempt, first.start, first.is_alone, first.error) == ("first", 0, 4, False, "")
    assert "there is no run 'first'" in first.note
    as_rank(1)
    assert open_place(tmp_path, "first", {}, resume=4) == Place(first.path, 1, is_alone=False, start=4)
    for rank in (0, 1):
        finished(first.path, rank=rank, steps=9, launch="an earlier one", first_step=4)

    as_rank(0)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "first")
    again = open_place(tmp_path, None, {}, resume=6)  # the launcher has named it
    assert (again.path, again.attempt, again.start, again.is_alone, again.launch) == (first.path, 1, 6, False, LAUNCH)
    assert again.note.endswith("at step 6, as attempt 1; steps 6 to 8 are trained again")
    assert open_place(tmp_path, "first", {}, resume=12).note.endswith("; steps 9 to 11 are not recorded")
    assert open_place(tmp_path, "first", {}, resume=True).note.endswith("at step 9, as attempt 1")
    RankWriter(first.path, 0, 1, claim={"launch": again.launch, "first_step": 6})
    as_rank(1)
    other = open_place(tmp_path, "first", {}, resume=6)
    assert (other.path, other.rank, other.attempt, other.start, other.is_alone) == (first.path, 1, 1, 6, False)
    assert other.resumed == Resumed(1, 6, 9)


def test_a_rank_that_finds_nobody_opens_a_run_that_no_other_joins(tmp_path: Path, as_rank: Callable[[int], None]) -> None:
    as_rank(1)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / RUN_FILE).write_text("{")  # just being made
    create_run(tmp_path, "plain", {"launch": None})
    run = create_run(tmp_path, "first", {"world_size": 2})
    for rank in (0, 1):
        finished(run, rank=rank)  # only rank 0 goes on in it
    for resume, name in ((False, "run-rank-1"), (True, "first-rank-1")):
        place = open_place(tmp_path, "first" if resume else None, {}, resume=resume)
        assert (place.path.name, place.is_alone, place.start) == (name, True, 0)
        assert "rank 1 found no run of rank 0" in place.note
    assert open_place(tmp_path, None, {}).path.name == "run-rank-1-2"


def test_how_a_model_differs_from_the_one_before_is_told_in_at_most_eight_parts() -> None:
    before = (Seen(0, "model", "a", "weight", (4, 2)), Seen(1, "model", "b", "bias", (4,)))
    assert changes(before, {"a": (4, 2), "b": (4,)}) == ""
    assert changes(before, {"b": (4,), "a": None}) == ""  # in another order; a lazy layer may become what it was
    assert changes((), {}) == ""
    told = changes(before, {f"new{n}": (1,) for n in range(8)})
    assert told.endswith("new7 is new; and 2 more")
    assert told.count(";") == 8
    assert "more" not in changes((), {f"new{n}": (1,) for n in range(8)})
