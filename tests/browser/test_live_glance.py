"""Oracle: the training itself, which goes on while the page is looked at."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import eventually, serving, training

pytestmark = pytest.mark.browser


@contextmanager
def growing(folder: Path, steps: int, pause: float, seen: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A training that has made `seen` steps and goes on, and the address of the page over it."""
    with training(folder, "growing", steps, pause) as child, serving(folder) as address:
        assert child.stdout is not None
        for _ in range(seen):
            child.stdout.readline()
        yield child, address


def until_flushed(child: subprocess.Popen[str]) -> None:
    assert child.stdout is not None
    for line in iter(child.stdout.readline, "flushed\n"):
        assert line


def test_the_picture_grows_with_the_training_and_nothing_jumps(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    with growing(tmp_path, steps=60, pause=0.15, seen=6) as (child, address):
        page = open_page(f"{address}/run/growing")
        page.locator(".heat").wait_for()
        page.evaluate("window.marker = 'the same window'")
        box = page.locator(".heat").bounding_box()
        until_flushed(child)
        eventually(page, "document.querySelector('.heat').ariaLabel.includes('steps 0 to 59')", seconds=60)
        assert page.evaluate("window.marker") == "the same window"
        after = page.locator(".heat").bounding_box()
        assert (after["x"], after["width"]) == (box["x"], box["width"])
        page.wait_for_selector("article[aria-label='findings'], article.cause")


def test_a_zoomed_picture_stays_where_it_is_while_the_run_grows(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    with growing(tmp_path, steps=50, pause=0.1, seen=15) as (child, address):
        page = open_page(f"{address}/run/growing?steps=2-8")
        eventually(page, "document.querySelector('.heat')?.ariaLabel.includes('steps 2 to 8')", seconds=40)
        until_flushed(child)
        eventually(page, "document.querySelector('[data-fact=steps]').innerText === '50'", seconds=60)
        page.wait_for_timeout(500)
        assert "steps 2 to 8" in page.locator(".heat").get_attribute("aria-label")
