"""Oracle: RunRecord of the one rank."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from tests.browser.states import changed, column
from tests.server.conftest import client_of, picture
from tests.store import made_rows
from weighbridge.server.runs import Runs
from weighbridge.store.layout import create_run
from weighbridge.store.record import open_run
from weighbridge.store.writer import RankWriter

STEPS = 30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`two`: what rank 1 weighed is nine times as large, squared."""
    run = create_run(tmp_path / "runs", "two", {"world_size": 2})
    for rank in (0, 1):
        rows = made_rows.rows(0, STEPS)
        rows = changed(rows, sum_sq=column(rows, "sum_sq") * (81 if rank else 1))
        writer = RankWriter(run, rank)
        writer.write({"rows": rows, "steps": made_rows.steps(0, STEPS), "tensors": made_rows.tensors()}, 0, STEPS - 1)
        writer.finish(STEPS)
    return tmp_path / "runs"


@pytest.fixture
def client(folder: Path, tmp_path: Path) -> TestClient:
    return client_of(folder, tmp_path)


def test_a_rank_alone_is_what_it_recorded(client: TestClient, folder: Path) -> None:
    assert client.get("/api/run?run=two").json()["ranks"] == [0, 1]
    for rank in (0, 1, None):
        _, value, _ = picture(client, "heat?run=two&stat=gradient.rms" + ("" if rank is None else f"&rank={rank}"))
        truth = open_run(folder / "two", rank=0 if rank is None else rank).heat_map("gradient.rms", 1016)
        known = np.isfinite(value)
        assert known.any()
        assert np.allclose(np.sort(value[known]), np.sort(truth.mean[np.isfinite(truth.mean)].astype(np.float32)))
    told = client.get("/api/cell?run=two&rank=1&tensor=layers.0.weight&stat=gradient.rms&start=3&stop=4").json()
    other = client.get("/api/cell?run=two&tensor=layers.0.weight&stat=gradient.rms&start=3&stop=4").json()
    assert told[0]["mean"] == pytest.approx(9 * other[0]["mean"])


def test_a_rank_that_is_not_there_is_refused_with_those_that_are(client: TestClient) -> None:
    answer = client.get("/api/heat?run=two&stat=gradient.rms&rank=7")
    assert answer.status_code == 400
    assert "0, 1" in answer.json()["error"]


def test_who_closes_a_run_closes_it_of_all_ranks(folder: Path) -> None:
    runs = Runs(folder)
    with runs.use("two"), runs.use("two", 1):
        pass
    assert runs.open_names() == ["two"]
    runs.close("two")
    assert runs.open_names() == []
