"""Made-up runs of known numbers, and a client that speaks to the server as the page does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from tests.store import made_rows
from weighbridge.server.app import create_app
from weighbridge.server.runs import Runs
from weighbridge.store.layout import create_run
from weighbridge.store.writer import RankWriter

PORT = 8765
PAGE = "<!doctype html><title>page</title>"


def make_run(folder: Path, name: str, steps: int = 40, finish: bool = True) -> Path:
    """A run whose every number follows from its key (tests/store/made_rows.py)."""
    run = create_run(folder, name, {"config": {"lr": 0.1}})
    writer = RankWriter(run)
    tables = {
        "rows": made_rows.rows(0, steps),
        "steps": made_rows.steps(0, steps),
        "tensors": made_rows.tensors(),
        "logs": made_rows.logs(0, steps),
    }
    writer.write(tables, 0, steps - 1)
    if finish:
        writer.finish(steps)
    return run


def add_steps(run: Path, first: int, stop: int) -> None:
    """The same training goes on, in a second attempt."""
    writer = RankWriter(run, attempt=1)
    tables = {"rows": made_rows.rows(first, stop, attempt=1), "steps": made_rows.steps(first, stop, attempt=1)}
    writer.write(tables, first, stop - 1)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_run(folder, "first")
    make_run(folder, "second", steps=3)
    return folder


@pytest.fixture
def folder(made_once: Path, tmp_path: Path) -> Path:
    """Two runs, `first` and `second`, that the test may change."""
    return Path(shutil.copytree(made_once, tmp_path / "runs"))


@pytest.fixture
def client(folder: Path, tmp_path: Path) -> TestClient:
    return client_of(folder, tmp_path)


def client_of(folder: Path, tmp_path: Path, *, asks_ahead: bool = False) -> TestClient:
    static = tmp_path / "static"
    (static / "assets").mkdir(parents=True, exist_ok=True)
    (static / "index.html").write_text(PAGE)
    (static / "assets" / "page-abc.js").write_text("export {};")
    return TestClient(create_app(Runs(folder), asks_ahead=asks_ahead, static=static), base_url=f"http://localhost:{PORT}")


def picture(client: TestClient, what: str) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """A picture of layers and steps: all that is said of it, and value and mask [rows, columns]."""
    answer = client.get(f"/api/{what}")
    assert answer.status_code == 200, answer.text
    table = arrow(answer.content)
    about = json.loads(table.schema.metadata[b"about"])
    shape = (len(about["rows"]), len(about["first"]))
    return about, table["value"].to_numpy().reshape(shape), table["mask"].to_numpy().reshape(shape)


def arrow(content: bytes) -> pa.Table:
    return pa.ipc.open_stream(content).read_all()
