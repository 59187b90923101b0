"""Oracle: the training itself, which goes on while the page is looked at."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import eventually, expect, go_on, printed, serving, settled, training

pytestmark = pytest.mark.browser


@contextmanager
def growing(folder: Path, steps: int, pause: float, seen: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A training that has made `seen` steps and waits until it may go on, and the address of the page over it."""
    with training(folder, "growing", steps, pause, hold=seen) as child, serving(folder) as address:
        printed(child, "held")
        yield child, address


def test_the_picture_grows_with_the_training_and_nothing_jumps(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    with growing(tmp_path, steps=60, pause=0.15, seen=6) as (child, address):
        page = open_page(f"{address}/run/growing")
        page.locator(".heat").wait_for()
        page.evaluate("window.marker = 'the same window'")
        box = settled(page).locator(".heat").bounding_box()
        go_on(child)
        printed(child, "flushed")
        eventually(page, "document.querySelector('.heat')?.ariaLabel.includes('steps 0 to 59')")
        assert page.evaluate("window.marker") == "the same window"
        after = page.locator(".heat").bounding_box()
        assert (after["x"], after["width"]) == (box["x"], box["width"])
        page.wait_for_selector("article[aria-label='findings'], article.cause")


def test_a_zoomed_picture_stays_where_it_is_while_the_run_grows(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    with growing(tmp_path, steps=50, pause=0.1, seen=15) as (child, address):
        page = open_page(f"{address}/run/growing?steps=2-8")
        eventually(page, "document.querySelector('.heat')?.ariaLabel.includes('steps 2 to 8')")
        go_on(child)
        printed(child, "flushed")
        eventually(page, "document.querySelector('[data-fact=steps]')?.innerText", "50")
        page.wait_for_timeout(500)
        expect(page.locator(".heat")).to_have_attribute("aria-label", re.compile("steps 2 to 8"))
