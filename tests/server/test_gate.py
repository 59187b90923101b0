"""Oracle: the browser's security model. A page from elsewhere must get nothing, by whatever name it asks."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.server.conftest import PORT
from weighbridge.server import gate
from weighbridge.server.app import create_app
from weighbridge.server.runs import Runs


@pytest.mark.parametrize("host", [f"localhost:{PORT}", f"127.0.0.1:{PORT}", f"[::1]:{PORT}", f"LOCALHOST:{PORT}"])
def test_our_own_names_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/api/runs", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        f"evil.example:{PORT}",
        f"localhost.evil.example:{PORT}",
        f"localhost:{PORT}@evil.example",
        "localhost",
        f"localhost:{PORT + 1}",
        f"192.168.0.7:{PORT}",
        "localhost:port",
        f"localhost:{PORT}/x",
        "",
        "[::1",
    ],
)
def test_a_name_that_is_not_ours_is_refused_with_the_right_address(client: TestClient, host: str) -> None:
    answer = client.get("/api/runs", headers={"host": host})
    assert answer.status_code == 403
    assert f"http://localhost:{PORT}/" in answer.json()["error"]
    assert client.get("/", headers={"host": host}).status_code == 403


@pytest.mark.parametrize("origin", ["http://evil.example", f"https://localhost:{PORT}", "http://localhost:9", "null", ""])
def test_another_origin_is_refused(client: TestClient, origin: str) -> None:
    assert client.get("/api/runs", headers={"origin": origin}).status_code == 403


def test_our_own_origin_is_answered_and_no_other_is_let_in(client: TestClient) -> None:
    answer = client.get("/api/runs", headers={"origin": f"http://localhost:{PORT}"})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_a_request_from_another_site_is_refused_even_without_origin(client: TestClient) -> None:
    assert client.get("/api/runs", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert client.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200  # a link to the page may be followed


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_but_reading_is_answered(client: TestClient, method: str) -> None:
    assert client.request(method, "/api/runs").status_code == 405


@pytest.mark.parametrize("origin", [None, "http://evil.example", "null", f"http://localhost:{PORT + 1}"])
def test_an_act_must_come_from_our_own_page(client: TestClient, origin: str | None) -> None:
    for path in sorted(gate.ACTS):
        headers = {} if origin is None else {"origin": origin}
        assert client.post(path, headers=headers).status_code == 403
        assert client.post(path, headers={"origin": f"http://localhost:{PORT}"}).status_code not in (403, 405)
        assert client.put(path, headers={"origin": f"http://localhost:{PORT}"}).status_code == 405


@pytest.mark.parametrize("path", ["/", "/api/runs", "/api/nothing", "/assets/page-abc.js", "/assets/gone.js"])
def test_every_answer_forbids_foreign_and_inline_scripts(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert headers["content-security-policy"].startswith("default-src 'self';")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_a_server_bound_outside_takes_addresses_but_no_foreign_name(folder: Path) -> None:
    names = frozenset({"localhost", "lab-machine"})
    client = TestClient(create_app(Runs(folder), names=names, any_address=True), base_url=f"http://localhost:{PORT}")
    for host, status in ((f"10.1.2.3:{PORT}", 200), (f"lab-machine:{PORT}", 200), (f"evil.example:{PORT}", 403)):
        assert client.get("/api/runs", headers={"host": host}).status_code == status
