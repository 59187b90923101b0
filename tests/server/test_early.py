"""The page's files before all that answers is imported. Oracle: a whole application that is let go by hand."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from weighbridge.server.early import Early


def test_the_page_is_sent_while_questions_wait(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("the page")
    go, sent = threading.Event(), []

    def make() -> Starlette:
        assert go.wait(60)
        whole = Starlette(routes=[Route("/{path:path}", lambda request: JSONResponse("whole"))])
        whole.state.ahead = lambda request: sent.append(request.url.path)
        return whole

    client = TestClient(Early(make, static=tmp_path), base_url="http://localhost")
    assert client.get("/run/first").text == "the page"
    assert client.get("/run/first", headers={"host": "elsewhere.example"}).status_code == 403  # the same gate
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(client.get, "/api/runs")
        assert client.get("/").text == "the page"
        assert not asked.done()
        go.set()
        assert asked.result(60).json() == "whole"
    assert client.get("/").json() == "whole"
    assert sent == ["/run/first", "/"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # it is printed where the server runs
def test_where_the_whole_cannot_be_made_every_question_says_so(tmp_path: Path) -> None:
    def make() -> Starlette:
        raise OSError("no disk")

    client = TestClient(Early(make, static=tmp_path), base_url="http://localhost")
    for _ in range(2):
        with pytest.raises(OSError, match="no disk"):
            client.get("/api/runs")
