"""The twin of a run that is kept. Oracle: the losses that it had while the page played, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from weighbridge.store.record import list_runs, open_run
from weighbridge.teaching import again
from weighbridge.teaching.player import Player
from weighbridge.teaching.training import Loop, one_thread


@pytest.fixture(autouse=True)
def one_core() -> Iterator[None]:
    with one_thread():
        yield


@pytest.mark.parametrize("link", ["data=moons&layers=3&batch=16&twin=act:relu", "lr=9&twin=lr:0.3", "norm=batch&twin=bias:001"])
def test_a_twin_is_recorded_as_it_was_played_sliders_and_all(tmp_path: Path, link: str) -> None:
    player = Player(link, tmp_path / "scratch")
    for step in range(30):
        if step == 11:
            player.set("batch", 7)
        if step == 17:
            player.set("lr", 0.11)
        player.step()
    name = player.keep(tmp_path / "runs")
    assert player.kept_twin is not None
    assert sorted(info.name for info in list_runs(tmp_path / "runs")) == sorted([name, player.kept_twin.name])
    for path, loop in zip((tmp_path / "runs" / name, player.kept_twin), player.loops, strict=True):
        assert open_run(path).losses().values.tolist() == loop.training.step_losses
    assert player.kept_twin.name.startswith(f"{name}-twin-")


def test_what_does_not_come_out_the_same_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    player = Player("data=moons&layers=3&twin=act:relu", tmp_path / "scratch")
    for _ in range(5):
        player.step()
    player.loops[1].training.step_losses[3] += 1e-9
    name = player.keep(tmp_path / "runs")
    assert player.kept_twin is None
    assert [info.name for info in list_runs(tmp_path / "runs")] == [name]
    assert not [*(tmp_path / "scratch").glob("*twin*")]


def test_without_a_twin_none_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    player = Player("data=moons&layers=3&twin=off", tmp_path / "scratch")
    player.step()
    monkeypatch.setattr(again, "Loop", lambda *_: pytest.fail("something was trained"))
    player.keep(tmp_path / "runs")
    assert player.kept_twin is None
    assert Loop is not again.Loop
