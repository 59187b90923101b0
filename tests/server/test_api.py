"""Oracle: RunRecord itself. What travels to the page is what the reader reads, to the last bit."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.to_thread
import numpy as np
import pyarrow as pa
import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from tests.server.conftest import PAGE, add_steps, arrow, client_of, make_run
from tests.store import made_rows
from weighbridge.catalog import all_names
from weighbridge.records import OF_OUTPUTS
from weighbridge.server import answers, arrays, runs
from weighbridge.server.runs import Runs
from weighbridge.store.layout import create_run
from weighbridge.store.record import RunRecord, open_run
from weighbridge.store.writer import RankWriter


def names_of(listed: dict[str, Any]) -> list[str]:
    return sorted(name for group in listed["groups"] for name in group["names"])


SERIES = "/api/series?run=first&tensor=layers.0.weight&tensor=layers.0.bias&stat=parameter.rms&stat=gradient.min"


def test_the_list_holds_every_run_with_its_facts(client: TestClient, folder: Path) -> None:
    listed = client.get("/api/runs").json()
    assert listed["folder"] == str(folder)
    assert names_of(listed) == ["first", "second"]
    (first,), info = client.get("/api/rows?run=first").json(), open_run(folder / "first").info
    assert (first["steps"], first["tensors"], first["size_bytes"]) == (info.steps, info.tensors, info.size_bytes)
    assert (first["state"], first["last_loss"]) == ("finished", 1 / 40)


def test_a_folder_that_is_itself_a_run_is_a_list_of_one(folder: Path, tmp_path: Path) -> None:
    client = client_of(folder / "first", tmp_path)
    assert names_of(client.get("/api/runs").json()) == ["first"]
    assert client.get("/api/run?run=first").json()["last_step"] == 39


def test_an_empty_folder_is_an_empty_list(tmp_path: Path) -> None:
    assert names_of(client_of(tmp_path, tmp_path / "x").get("/api/runs").json()) == []


def test_arrow_columns_equal_what_the_record_reads(client: TestClient, folder: Path) -> None:
    table = arrow(client.get(SERIES).content)
    assert table.schema == arrays.SCHEMA
    record = open_run(folder / "first")
    wanted = [(t, s) for t in ("layers.0.weight", "layers.0.bias") for s in ("parameter.rms", "gradient.min")]
    for place, (tensor, statistic) in enumerate(wanted):
        mine = table.filter(pa.compute.equal(table["series"], place))
        truth = record.series(tensor, statistic)
        assert np.array_equal(mine["step_first"].to_numpy(), truth.steps)
        for column in ("mean", "min", "max"):
            assert np.array_equal(mine[column].to_numpy(), truth.values, equal_nan=True), (tensor, statistic, column)


def test_fewer_buckets_keep_the_extremes(client: TestClient, folder: Path) -> None:
    table = arrow(client.get("/api/series?run=first&tensor=layers.0.weight&stat=parameter.rms&buckets=4").content)
    truth = open_run(folder / "first").series("layers.0.weight", "parameter.rms").values
    assert table.num_rows == 4
    assert max(table["max"].to_pylist()) == truth.max()
    assert min(table["min"].to_pylist()) == truth.min()


def test_steps_with_non_finite_elements_are_told(client: TestClient) -> None:
    table = arrow(client.get("/api/series?run=first&tensor=layers.0.weight&stat=gradient.rms").content)
    assert [step for step, bad in zip(table["step_first"].to_pylist(), table["bad"].to_pylist(), strict=True) if bad] == [13]


def test_a_window_holds_its_steps_only(client: TestClient) -> None:
    for what in ("series?run=first&tensor=layers.0.bias&stat=update.rms", "loss?run=first", "logged?run=first&key=accuracy"):
        table = arrow(client.get(f"/api/{what}&start=10&stop=13").content)
        assert table["step_first"].to_pylist() == [10, 11, 12], what


def test_loss_and_metric_are_the_recorded_numbers(client: TestClient) -> None:
    loss = arrow(client.get("/api/loss?run=first").content)
    assert loss["mean"].to_pylist() == [1 / (step + 1) for step in range(40)]
    assert arrow(client.get("/api/logged?run=first&key=accuracy").content)["mean"].to_pylist() == [s / 100 for s in range(40)]


def test_a_loss_that_is_nan_is_shown_as_nan(tmp_path: Path) -> None:
    run = create_run(tmp_path / "runs", "bad", {})
    steps = made_rows.steps(0, 6).to_pylist()
    for row in steps[3:]:
        row["loss"] = float("nan")
    RankWriter(run).write({"steps": pa.RecordBatch.from_pylist(steps, made_rows.STEPS)}, 0, 5)
    client = client_of(tmp_path / "runs", tmp_path)
    table = arrow(client.get("/api/loss?run=bad").content)
    assert table["bad"].to_pylist() == [0, 0, 0, 1, 1, 1]
    assert client.get("/api/run?run=bad").json()["last_loss"] == "NaN"


def test_in_buckets_never_hides_a_spike() -> None:
    values = np.ones(1000)
    values[[7, 500]] = [9.0, np.inf]
    part = arrays.in_buckets(np.arange(1000), values, 10)
    assert len(part.mean) == 10
    assert (part.max.max(), part.bad.sum(), part.step_last[-1]) == (9.0, 1.0, 999)
    assert np.isfinite(part.mean).all()


def test_the_catalogue_comes_with_what_a_tooltip_says(client: TestClient) -> None:
    told = client.get("/api/statistics").json()
    assert [entry["name"] for entry in told] == [*all_names(), *all_names(OF_OUTPUTS)]
    for entry in told:
        assert entry["plain"].endswith(".")
        assert entry["formula"]
        assert entry["scale"] in ("linear", "log", "signed", "count")


def test_tensors_are_told_with_role_and_shape(client: TestClient) -> None:
    told = client.get("/api/tensors?run=first").json()
    assert [(t["name"], t["role"], t["shape"]) for t in told][:2] == [
        ("layers.0.weight", "weight", [2, 2]),
        ("layers.0.bias", "bias", [2]),
    ]


@pytest.mark.parametrize(
    ("address", "status", "says"),
    [
        ("/api/run?run=frist", 404, "Did you mean first?"),
        ("/api/run?run=../runs/first", 404, "There is no run"),
        ("/api/run?run=%2Fetc", 404, "There is no run"),
        ("/api/run?run=first%00", 404, "There is no run"),
        ("/api/run", 400, "names no run"),
        ("/api/series?run=first", 400, "at least one tensor="),
        ("/api/series?run=first&tensor=layers.0.wieght&stat=gradient.rms", 404, "Did you mean layers.0.weight"),
        ("/api/series?run=first&tensor=layers.0.weight&stat=gradient.rsm", 400, "gradient.rms"),
        ("/api/loss?run=first&start=soon", 400, "no whole number"),
        ("/api/loss?run=first&start=99999999999999999999", 400, "out of range"),
        ("/api/logged?run=first&key=accurcy", 404, "Did you mean accuracy?"),
        ("/api/nothing", 404, "nothing at /api/nothing"),
    ],
)
def test_what_cannot_be_answered_is_a_sentence_with_a_status(client: TestClient, address: str, status: int, says: str) -> None:
    answer = client.get(address)
    assert answer.status_code == status
    assert says in answer.json()["error"]


def test_too_many_series_at_once_are_refused(client: TestClient) -> None:
    wanted = "&".join(f"tensor=t{i}" for i in range(65))
    assert client.get(f"/api/series?run=first&stat=gradient.rms&{wanted}").status_code == 400


def test_a_run_that_cannot_be_read_does_not_hide_the_others(client: TestClient, folder: Path) -> None:
    text = (folder / "second" / "run.json").read_bytes()
    (folder / "second" / "run.json").write_bytes(text.replace(b"second", b"secone"))
    assert len(names_of(client.get("/api/runs").json())) == 2
    listed = client.get("/api/rows?run=first&run=second").json()
    assert [run["state"] for run in listed] == ["finished", "unreadable"]
    assert listed[1]["error"]
    assert client.get("/api/run?run=second").status_code == 422


def test_growth_is_seen_without_opening_again(client: TestClient, folder: Path) -> None:
    run = make_run(folder, "growing", steps=5, finish=False)
    assert client.get("/api/run?run=growing").json()["last_step"] == 4
    writer = RankWriter(run, attempt=1)
    writer.write({"rows": made_rows.rows(5, 9, attempt=1), "steps": made_rows.steps(5, 9, attempt=1)}, 5, 8)
    assert client.get("/api/run?run=growing").json()["last_step"] == 8


def test_only_a_few_runs_are_kept_open(folder: Path) -> None:
    for number in range(runs.OPEN_AT_MOST + 4):
        shutil.copytree(folder / "second", folder / f"copy-{number}")
    open_runs = runs.Runs(folder)
    for name in open_runs.names():
        with open_runs.use(name) as record:
            assert record.info.steps > 0
    assert len(open_runs._open) == runs.OPEN_AT_MOST


def test_reading_writes_nothing(client: TestClient, folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for path in folder.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    for address in (
        "/api/runs",
        "/api/rows?run=first",
        "/api/run?run=first",
        "/api/tensors?run=first",
        SERIES,
        "/api/loss?run=first",
    ):
        assert client.get(address).status_code == 200
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    for path in folder.rglob("*"):
        path.chmod(0o755)


def test_markup_in_names_travels_as_text(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    run = create_run(tmp_path / "runs", "plain", {})
    row = {**made_rows.tensors(1).to_pylist()[0], "name": evil, "aliases": []}
    tables = {"tensors": pa.RecordBatch.from_pylist([row], made_rows.TENSORS), "rows": made_rows.rows(0, 3, tensors=1)}
    RankWriter(run).write(tables, 0, 2)
    client = client_of(tmp_path / "runs", tmp_path)
    answer = client.get("/api/tensors?run=plain")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()[0]["name"] == evil
    answer = client.get("/api/series", params={"run": "plain", "tensor": evil, "stat": "parameter.rms"})
    assert arrow(answer.content).num_rows == 3
    refused = client.get("/api/run", params={"run": evil})
    assert refused.headers["content-type"] == "application/json"


def test_the_page_answers_for_every_address_of_its_own(client: TestClient) -> None:
    for address in ("/", "/run/first", "/run/a%2Fb?stat=gradient.rms", "/anything"):
        answer = client.get(address)
        assert (answer.status_code, answer.text) == (200, PAGE)
    assert client.get("/assets/page-abc.js").headers["cache-control"].endswith("immutable")
    assert client.get("/assets/gone.js").status_code == 404


@pytest.mark.parametrize("path", ["/..%2f..%2fetc/passwd", "/assets/..%2f..%2fsecret", "/%2e%2e/secret", "/a%00b"])
def test_no_file_outside_the_page_is_served(client: TestClient, path: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the content")
    assert "the content" not in client.get(path).text
    assert "root:" not in client.get(path).text


def test_json_holds_numbers_that_json_has_no_word_for() -> None:
    from weighbridge.diagnosis.kept import jsonable

    told = [jsonable(value) for value in (1.5, None, float("nan"), float("inf"), float("-inf"))]
    assert json.loads(json.dumps(told, allow_nan=False)) == [1.5, None, "NaN", "Infinity", "-Infinity"]
    assert [float(str(word)) for word in told[3:]] == [np.inf, -np.inf]


def test_an_unreadable_folder_is_a_sentence(folder: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        os.rename(folder / "first" / "rank-0", folder / "first" / "rank-0-gone")  # root may read everything
    answer = client_of(folder, tmp_path).get("/api/series?run=first&tensor=layers.0.weight&stat=gradient.rms")
    assert answer.status_code == 404
    assert "layers.0.weight" in answer.json()["error"]


@pytest.mark.parametrize("buckets", [1000, 7])
def test_own_cost_is_our_share_of_the_time_between_steps(client: TestClient, buckets: int) -> None:
    """Oracle: the made-up run takes 20 µs of every millisecond."""
    table = arrow(client.get(f"/api/cost?run=first&buckets={buckets}").content)
    assert table["mean"].to_pylist() == pytest.approx([0.02] * min(buckets, 39))
    assert (table["step_first"][0].as_py(), table["step_last"][-1].as_py()) == (1, 39)  # when the first step began is not known
    assert arrow(client.get("/api/cost?run=first&start=5&stop=6").content).num_rows == 0


def test_the_clock_counts_training_alone() -> None:
    """Of a restarted run the pause is left out, and a clock that was set back stands still."""
    steps = pa.table({"step": [0, 1, 2, 3, 4], "attempt": [0, 0, 1, 1, 1], "time_ns": [5, 1005, 90_000, 91_000, 90_500]})
    record = SimpleNamespace(steps_table=lambda start, stop: steps)
    part = arrays.clock_of(record, 10)  # type: ignore[arg-type]
    assert part.step_first.tolist() == [0, 1, 2, 3, 4]
    assert (part.mean * 1e9).round().tolist() == [0, 1000, 1000, 2000, 2000]
    assert arrays.clock_of(record, 2).step_first.tolist() == [0, 4]  # type: ignore[arg-type]
    part = arrays.clock_of(record, 10, 1, 4)  # type: ignore[arg-type]
    assert part.step_first.tolist() == [1, 2, 3]
    assert (part.mean * 1e9).round().tolist() == [1000, 1000, 2000]  # from the run's first step, not from the first of these
    assert len(arrays.clock_of(record, 10, 7, 9).step_first) == 0  # type: ignore[arg-type]
    assert arrays.pauses_of(record) == {1: pytest.approx(88_995e-9)}  # type: ignore[arg-type]


def test_the_clock_of_a_run_follows_its_steps(client: TestClient) -> None:
    """Oracle: the made-up run takes a millisecond a step."""
    table = arrow(client.get("/api/clock?run=first").content)
    assert table["mean"].to_pylist() == pytest.approx([step / 1000 for step in range(40)])


def test_own_time_belongs_to_the_step_that_its_row_ends() -> None:
    steps = pa.table({"step": [0, 1, 2], "attempt": [0] * 3, "own_ns": [5, 900, 10], "time_ns": [0, 1_000, 1_100]})
    record = SimpleNamespace(steps_table=lambda start, stop: steps)
    part = arrays.cost_of(record, None, None, 10)  # type: ignore[arg-type]
    assert part.step_first.tolist() == [1, 2]
    assert part.mean.tolist() == [0.9, 0.1]


def test_no_step_gives_more_of_its_time_than_it_lasted() -> None:
    """What we did behind the row of step 1 took time of steps 2 and 3; all of it is told once."""
    steps = pa.table(
        {"step": [0, 1, 2, 3], "attempt": [0] * 4, "own_ns": [5, 2_500, 0, 100], "time_ns": [0, 1_000, 2_000, 3_000]}
    )
    record = SimpleNamespace(steps_table=lambda start, stop: steps)
    part = arrays.cost_of(record, None, None, 10)  # type: ignore[arg-type]
    assert part.mean.tolist() == pytest.approx([1.0, 1.0, 0.6])


def test_the_same_question_is_answered_once_until_the_run_has_grown(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    real = arrays.encode
    monkeypatch.setattr(arrays, "encode", lambda table: (made.append(1), real(table))[1])
    monkeypatch.setattr("weighbridge.server.runs.REFRESH_SECONDS", 0.0)
    run = make_run(folder, "growing", steps=10, finish=False)
    client = client_of(folder, tmp_path)
    question = "/api/heat?run=growing&stat=gradient.rms"
    first = client.get(question).content
    assert (client.get(question).content, len(made)) == (first, 1)
    client.get(question + "&fold=none")
    assert len(made) == 2, "another question"
    add_steps(run, 10, 15)
    assert client.get(question).content != first


def test_a_question_that_was_taken_back_is_not_answered(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "is_gone", lambda request: True)
    monkeypatch.setattr(arrays, "encode", lambda table: pytest.fail("nobody waits for this"))
    assert client_of(folder, tmp_path).get("/api/heat?run=first&stat=gradient.rms").status_code == 499


@pytest.mark.parametrize(("message", "wanted"), [("http.disconnect", True), ("http.request", False)])
def test_whoever_has_hung_up_is_gone(message: str, wanted: bool) -> None:
    async def receive() -> dict[str, str]:
        return {"type": message}

    request = Request({"type": "http", "method": "GET", "path": "/", "headers": []}, receive)
    assert anyio.run(anyio.to_thread.run_sync, answers.is_gone, request) is wanted
    assert answers.is_gone(request) is False, "asked by this program itself"


def test_what_the_page_of_a_run_asks_first_is_read_while_it_is_on_its_way(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    class Watched(Runs):
        @contextmanager
        def use(self, name: str) -> Iterator[RunRecord]:
            with super().use(name) as record:
                read.append((name, threading.current_thread()))
                yield record

    monkeypatch.setattr("tests.server.conftest.Runs", Watched)
    client = client_of(folder, tmp_path, asks_ahead=True)
    for address in ("/run/first", "/run/nowhere", "/"):
        client.get(address)
    for _, thread in read:
        thread.join(60)
    assert [name for name, _ in read] == ["first"]
