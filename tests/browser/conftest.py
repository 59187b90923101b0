"""A real browser before a real server, each in its own process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import make_run
from weighbridge.server import page as built_page

SOURCE = Path(__file__).parents[2] / "src"
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
    from playwright.sync_api import sync_playwright

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
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if is_complaint(message) else None)
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def is_complaint(message: Any) -> bool:
    """An error of the page itself; that the server is gone once its test is over is none."""
    return message.type == "error" and "net::ERR_" not in message.text


def eventually(page: Any, expression: str, wanted: object = True, seconds: float = 20) -> None:
    """Wait until the page's expression has the value. (Playwright's own wait evaluates text, which the page forbids.)"""
    end = time.monotonic() + seconds
    while (found := page.evaluate(expression)) != wanted:
        assert time.monotonic() < end, f"{expression} is {found!r}, not {wanted!r}"
        page.wait_for_timeout(50)


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
        server.communicate(timeout=20)


@contextmanager
def two_runs(folder: Path, made_steps: int, steps: int) -> Iterator[str]:
    """The page over `first`, made of known numbers, and `small`, a real training; its address."""
    make_run(folder, "first", steps=made_steps)
    with training(folder, "small", steps, 0.0) as child:
        child.communicate("\n", timeout=60)
    with serving(folder) as address:
        yield address


@contextmanager
def training(folder: Path, name: str, steps: int, pause: float) -> Iterator[subprocess.Popen[str]]:
    """The training of tests/server/training.py, running meanwhile."""
    program = Path(__file__).parents[1] / "server" / "training.py"
    child = subprocess.Popen(
        [sys.executable, str(program), str(folder), name, str(steps), str(pause)],
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
