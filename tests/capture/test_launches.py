"""Which run a rank joins when several launches share address, port and folder. Oracle: who made which run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from tests.capture.test_placements import one_of
from weighbridge.capture import ranks
from weighbridge.store.layout import create_run
from weighbridge.store.writer import RankWriter

BY_HAND = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "12355", "WORLD_SIZE": "2"}  # as tutorials write it; no launcher's words
RANK_0 = """
import sys
from pathlib import Path
from weighbridge.capture.ranks import open_place
open_place(Path(sys.argv[1]), "old", {})
"""


@pytest.fixture
def as_rank_1(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**BY_HAND, "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ranks, "_WAIT_SECONDS", 0.2)


@pytest.mark.usefixtures("as_rank_1")
def test_a_rank_does_not_join_the_run_of_an_earlier_launch(tmp_path: Path) -> None:
    environment = {**os.environ, "RANK": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", RANK_0, str(tmp_path)], check=True, env=environment, timeout=120)
    assert (tmp_path / "old" / "run.json").exists()
    place = ranks.open_place(tmp_path, None, {})
    assert place.path == tmp_path / "run-rank-1"
    assert "found no run of rank 0" in place.note
    own = create_run(tmp_path, "new", {"launch": ranks.launch_key()})
    assert ranks.open_place(tmp_path, None, {}).path == own


@pytest.mark.usefixtures("as_rank_1")
def test_of_several_runs_of_one_launch_a_rank_writes_into_one_after_the_other(tmp_path: Path) -> None:
    made = [create_run(tmp_path, name, {"launch": ranks.launch_key()}) for name in ("z-first", "a-second")]
    for run in made:
        place = ranks.open_place(tmp_path, None, {})
        assert (place.path, place.rank, place.is_alone) == (run, 1, False)
        RankWriter(run, 1).finish(0)


def in_environment(patch: pytest.MonkeyPatch, **words: str) -> None:
    """Of all words that a launcher may set, these alone."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", *ranks._LAUNCH):
        patch.delenv(name, raising=False)
    for name, value in words.items():
        patch.setenv(name, value)


def test_rank_and_world_are_the_launcher_s_or_those_of_the_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    in_environment(monkeypatch, RANK="1", WORLD_SIZE="4")
    assert ranks.rank_and_world() == (1, 4)
    for alone in ({"RANK": "1"}, {"WORLD_SIZE": "4"}, {}):  # half of it says nothing
        in_environment(monkeypatch, **alone)
        assert ranks.rank_and_world() == (0, 1)
    with one_of(3, 2):
        assert ranks.rank_and_world() == (2, 3)
    monkeypatch.setattr(dist, "is_available", lambda: False)  # a torch built without it has no such function
    monkeypatch.delattr(dist, "is_initialized")
    assert ranks.rank_and_world() == (0, 1)


def test_launches_on_one_machine_are_told_apart_by_their_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    in_environment(monkeypatch, WORLD_SIZE="4", LOCAL_WORLD_SIZE="2", MASTER_ADDR="here", TORCHELASTIC_RUN_ID="mine")
    assert ranks.launch_key() == "mine/here//"  # of two machines each has a launcher of its own
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert ranks.launch_key() == f"mine/here///{os.getppid()}"
    in_environment(monkeypatch)
    assert ranks.launch_key() == "///"


def test_a_launcher_s_name_is_that_of_several_processes_and_no_placeholder(monkeypatch: pytest.MonkeyPatch) -> None:
    for world, words, name in ((2, "mine", "mine"), (2, "none", None), (1, "mine", None)):
        in_environment(monkeypatch, RANK="0", WORLD_SIZE=str(world), TORCHELASTIC_RUN_ID=words)
        assert ranks.name_of_launch() == name
    in_environment(monkeypatch, RANK="0", WORLD_SIZE="2")
    assert ranks.name_of_launch() is None
