"""Oracle: the processes of the machine and the training's own arithmetic. A real server is spoken to, as by the page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from weighbridge.errors import BadInput
from weighbridge.server import lab
from weighbridge.server.app import create_app
from weighbridge.server.runs import Runs
from weighbridge.store.record import open_run
from weighbridge.teaching import link
from weighbridge.teaching.training import Loop

SOURCE = Path(__file__).parents[2] / "src"
SERVE = """
import sys
import uvicorn
from pathlib import Path
from weighbridge.errors import BadInput
from weighbridge.server import lab
from weighbridge.server.app import create_app
from weighbridge.server.runs import Runs
for setting in sys.argv[2:]:
    name, _, value = setting.partition("=")
    setattr(lab, name, type(getattr(lab, name))(float(value)))
lab.Desk.__init__.__defaults__ = (lab.WORKERS,)
import socket
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
print(listener.getsockname()[1], flush=True)
config = uvicorn.Config(create_app(Runs(Path(sys.argv[1]))), log_level="critical", timeout_graceful_shutdown=1, lifespan="off")
uvicorn.Server(config).run(sockets=[listener])
"""


class Page:
    """What a browser does: one stream of events, and commands."""

    def __init__(self, address: str) -> None:
        self.address, self.origin = address, {"origin": address}
        self.client = httpx.Client(base_url=address, timeout=60)
        self.stream = self.client.stream("GET", "/api/lab/events")
        self.lines = self.stream.__enter__().iter_lines()
        self.first = self.next()
        self.session = self.first.get("session", "")

    def next(self) -> dict[str, Any]:
        """The next event; empty where the stream has ended."""
        for line in self.lines:
            if line.startswith("data: "):
                return json.loads(line[6:])
        return {}

    def until(self, event: str, fits: Callable[[dict[str, Any]], bool] = lambda told: True) -> dict[str, Any]:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            told = self.next()
            if told.get("event") == event and fits(told):
                return told
            assert told, f"the stream ended before {event}"
        raise AssertionError(f"no {event}")

    def tell(self, **command: Any) -> httpx.Response:
        return httpx.post(
            f"{self.address}/api/lab/tell", params={"session": self.session}, json=command, headers=self.origin, timeout=60
        )

    def open(self, query: str, number: int = 1) -> dict[str, Any]:
        self.tell(do="open", link=query, id=number)
        return self.until("opened", lambda told: told["id"] == number)

    def close(self) -> None:
        with suppress(httpx.HTTPError):
            self.stream.__exit__(None, None, None)
        self.client.close()


@contextmanager
def serving(folder: Path, **settings: float) -> Iterator[tuple[str, int]]:
    """Address and process of a server."""
    line = [sys.executable, "-c", SERVE, str(folder), *(f"{name}={value}" for name, value in settings.items())]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "TMPDIR": str(folder.parent)}
    server = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}", server.pid
    finally:
        server.terminate()
        server.communicate(timeout=60)


def workers_of(server: int) -> list[int]:
    """The training processes of a server."""
    found = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(server)], capture_output=True, text=True).stdout
    return [int(line.split()[0]) for line in found.splitlines() if lab.WORKER in line]


def eventually(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int, Path]]:
    folder = tmp_path_factory.mktemp("lab") / "runs"
    folder.mkdir()
    with serving(folder) as (address, pid):
        yield address, pid, folder


@pytest.fixture
def page(served: tuple[str, int, Path]) -> Iterator[Page]:
    opened = Page(served[0])
    yield opened
    opened.close()
    eventually(lambda: not workers_of(served[1]))


def test_the_worker_trains_as_the_lab_does_and_a_slider_holds_from_the_next_step_on(page: Page) -> None:
    opened = page.open("data=moons&layers=3&seed=2")
    assert opened["sizes"] == [2, 3, 1]
    wish = link.read("data=moons&layers=3&seed=2")
    loops = [Loop(one.data, one.variant, one.seed) for one in (wish, wish.twin)]
    for rate in (0.3, 0.3, 0.05):
        page.tell(do="set", word="lr", value=rate)
        page.tell(do="step")
        for loop in loops:
            loop.rate = rate
            loop.step()
    frame = page.until("frame", lambda told: told["step"] == 3)
    assert frame["net"]["loss"] == loops[0].training.step_losses[-1]
    assert frame["twin"]["loss"] == loops[1].training.step_losses[-1]
    assert frame["rate"] == 0.05
    page.tell(do="play")
    later = page.until("frame", lambda told: told["step"] > 10)
    assert later["playing"]
    page.tell(do="pause")
    still = page.until("frame", lambda told: not told["playing"])
    page.tell(do="code")
    code = page.until("code")
    assert code["steps"] == still["step"]
    assert "rates = {2: 0.05}" in code["script"]


def test_findings_are_those_of_the_diagnosis(page: Page) -> None:
    page.open("data=xor&layers=4&act=none")
    page.tell(do="play")
    told = page.until("findings", lambda told: told["findings"])
    assert [finding["rule"] for finding in told["findings"]] == ["missing-activation"]


def test_a_kept_run_lies_among_the_others_and_one_of_the_same_name_beside_it(page: Page, served: tuple[str, int, Path]) -> None:
    names = []
    for number in (1, 2):
        page.open("data=tutorial&layers=4&lr=0.01&twin=off", number)
        page.tell(do="keep")
        assert "play first" in page.until("refused")["error"]
        for _ in range(3):
            page.tell(do="step")
        page.tell(do="keep")
        names.append(page.until("kept")["run"])
        assert page.until("frame")["ended"].startswith("This run is kept")
    assert names == ["tutorial-2-4-1-seed-5", "tutorial-2-4-1-seed-5-2"]
    assert sorted(httpx.get(f"{served[0]}/api/runs?sort=name").json()["groups"][0]["names"]) == names
    listed = httpx.get(f"{served[0]}/api/rows", params={"run": names}).json()
    assert [(run["name"], run["state"], run["steps"]) for run in listed] == [(name, "finished", 3) for name in names]
    record = open_run(served[2] / names[0])
    loop = Loop((wish := link.read("data=tutorial&layers=4&lr=0.01")).data, wish.variant, wish.seed)
    for _ in range(3):
        loop.step()
    assert record.losses().values.tolist() == loop.training.step_losses


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("layer=3", "has no 'layer'. Did you mean layers"),
        ("data=rnig", "Did you mean ring"),
        ("data=/etc/passwd", "there is no such data set"),
        ("layers=64,64,64", "8,577 weights and biases; this page trains up to 5,000"),
        ("layers=99999999999", "this page trains up to 5,000"),
        ("layers=4,,3", "with a comma between, such as 4,3"),
        ("layers=" + ",".join("4" * 20), "the page draws 15 at most"),
        ("bias=12", "one digit for each of the 3 layers"),
        ("lr=fast", "a number is needed"),
        ("act=tanhh", "Did you mean tanh"),
        ("twin=bias", "bias=: 1 for biases everywhere"),
        ("twin=data:xor", "such as bias:0"),
        ("opt=lbfgs", "several times in a step"),
        ("seed=-1", "at least 0"),
        ("x" * 600, "500 at most"),
    ],
)
def test_a_link_that_is_no_link_is_answered_with_a_sentence(query: str, words: str) -> None:
    with pytest.raises(BadInput) as told:
        link.read(query)
    assert words in str(told.value)


def test_the_page_gets_that_sentence_and_the_next_link_is_trained(page: Page) -> None:
    page.tell(do="open", link="act=tanhh", id=1)
    assert "Did you mean tanh" in page.until("refused")["error"]
    page.tell(do="step")
    assert "no training yet" in page.until("refused")["error"]
    assert page.open("act=tanh", 2)["sizes"] == [2, 4, 3, 1]
    page.tell(do="set", word="lr", value="much")
    assert "a number is needed" in page.until("refused")["error"]
    page.tell(do="set", word="act", value="relu")
    assert "cannot be changed while it trains" in page.until("refused")["error"]


def test_a_page_that_goes_away_ends_its_process_and_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with serving(tmp_path / "runs") as (address, pid):
        page = Page(address)
        page.open("")
        page.tell(do="play")
        page.until("frame", lambda told: told["step"] > 5)
        assert len(workers_of(pid)) == 1
        assert list(tmp_path.glob("weighbridge-lab-*"))
        page.close()
        eventually(lambda: not workers_of(pid))
        eventually(lambda: not list(tmp_path.glob("weighbridge-lab-*")))
        late = page.tell(do="play")
        assert (late.status_code, late.json()) == (200, {"ended": lab.ENDED})  # a browser logs every other status as an error


def test_the_second_page_waits_in_line_until_the_first_is_gone_and_what_it_chose_is_then_trained(tmp_path: Path) -> None:
    with serving(tmp_path, WORKERS=1, MOST_WAITING=1) as (address, pid):
        first = Page(address)
        first.open("")
        second = Page(address)
        assert second.next()["thumbs"]  # there is to choose from meanwhile
        assert second.until("waiting")["ahead"] == 1
        assert second.tell(do="open", link="data=xor&layers=2", id=1).status_code == 200
        third = Page(address)
        assert "pages of the Lab are open here already" in third.first["error"]
        third.close()
        assert len(workers_of(pid)) == 1
        first.close()
        assert second.until("opened")["sizes"] == [2, 2, 1]
        second.close()


def test_who_does_nothing_gives_place_to_who_waits(tmp_path: Path) -> None:
    with serving(tmp_path, WORKERS=1, UNTOUCHED_SECONDS=1) as (address, _):
        first = Page(address)
        first.open("")
        second = Page(address)
        assert "the place went to them" in first.until("ended")["error"]
        assert second.until("hello")["most_values"] == link.MOST_VALUES
        first.close()
        second.close()


def test_a_worker_has_its_time_and_not_more(tmp_path: Path) -> None:
    with serving(tmp_path, LIFE_SECONDS=1) as (address, pid):
        page = Page(address)
        assert "has had its" in page.until("ended")["error"]
        assert page.next() == {}
        eventually(lambda: not workers_of(pid))
        page.close()


def test_a_process_that_dies_is_told_of(tmp_path: Path) -> None:
    with serving(tmp_path) as (address, pid):
        page = Page(address)
        page.open("")
        os.kill(workers_of(pid)[0], 9)
        assert "process has ended" in page.until("ended")["error"]
        page.close()


def test_a_worker_ends_with_its_server(tmp_path: Path) -> None:
    with serving(tmp_path) as (address, pid):
        page = Page(address)
        page.open("")
        worker = workers_of(pid)[0]
        os.kill(pid, 9)
        eventually(lambda: not Path(f"/proc/{worker}").exists() or "Z" in Path(f"/proc/{worker}/stat").read_text().split()[2])
        page.close()


@pytest.fixture
def plain(tmp_path: Path) -> TestClient:
    return TestClient(create_app(Runs(tmp_path)), base_url="http://localhost:8765", headers={"origin": "http://localhost:8765"})


def test_without_torch_the_page_says_what_to_install(plain: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    told = json.loads(plain.get("/api/lab/events").text.removeprefix("data: "))
    assert told["event"] == "trouble"
    assert "pip install 'weighbridge[lab]'" in told["error"]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"do": "exec"}', b'{"do": 3}', b"{" * 5000, b'{"do": "play"' + b" " * 5000 + b"}"]
)
def test_what_is_no_command_is_refused(plain: TestClient, body: bytes) -> None:
    desk = next(route.endpoint.__self__ for route in plain.app.routes if route.path == "/api/lab/tell")  # type: ignore[attr-defined]
    session = lab.Session()
    desk.sessions[session.token] = session
    answer = plain.post(f"/api/lab/tell?session={session.token}", content=body)
    assert answer.status_code == 400
    assert "A command to the Lab" in answer.json()["error"]
    assert not session.early


def test_a_page_that_waits_may_say_much_and_little_is_kept(plain: TestClient) -> None:
    session = lab.Session()
    for number in range(100):
        assert session.tell(b"%d" % number)
    assert session.early[0] == b"84"
    assert len(session.early) == lab.MOST_EARLY
