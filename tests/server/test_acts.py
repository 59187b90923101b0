"""Oracle: the folder itself, and the browser's security model."""

from __future__ import annotations

import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.server.conftest import PORT, client_of, make_run
from weighbridge.server.app import create_app
from weighbridge.server.peers import is_someone_else, user_of
from weighbridge.server.runs import Runs
from weighbridge.store import trash
from weighbridge.store.labels import Labels, read_labels, write_labels
from weighbridge.store.layout import create_run, run_names
from weighbridge.store.record import open_run
from weighbridge.store.verify import verify_run

OWN = {"origin": f"http://localhost:{PORT}", "sec-fetch-site": "same-origin"}


def act(client: TestClient, what: str, asked: dict[str, Any], **headers: str) -> Any:
    return client.post(f"/api/act/{what}", json=asked, headers=OWN | headers)


def test_labels_are_changed_and_stand_in_the_runs_folder(client: TestClient, folder: Path) -> None:
    assert act(client, "label", {"runs": ["first", "second"], "add": ["good", "old"], "note": "try again"}).status_code == 200
    assert act(client, "label", {"runs": ["first"], "remove": ["old"], "archived": True}).status_code == 200
    assert read_labels(folder / "first") == Labels(("good",), "try again", True)
    assert read_labels(folder / "second") == Labels(("good", "old"), "try again")
    assert verify_run(folder / "first") == []
    listed = client.get("/api/runs").json()
    assert (listed["groups"][0]["names"], listed["counts"]["archived"]) == (["second"], 1)
    (row,) = client.get("/api/rows?run=second").json()
    assert (row["tags"], row["note"]) == (["good", "old"], "try again")


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"runs": ["first"], "add": ["two words"]}, "is no tag"),
        ({"runs": ["first"], "add": "word"}, "another kind"),
        ({"runs": ["first"], "note": "x" * 5000}, "4,000 are the most"),
        ({"runs": ["first"], "mute": {"dead-units at 0": "x" * 500}}, "400 are the most"),
        ({"runs": ["first"], "mute": ["dead-units at 0"]}, "another kind"),
        ({"runs": ["third"], "add": ["x"]}, "There is no run"),
        ({"runs": ["../runs/first"], "add": ["x"]}, "There is no run"),
        ({"runs": []}, "Name the runs"),
    ],
)
def test_what_cannot_be_done_is_a_sentence_and_changes_nothing(
    client: TestClient, folder: Path, asked: dict[str, Any], says: str
) -> None:
    answer = act(client, "label", asked)
    assert 400 <= answer.status_code < 500
    assert says in answer.json()["error"]
    assert not list(folder.rglob("labels.json"))


@pytest.mark.parametrize("what", ["label", "delete", "undo"])
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": f"http://localhost:{PORT + 1}"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"host": "evil.example"},
        {"host": f"evil.example:{PORT}", "origin": f"http://evil.example:{PORT}"},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
    ],
)
def test_another_page_changes_nothing(client: TestClient, folder: Path, what: str, headers: dict[str, str]) -> None:
    answer = act(client, what, {"runs": ["first"], "add": ["evil"]}, **headers)
    assert 400 <= answer.status_code < 500
    assert run_names(folder) == ["first", "second"]
    assert not list(folder.rglob("labels.json"))


def test_without_origin_and_without_post_nothing_is_changed(client: TestClient, folder: Path) -> None:
    assert client.post("/api/act/delete", json={"runs": ["first"]}).status_code == 403
    assert client.get("/api/act/delete").status_code == 404
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert client.request(method, "/api/act/delete", headers=OWN).status_code == 405
    assert run_names(folder) == ["first", "second"]


def test_what_was_deleted_comes_back_byte_for_byte(client: TestClient, folder: Path) -> None:
    before = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    client.get("/api/run?run=first")  # it is open
    told = act(client, "delete", {"runs": ["first", "second"]}).json()
    assert run_names(folder) == []
    assert client.get("/api/runs").json()["counts"]["all"] == 0
    assert client.get("/api/run?run=first").status_code == 404
    assert act(client, "undo", {"undo": told["undo"]}).json()["runs"] == ["first", "second"]
    assert {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert client.get("/api/run?run=first").json()["last_step"] == 39
    assert not (folder / trash.TRASH).exists()


def test_a_name_that_is_taken_meanwhile_is_not_overwritten(folder: Path) -> None:
    token = trash.delete_runs(folder, ["first"])
    make_run(folder, "first", steps=2)
    assert trash.restore(folder, token) == ["first-2"]
    assert open_run(folder / "first").info.steps == 2
    assert open_run(folder / "first-2").info.steps == 40


def test_what_was_deleted_is_removed_later_by_whoever_comes_by(folder: Path) -> None:
    token = trash.delete_runs(folder, ["first"])
    (folder / trash.TRASH / "mine").mkdir()
    assert trash.sweep(folder) == 0, "it can still be had back"
    assert trash.sweep(folder, seconds=-1.0) == 1
    with pytest.raises(Exception, match="too late"):
        trash.restore(folder, token)
    assert [path.name for path in (folder / trash.TRASH).iterdir()] == ["mine"], "what is not ours stays"


def test_a_removal_that_was_cut_off_goes_on(folder: Path) -> None:
    gone = folder / trash.TRASH / "gone-1764158400000-00000000"
    shutil.copytree(folder / "first", gone / "first")
    assert trash.sweep(folder) == 1
    assert not (folder / trash.TRASH).exists()


@pytest.mark.parametrize("token", ["", "..", "../first", "1764158400000-zzzzzzzz", "gone-1764158400000-00000000"])
def test_only_a_deletion_is_undone(client: TestClient, folder: Path, token: str) -> None:
    assert act(client, "undo", {"undo": token}).status_code == 400
    assert run_names(folder) == ["first", "second"]


def test_a_live_run_is_never_deleted_nor_are_those_beside_it(
    client: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(folder, "live", steps=3, finish=False)
    monkeypatch.setattr(os, "rename", lambda *way: pytest.fail(f"moved {way}"))
    answer = act(client, "delete", {"runs": ["first", "live"]})
    assert answer.status_code == 400
    assert "live is live: end its training first" in answer.json()["error"]
    assert run_names(folder) == ["first", "live", "second"]


def test_a_run_that_comes_to_life_while_it_is_moved_is_moved_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = trash._refuse_live, []

    def look(run: Path) -> None:
        seen.append(run)
        if len(seen) == 2:
            raise trash.WeighbridgeError("first is live")
        real(run)

    monkeypatch.setattr(trash, "_refuse_live", look)
    with pytest.raises(trash.WeighbridgeError, match="is live"):
        trash.delete_runs(folder, ["first"])
    assert run_names(folder) == ["first", "second"]


def test_a_server_that_may_only_read_says_so(folder: Path, tmp_path: Path) -> None:
    client = TestClient(create_app(Runs(folder), locked="Only for reading."), base_url=f"http://localhost:{PORT}")
    assert client.get("/api/runs").json()["locked"] == "Only for reading."
    for what in ("label", "delete", "undo"):
        answer = act(client, what, {"runs": ["first"], "archived": True})
        assert (answer.status_code, answer.json()["error"]) == (403, "Only for reading.")
    assert run_names(folder) == ["first", "second"]


def test_a_folder_of_somebody_else_says_so(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    client = client_of(folder, tmp_path)
    assert "may only be read" in act(client, "delete", {"runs": ["first"]}).json()["error"]
    assert "may only be read" in client.get("/api/runs").json()["locked"]


def test_a_run_by_itself_is_not_deleted(folder: Path, tmp_path: Path) -> None:
    answer = act(client_of(folder / "first", tmp_path), "delete", {"runs": ["first"]})
    assert "one run by itself" in answer.json()["error"]
    assert (folder / "first" / "run.json").exists()


def test_the_kernel_says_whose_the_other_end_is(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as mine:
        scope = {"client": mine.getsockname(), "server": listener.getsockname()}
        assert user_of(mine.getsockname()[1], listener.getsockname()[1]) == os.getuid()
        assert not is_someone_else(scope)
        table = tmp_path / "tcp"
        here, there = (f"0100007F:{port[1]:04X}" for port in (mine.getsockname(), listener.getsockname()))
        line = f"   0: {here} {there} 01 00000000:00000000 00:00000000 00000000  {os.getuid() + 7}        0 1 1"
        table.write_text(f"  sl  local_address rem_address st ... uid\n{line}\n")
        assert is_someone_else(scope, [table])
        assert not is_someone_else(scope, [tmp_path / "none"]), "where nothing is known, nothing is refused"


def test_another_user_of_this_machine_changes_nothing(
    client: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weighbridge.server.acts.is_someone_else", lambda scope: True)
    assert "only the user who started" in act(client, "delete", {"runs": ["first"]}).json()["error"]
    assert run_names(folder) == ["first", "second"]


def test_tags_of_init_hold_until_the_file_is_there(tmp_path: Path) -> None:
    run = create_run(tmp_path, "named", {"tags": ["base line", "x:y", "good"]})
    assert read_labels(run).tags == ("base-line", "good")
    write_labels(run, read_labels(run).changed(["new"], ["good"]))
    assert read_labels(run).tags == ("base-line", "new")


def test_the_removal_comes_by_itself(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weighbridge.server.acts.UNDO_SECONDS", 0.1)
    monkeypatch.setattr("weighbridge.server.acts.GRACE_SECONDS", 0.0)
    monkeypatch.setattr("weighbridge.server.acts.sweep", lambda root: trash.sweep(root, 0.1))
    act(client_of(folder, tmp_path), "delete", {"runs": ["first"]})
    for _ in range(2400):
        if not (folder / trash.TRASH).exists():
            return
        time.sleep(0.05)
    pytest.fail("it is still there")
