"""A run that went on after a restart. Oracle: the rows of each attempt as they were written (tests/store/made_rows.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from tests.browser.states import changed, column
from tests.server.conftest import arrow, client_of, picture
from tests.store import made_rows
from weighbridge.store.layout import create_run
from weighbridge.store.record import open_run
from weighbridge.store.writer import RankWriter

PAUSE_NS = 3_600_000_000_000  # an hour in which nothing ran


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    """`again`: attempt 0 takes steps 0 to 59, attempt 1 goes on from step 40 to 79, with a loss that is larger by 1."""
    run = create_run(tmp_path, "again", {})
    for attempt, first, stop in ((0, 0, 60), (1, 40, 80)):
        writer = RankWriter(run, attempt=attempt)
        steps = made_rows.steps(first, stop, attempt=attempt)
        steps = changed(steps, time_ns=column(steps, "time_ns") + attempt * PAUSE_NS)
        tables = {"rows": made_rows.rows(first, stop, attempt=attempt), "steps": steps}
        writer.write({**tables, **({} if attempt else {"tensors": made_rows.tensors()})}, first, stop - 1)
    writer.finish(80)
    return client_of(tmp_path, tmp_path)


def test_each_attempt_is_told_with_what_still_counts(client: TestClient) -> None:
    told = client.get("/api/run?run=again").json()
    assert told["attempts"] == [
        {"number": 0, "first_step": 0, "last_step": 59, "kept_until": 39, "pause_seconds": None},
        {"number": 1, "first_step": 40, "last_step": 79, "kept_until": 79, "pause_seconds": 3600.001},
    ]
    assert told["steps"] == 80
    notes = client.get("/api/notes?run=again").json()
    assert {"step": 40, "text": "attempt 1 begins at step 40; 40 to 59 trained again"} in notes


def test_no_step_is_counted_twice_and_no_pause_as_training(client: TestClient, tmp_path: Path) -> None:
    loss = arrow(client.get("/api/loss?run=again").content)
    assert loss["step_first"].to_pylist() == list(range(80))
    assert np.allclose(loss["mean"], [1 / (step + 1) + (step >= 40) for step in range(80)])
    told = client.get("/api/run?run=again").json()
    assert told["wall_seconds"] == pytest.approx(0.039 + 0.039)  # 1 ms a step, from the end of the first one of each attempt
    assert told["own_seconds"] == pytest.approx(78 * 20e-6)
    cost = arrow(client.get("/api/cost?run=again").content)
    assert np.allclose(cost["mean"], 0.02)
    assert cost["step_first"].to_pylist() == [step for step in range(1, 80) if step != 40]


def test_an_earlier_attempt_is_shown_as_it_was(client: TestClient, tmp_path: Path) -> None:
    alone = create_run(tmp_path / "other", "first", {})
    tables = {"rows": made_rows.rows(0, 60), "steps": made_rows.steps(0, 60), "tensors": made_rows.tensors()}
    RankWriter(alone).write(tables, 0, 59)
    truth = open_run(alone)
    old = open_run(tmp_path / "again", attempt=0)
    assert (old.steps, old.last_step, len(old.attempts)) == (60, 59, 1)
    assert np.array_equal(old.losses().values, truth.losses().values)
    about, value, _ = picture(client, "heat?run=again&stat=gradient.rms&attempt=0")
    assert about["last"][-1] == 59
    assert np.array_equal(value, truth.heat_map("gradient.rms", 1016).mean.astype(np.float32), equal_nan=True)
    loss = arrow(client.get("/api/loss?run=again&attempt=0&start=40&stop=60").content)
    assert np.allclose(loss["mean"], [1 / (step + 1) for step in range(40, 60)])
    cell = client.get("/api/cell?run=again&attempt=0&tensor=layers.0.weight&stat=gradient.rms&start=45&stop=46").json()[0]
    assert cell["mean"] == truth.series("layers.0.weight", "gradient.rms", 45, 46).values[0]
