"""A real browser before a real server, each in its own process."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pytest
from playwright.sync_api import Error, expect, sync_playwright

from tests.server.conftest import make_run
from weighbridge.server import page as built_page

PATIENCE = 120  # seconds to wait for what must come, on a machine with much else to do; where all is well none of it is used
expect.set_options(timeout=PATIENCE * 1000)
SOURCE = Path(__file__).parents[2] / "src"
QUIET_LOOKS = 6  # in a row, before a page is taken for settled
TWO_FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
UNDER_WAY: WeakKeyDictionary[Any, set[Any]] = WeakKeyDictionary()  # what a page has asked for and does not have yet
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SLOW = float(os.environ.get("WEIGHBRIDGE_SLOW_BROWSER", "1"))  # how many times slower a page's own work is made
SERVE = "import sys; from weighbridge.cli.main import run; sys.argv = ['weighbridge', 'ui', *sys.argv[1:]]; run()"


def browser_path() -> str | None:
    """The executable that the tests start."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("WEIGHBRIDGE_BROWSER") or next((found for name in names if (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = browser_path()
    if path is None:
        pytest.skip("no Chromium here: set WEIGHBRIDGE_BROWSER to one, or run ./test, which brings one")
    built_page.check_built()
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """open_page(address, width=1280, theme="light") -> page; any error that the page logs fails the test."""
    contexts, complaints = [], []

    def opened(address: str, width: int = 1280, theme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
        contexts.append(context)
        page = patient(context.new_page())
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(told_of(message)) if is_complaint(message) else None)
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def patient(page: Any) -> Any:
    """The page waits as long as a loaded machine needs; and it is slow itself, where that is asked for."""
    page.set_default_timeout(PATIENCE * 1000)
    under_way: set[Any] = set()
    page.on("request", lambda asked: under_way.add(asked) if asked.resource_type == "fetch" else None)
    for end in ("requestfinished", "requestfailed"):
        page.on(end, lambda asked: under_way.discard(asked))
    UNDER_WAY[page] = under_way
    if SLOW > 1:
        page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": SLOW})
    return page


def settled(page: Any) -> Any:
    """The page once it has all that it asks for, and has drawn it. (A stream of events never ends and does not count.)"""
    end = time.monotonic() + PATIENCE
    quiet = 0
    while quiet < QUIET_LOOKS:
        page.evaluate(TWO_FRAMES)
        page.wait_for_timeout(50)
        quiet = 0 if UNDER_WAY[page] else quiet + 1
        assert time.monotonic() < end, f"still asked for: {[asked.url for asked in UNDER_WAY[page]]}"
    return page


def judged(page: Any) -> Any:
    """The page once the rules have read its run and it is settled."""
    settled(page)  # before its first answer nothing says that they are reading
    page.get_by_text("The rules are reading").wait_for(state="hidden")
    return settled(page)


def told_of(message: Any) -> str:
    """What was logged, and of which address or script."""
    return f"{message.text} ({message.location.get('url', '')})"


def is_complaint(message: Any) -> bool:
    """An error of the page itself; that the server is gone once its test is over is none."""
    return message.type == "error" and "net::ERR_" not in message.text


def eventually(page: Any, expression: str, wanted: object = True, seconds: float = PATIENCE) -> None:
    """Wait until the page's expression has the value. (Playwright's own wait evaluates text, which the page forbids.)"""
    end = time.monotonic() + seconds
    while (found := evaluated(page, expression)) != wanted:
        assert time.monotonic() < end, f"{expression} is {found!r}, not {wanted!r}"
        page.wait_for_timeout(50)


def evaluated(page: Any, expression: str) -> object:
    """The expression's value; its error where what it asks for is away for a moment."""
    try:
        return page.evaluate(expression)
    except Error as error:
        return error


def point(page: Any, target: Any, x: float, y: float, until: str) -> None:
    """Point at a place of the target (px from its corner) until this expression of the page is true.

    The pointer follows: what was loaded meanwhile may have moved the target, or made another picture of it.
    """
    end = time.monotonic() + PATIENCE
    for near in itertools.cycle((0, 1)):
        if box := target.bounding_box():
            page.mouse.move(box["x"] + x + near, box["y"] + y)
        page.wait_for_timeout(50)
        if evaluated(page, until) is True:
            return
        assert time.monotonic() < end, f"pointed at, the page does not come to {until}"


def where(page: Any) -> str:
    """The page's address as the page itself knows it. (`page.url` hears of changes a moment later.)"""
    return str(page.evaluate("location.href"))


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[str]:
    """`weighbridge ui` on a free port; the address that it prints."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(folder), "--port", "0", "--no-open", *options],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    try:
        assert server.stdout is not None
        yield server.stdout.readline().split()[-1].rstrip("/")
    finally:
        server.terminate()
        server.communicate(timeout=PATIENCE)


@contextmanager
def two_runs(folder: Path, made_steps: int, steps: int) -> Iterator[str]:
    """The page over `first`, made of known numbers, and `small`, a real training; its address."""
    make_run(folder, "first", steps=made_steps)
    with training(folder, "small", steps, 0.0) as child:
        child.communicate("\n", timeout=PATIENCE)
    with serving(folder) as address:
        yield address


@contextmanager
def training(
    folder: Path, name: str, steps: int, pause: float, hold: int = 0, harm: str = ""
) -> Iterator[subprocess.Popen[str]]:
    """The training of tests/server/training.py, running meanwhile."""
    program = Path(__file__).parents[1] / "server" / "training.py"
    child = subprocess.Popen(
        [sys.executable, str(program), str(folder), name, str(steps), str(pause), str(hold), harm],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def printed(child: subprocess.Popen[str], last: str) -> list[str]:
    """The lines that it prints before this one."""
    assert child.stdout is not None
    lines = []
    while (line := child.stdout.readline().strip()) != last:
        assert line, f"it ended before it said {last!r}"
        lines.append(line)
    return lines


def go_on(child: subprocess.Popen[str]) -> None:
    """What it waits for."""
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()
