"""Oracle: what its own protocol promises. The worker is fed lines by hand, in this process; its player is the real one."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from weighbridge.teaching import player as player_module
from weighbridge.teaching import worker as worker_module
from weighbridge.teaching.training import one_thread
from weighbridge.teaching.worker import Worker, read_commands

SMALL = "data=tutorial&layers=2&lr=0.001&twin=off"


@pytest.fixture(autouse=True)
def one_core() -> Iterator[None]:
    with one_thread():
        yield


def told(tmp_path: Path, *commands: dict[str, Any], keep: Path | None = None) -> list[dict[str, Any]]:
    """All that a worker says to these commands. It plays until it pauses by itself, before the next one is given.

    The rules answer where they are asked, not on their own thread: it may still think when the input ends.
    """
    out = io.StringIO()
    worker = Worker(tmp_path / "scratch", keep, out)
    worker._rules.ask = lambda player: worker._findings(player, player.diagnose())  # type: ignore[method-assign]
    asked = worker._next
    waiting = [{"do": "open", "link": SMALL, "id": 1}, *commands, None]

    def fed() -> dict[str, Any] | None:
        return waiting.pop(0) if not worker.is_playing and worker.commands.empty() else asked()

    worker._next = fed  # type: ignore[method-assign]
    worker.work()
    return [json.loads(line) for line in out.getvalue().splitlines()]


def last(events: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return [event for event in events if event["event"] == name][-1]


def test_it_plays_to_the_step_that_it_is_told_and_not_beyond(tmp_path: Path) -> None:
    events = told(tmp_path, {"do": "play", "until": 37}, {"do": "play", "until": 20})
    assert last(events, "frame")["step"] == 37
    assert not last(events, "frame")["playing"]


def test_a_training_has_its_steps_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(player_module, "MOST_STEPS", 15)
    events = told(tmp_path, {"do": "play"}, {"do": "step"})
    frame = last(events, "frame")
    assert (frame["step"], frame["playing"]) == (15, False)
    assert "15 steps are as far as this page goes" in frame["ended"]


def test_it_stops_soon_after_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    events = told(tmp_path, {"do": "open", "link": "data=tutorial&layers=4&act=none&lr=9", "id": 2}, {"do": "play"})
    frame = last(events, "frame")
    assert frame["step"] < 60
    assert frame["ended"].startswith("Stopped: the loss is not finite since step")
    assert frame["net"]["loss"] in ("NaN", "inf", "Infinity")
    assert "nonfinite-origin" in json.dumps(last(events, "findings"))


def test_play_without_a_touch_pauses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "UNTOUCHED_SECONDS", 0.2)
    frame = last(told(tmp_path, {"do": "play"}), "frame")
    assert not frame["playing"]
    assert "without a touch" in frame["why"]


def test_a_pace_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = told(tmp_path, {"do": "pace", "value": 20}, {"do": "play", "until": 6})
    steps = [event["step"] for event in events if event["event"] == "frame"]
    assert max(b - a for a, b in itertools.pairwise(steps)) == 2  # 20 a second, ten frames a second


def test_a_page_over_one_run_cannot_keep_and_says_why(tmp_path: Path) -> None:
    events = told(tmp_path, {"do": "step"}, {"do": "keep"})
    assert "shows a single run" in last(events, "refused")["error"]


def test_what_was_kept_is_closed(tmp_path: Path) -> None:
    events = told(tmp_path, {"do": "step"}, {"do": "keep"}, {"do": "step"}, {"do": "keep"}, keep=tmp_path / "runs")
    assert [event["run"] for event in events if event["event"] == "kept"] == ["tutorial-2-2-1-seed-5"] * 2
    assert last(events, "frame")["step"] == 1
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["tutorial-2-2-1-seed-5"]


def test_a_link_that_cannot_be_trained_leaves_the_last_training_as_it_is(tmp_path: Path) -> None:
    events = told(tmp_path, {"do": "step"}, {"do": "open", "link": "data=none", "id": 2}, {"do": "step"})
    assert "there is no such data set" in last(events, "refused")["error"]
    assert (last(events, "frame")["step"], last(events, "frame")["id"]) == (2, 2)


@pytest.mark.parametrize(
    "command", [{"do": "dance"}, {}, {"do": "set", "word": "lr", "value": "NaN"}, {"do": "set"}, {"do": "pace", "value": []}]
)
def test_what_it_cannot_do_is_said_and_it_goes_on(command: dict[str, Any], tmp_path: Path) -> None:
    events = told(tmp_path, {"do": "step"}, command or {"do": None}, {"do": "step"})
    assert last(events, "refused")["error"]
    assert last(events, "frame")["step"] == 2


def test_lines_that_are_no_commands_are_passed_over(tmp_path: Path) -> None:
    worker = Worker(tmp_path, None, io.StringIO())
    read_commands(worker, iter(["nonsense\n", "[1]\n", '{"do": "play"}\n']))
    assert worker.commands.get_nowait() == {"do": "play"}
    assert worker.commands.get_nowait() is None  # its input has ended
