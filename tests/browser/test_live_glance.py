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

# Left, top, width and height of what a page at a glance is made of, and where its tabs begin.
PLACES = """[
    ...[...document.querySelectorAll('.top > *, section.map, .heat, section[aria-label="own cost"]')]
        .map(one => one.getBoundingClientRect()).map(({x, y, width, height}) => [x, y, width, height].map(Math.round)),
    ...[...document.querySelectorAll('nav[aria-label=Run] a')].map(one => Math.round(one.offsetLeft))]"""


@contextmanager
def growing(folder: Path, steps: int, pause: float, seen: int, harm: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A training that has made `seen` steps and waits until it may go on, and the address of the page over it."""
    with training(folder, "growing", steps, pause, hold=seen, harm=harm) as child, serving(folder) as address:
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


def test_nothing_moves_when_a_finding_appears(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    with growing(tmp_path, steps=30, pause=0.05, seen=25, harm="harm") as (child, address):
        pages = [open_page(f"{address}/run/growing", width) for width in (1280, 390)]
        for page in pages:
            page.get_by_text("rules looked").wait_for()
        before = [settled(page).evaluate(PLACES) for page in pages]
        go_on(child)
        printed(child, "flushed")
        for page, places in zip(pages, before, strict=True):
            page.wait_for_selector("article.cause h2")
            assert settled(page).evaluate(PLACES) == places
        wide, phone = pages
        assert wide.locator("article.cause .foot").is_visible()
        cut = phone.locator("article.cause")
        assert not cut.locator(".foot").is_visible()
        phone.get_by_role("button", name="all of it").click()
        cut.locator(".foot").scroll_into_view_if_needed()
        assert cut.locator(".foot").is_visible()


def test_a_zoomed_picture_stays_where_it_is_while_the_run_grows(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    with growing(tmp_path, steps=50, pause=0.1, seen=15) as (child, address):
        page = open_page(f"{address}/run/growing?steps=2-8")
        eventually(page, "document.querySelector('.heat')?.ariaLabel.includes('steps 2 to 8')")
        go_on(child)
        printed(child, "flushed")
        eventually(page, "document.querySelector('[data-fact=steps]')?.innerText", "50")
        page.wait_for_timeout(500)
        expect(page.locator(".heat")).to_have_attribute("aria-label", re.compile("steps 2 to 8"))
