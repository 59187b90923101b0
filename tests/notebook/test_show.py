"""Oracle: the endpoints of the server, and the run's own numbers. No browser here; tests/browser/test_notebook.py has one."""

from __future__ import annotations

import base64
import json
import os
import sys
import types
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import add_steps, client_of, make_run
from weighbridge.errors import NotARun
from weighbridge.notebook import feed, show
from weighbridge.notebook.show import NoNotebook
from weighbridge.server.api import Api
from weighbridge.server.page import PageNotBuilt
from weighbridge.server.runs import SomeRuns
from weighbridge.store.record import open_run


def opened(answer: str) -> Any:
    return json.loads(zlib.decompress(base64.b64decode(answer)))


def test_outside_a_notebook_it_says_what_to_use(folder: Path) -> None:
    with pytest.raises(NoNotebook, match=r"weighbridge ui.*weighbridge show first") as told:
        show.show(folder / "first")
    assert "this is none" in str(told.value)


def test_without_anywidget_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ipython = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(NoNotebook, match=r"pip install 'weighbridge\[notebook\]'"):
        show.show(folder / "first")


def test_a_page_that_was_built_without_it_is_told(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "_tools", lambda places: (None, None))
    monkeypatch.setattr(show, "WIDGET", tmp_path / "notebook.js")
    with pytest.raises(PageNotBuilt, match="Install it again"):
        show.show(folder / "first")


def test_a_run_is_named_by_object_folder_or_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    folder.rename(folder.parent / "weighbridge-runs")
    place = Path("weighbridge-runs/first")
    assert {show._place(open_run(place)), show._place(place), show._place(str(place)), show._place("first")} == {place}
    with pytest.raises(NotARun, match="Did you mean first"):
        show._place("frist")


def test_what_is_fed_is_what_the_server_answers(folder: Path, tmp_path: Path) -> None:
    api = Api(SomeRuns([folder / "first"]))
    lines = [line for line in feed.rounds(api, "mark") if line is not None]
    told: dict[str, str] = {}
    for line in lines:
        told |= line.get("answers", {})
    client = client_of(folder, tmp_path)
    for what in ("run", "tensors", "notes"):
        assert opened(told[f"{what}?run=first"]) == client.get(f"/api/{what}?run=first").json()
    assert {"loss?run=first", "heat?run=first&stat=gradient.rms", "statistics?", "rules?"} <= set(told)
    assert "still" in lines[-1]


def test_a_run_that_grows_is_fed_again_and_one_that_rests_is_not(tmp_path: Path) -> None:
    run = make_run(tmp_path, "growing", steps=10, finish=False)
    api = Api(SomeRuns([run]))
    one = feed._Feed(api, "growing")
    assert opened(one.news()["run?run=growing"])["steps"] == 10
    assert api.diagnoser.wait(30)
    one.news()  # what the rules said
    assert one.news() == {}
    add_steps(run, 10, 25)
    assert opened(one.news()["run?run=growing"])["steps"] == 25


def test_a_run_that_rests_gives_signs_of_life(tmp_path: Path) -> None:
    run = make_run(tmp_path, "resting", steps=10, finish=False)
    api, clock = Api(SomeRuns([run])), iter(range(0, 10_000, 2))  # a look every few seconds
    api.diagnoser.keep("resting", open_run(run))
    lines = feed.rounds(api, "mark", now=lambda: float(next(clock)))
    told = [next(lines) for _ in range(40)]
    assert told.count({"answers": {}}) > 2
    assert told.count(None) > 5


def test_a_message_holds_one_moment_and_stays_small(tmp_path: Path) -> None:
    run = make_run(tmp_path, "growing", steps=300, finish=False)
    answers = feed._Feed(Api(SomeRuns([run])), "growing").news()
    assert {"run?run=growing", "loss?run=growing", "heat?run=growing&stat=gradient.rms"} <= set(answers)
    assert sum(map(len, answers.values())) < 500_000  # a Jupyter server lets 1 MB a second through


def test_the_feeding_process_ends_with_the_kernel(tmp_path: Path) -> None:
    run = make_run(tmp_path, "growing", steps=10, finish=False)
    with show._start_feeder("mark", [run]) as started:
        assert started.stdout is not None
        assert "answers" in json.loads(started.stdout.readline())
        assert os.getsid(started.pid) != os.getsid(0)  # an interrupt of the kernel's group does not reach it
        assert started.stdin is not None
        started.stdin.close()
        assert started.wait(20) == 0


def test_a_run_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with show._start_feeder("mark", [tmp_path / "none"]) as started:
        assert started.stdout is not None
        assert "There is no run" in json.loads(list(started.stdout)[-1])["trouble"]


class Handle:
    """What IPython's display gives."""

    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []

    def update(self, bundle: dict[str, str], raw: bool) -> None:
        self.shown.append(bundle)


def test_the_end_puts_what_stays_into_the_place_of_the_widget(folder: Path) -> None:
    live = show._Live.__new__(show._Live)
    live.places, live.view, live.later = [folder / "first"], Handle(), Handle()
    live.widget = types.SimpleNamespace(answers={}, sent=[])
    live.widget.send = live.widget.sent.append
    for line in ({"answers": {"a": "1"}}, {"later": "<p>later"}, {"still": "<p>still"}):
        live._take(line)
    assert live.widget.answers == {"a": "1"}
    assert live.widget.sent == [{"weighbridge": {"a": "1"}}]
    assert live.view.shown[-1]["text/html"] == "<p>still"
    assert [one.get("text/html") for one in live.later.shown] == ["<p>later", None]


def test_an_error_in_a_notebook_is_a_sentence_and_no_traceback() -> None:
    shell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell()
    shown: list[list[str]] = []
    shell._showtraceback = lambda kind, value, lines: shown.append(lines)
    shell.run_cell("import weighbridge; weighbridge.show('nosuch')")
    assert len(shown[0]) == 1
    assert shown[0][0].startswith("NotARun: There is no run 'nosuch'")
