"""Oracle: the readers themselves, and what is asked of the disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.server.conftest import add_steps, client_of, make_run
from weighbridge.diagnosis.engine import diagnose
from weighbridge.diagnosis.kept import diagnosis_from_json, diagnosis_to_json
from weighbridge.server import catalogue as module
from weighbridge.server.app import create_app
from weighbridge.server.asking import RULES
from weighbridge.server.catalogue import Catalogue
from weighbridge.server.digest import keep_diagnosis, read_diagnosis
from weighbridge.server.runs import Runs
from weighbridge.store.checked import read_sealed, write_sealed
from weighbridge.store.labels import Labels, write_labels
from weighbridge.store.record import open_run


class Counted:
    """How often all of a run was read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        real = module.line_of
        monkeypatch.setattr(module, "line_of", lambda name, record: (self.names.append(name), real(name, record))[1])


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counted:
    monkeypatch.setattr(module, "LIVE_SECONDS", 0.0)
    return Counted(monkeypatch)


def many(folder: Path, number: int) -> None:
    """Copies of `second`, each with its own name and settings."""
    for i in range(number):
        copy = Path(shutil.copytree(folder / "second", folder / f"run-{i:04d}"))
        about = {key: value for key, value in read_sealed(copy / "run.json").items() if key != "check"}
        about |= {"name": copy.name, "started_ns": about["started_ns"] + i, "info": {"config": {"lr": i / 10, "layers": i % 7}}}
        write_sealed(copy / "run.json", about, replace=True)


def test_a_line_says_what_the_record_says(folder: Path) -> None:
    (entry,) = [one for one in Catalogue(Runs(folder)).look(60) if one.name == "first"]
    record = open_run(folder / "first")
    assert entry.line["last_loss"] == record.losses().values[-1]
    assert entry.line["settings"] == {"lr": 0.1}
    assert entry.line["metrics"] == {"accuracy": record.logged("accuracy").values[-1]}
    own, wall = record.own_cost()
    assert entry.line["own_cost"] == own / wall
    steps, losses = entry.line["loss"]
    assert steps == list(range(40))
    assert losses[3] == pytest.approx(1 / 4, rel=1e-3)


def test_a_run_that_has_ended_is_read_once(folder: Path, read: Counted) -> None:
    catalogue = Catalogue(Runs(folder))
    for _ in range(3):
        assert len(catalogue.look(60)) == 2
    assert sorted(read.names) == ["first", "second"]


def test_what_was_kept_serves_the_next_server_and_a_restart_of_the_training_does_not_go_unseen(
    folder: Path, read: Counted
) -> None:
    before = Catalogue(Runs(folder, keeps=True)).look(60)
    size = open_run(folder / "first").info.size_bytes
    after = Catalogue(Runs(folder, keeps=True)).look(60)
    assert len(read.names) == 2
    assert [one.line for one in before] == [one.line for one in after]
    assert after[0].line["size_bytes"] == size, "what a reader keeps is no part of the run's size"
    add_steps(folder / "first", 40, 50)
    (entry,) = [one for one in Catalogue(Runs(folder, keeps=True)).look(60) if one.name == "first"]
    assert entry.line["steps"] == 50
    assert entry.state == "live"


def test_a_damaged_digest_is_made_again(folder: Path, read: Counted) -> None:
    Catalogue(Runs(folder, keeps=True)).look(60)
    (folder / "first" / "digest.json").write_text("{}")
    assert all(one.line for one in Catalogue(Runs(folder, keeps=True)).look(60))
    assert sorted(read.names) == ["first", "first", "second"]


def test_without_leave_nothing_is_kept(folder: Path) -> None:
    Catalogue(Runs(folder)).look(60)
    assert not list(folder.rglob("digest.json"))


def test_a_live_run_is_read_again_at_each_look(folder: Path, read: Counted) -> None:
    make_run(folder, "growing", steps=5, finish=False)
    catalogue = Catalogue(Runs(folder, keeps=True))
    catalogue.look(60)
    add_steps(folder / "growing", 5, 9)
    (entry,) = [one for one in catalogue.look(60) if one.name == "growing"]
    assert entry.line["steps"] == 9
    assert not (folder / "growing" / "digest.json").exists()


def test_a_look_ends_in_time_and_the_next_goes_on_the_newest_first(folder: Path, read: Counted) -> None:
    many(folder, 30)
    catalogue = Catalogue(Runs(folder))
    assert len(catalogue.look(0.0)) == 32, "all are listed by their names"
    assert catalogue.unread == 32
    (entry,) = catalogue.of(["run-0007"])
    assert entry.line["settings"]["lr"] == 0.7, "what is seen is read at once"
    looks = 0
    while catalogue.unread:
        catalogue.look(0.01)
        looks += 1
    assert looks > 1
    assert len(read.names) == 32


def test_labels_and_deletion_are_seen_at_the_next_look(folder: Path) -> None:
    catalogue = Catalogue(Runs(folder))
    catalogue.look(60)
    write_labels(folder / "first", Labels(("good",), "note", True))
    shutil.rmtree(folder / "second")
    (entry,) = catalogue.look(60)
    assert entry.labels == Labels(("good",), "note", True)


def test_many_runs_are_listed_in_bounded_answers(folder: Path, tmp_path: Path) -> None:
    many(folder, 400)
    client = client_of(folder, tmp_path)
    listed: dict[str, Any] = {"counts": {"unread": 1}}
    while listed["counts"]["unread"]:
        listed = client.get("/api/runs?q=layers%3D3&sort=-lr&group=layers").json()
    assert listed["counts"] | {"live": 0} == {"all": 402, "fit": 57, "live": 0, "errors": 0, "archived": 0, "unread": 0}
    (group,) = listed["groups"]
    assert group["title"] == "3"
    assert group["names"][:2] == ["run-0395", "run-0388"]
    again = client.get(f"/api/runs?q=layers%3D3&sort=-lr&group=layers&have={listed['order']}")
    assert "groups" not in again.json()
    assert len(again.content) < 3_000
    asked = "&".join(f"run={name}" for name in [*group["names"], *[f"run-{i:04d}" for i in range(200)]])
    assert len(client.get(f"/api/rows?{asked}").json()) == 100, "no more rows than a screen needs"


def test_a_wrong_search_is_a_sentence_and_no_error(client: TestClient) -> None:
    told = client.get("/api/runs?q=lr%3Eabc").json()
    assert "comes a number" in told["wrong"]
    assert told["counts"]["all"] == 2


def test_what_was_said_of_a_run_comes_back_as_it_was(folder: Path) -> None:
    said = diagnose(folder / "first")
    again = diagnosis_from_json(diagnosis_to_json(said), said.subject)
    assert again.record() == said.record()
    assert again.causes == said.causes
    keep_diagnosis(folder / "first", "finished", 40, diagnosis_to_json(said))
    kept = read_diagnosis(folder / "first", "finished", 40)
    assert kept is not None
    assert diagnosis_from_json(kept, said.subject).record() == said.record()
    assert read_diagnosis(folder / "first", "finished", 41) is None


def test_what_other_rules_said_does_not_count(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_diagnosis(folder / "first", "finished", 40, diagnosis_to_json(diagnose(folder / "first")))
    monkeypatch.setattr("weighbridge.server.digest._sources", lambda: "others")
    assert read_diagnosis(folder / "first", "finished", 40) is None


def test_rows_are_diagnosed_behind_the_page_and_that_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(folder, keeps=True)
    asked = []
    real = module.health_of
    ask = RULES.ask
    monkeypatch.setattr(RULES, "ask", lambda run: (asked.append(1), ask(run))[1])
    assert real(None)["known"] is False
    for wanted in (2, 2):  # the second server asks nobody
        client, api = _client(runs)
        client.get("/api/runs")
        assert [row["name"] for row in client.get("/api/rows?run=first&run=second").json()] == ["first", "second"]
        assert api.diagnoser.wait(60)
        health = [row["health"] for row in client.get("/api/rows?run=first&run=second").json()]
        assert [one["whole"] for one in health] == [True, True]
        said = diagnose(folder / "first")
        assert sum(health[0]["counts"].values()) == len(said)
        assert len(asked) == wanted


def test_a_file_is_named_by_its_run_and_its_place_in_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    for root in (folder, Path(folder.name), folder / "first", Path(folder.name, "first")):
        for place in (folder, *([] if root.is_absolute() else [Path(folder.name)])):  # rules know absolute ones only
            told = Runs(root).told(OSError(f"cannot read '{place / 'first' / 'rank-0' / 'steps'}'"))
            assert told == "cannot read 'first/rank-0/steps'"


def test_a_muted_finding_is_counted_apart(folder: Path) -> None:
    """On the page of the run, in the list, and by another server: it stands beside the run."""
    said = diagnose(folder / "first").findings
    first, key = said[0], said[0].key
    own = {"origin": "http://localhost:8765", "sec-fetch-site": "same-origin"}
    for change, muted in (({"mute": {key: "known"}}, ["known"]), ({}, ["known"]), ({"unmute": [key]}, [])):
        client, api = _client(Runs(folder, keeps=True))  # another server each time
        client.get("/api/runs")
        client.get("/api/rows?run=first")
        client.get("/api/findings?run=first")
        assert api.diagnoser.wait(60)
        assert client.post("/api/act/label", json={"runs": ["first"], **change}, headers=own).status_code == 200
        told = client.get("/api/findings?run=first").json()
        assert [one["reason"] for one in told["muted"]] == muted
        assert all((one["rule"], one["place"]) == (first.rule, first.place) for one in told["muted"])
        assert len(told["findings"]) == len(said) - len(muted)
        client.get("/api/runs")
        (row,) = client.get("/api/rows?run=first").json()
        assert sum(row["health"]["counts"].values()) == len(said) - len(muted)
        assert row["health"]["muted"] == len(muted)


def _client(runs: Runs) -> tuple[TestClient, Any]:
    from weighbridge.server.api import Api

    made: list[Api] = []

    class Kept(Api):
        def __init__(self, *of: Any) -> None:
            super().__init__(*of)
            made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("weighbridge.server.app.Api", Kept)
        app = create_app(runs, asks_ahead=True)
    return TestClient(app, base_url="http://localhost:8765"), made[0]
