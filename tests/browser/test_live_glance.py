"""Oracle: the training itself, which goes on while the page is looked at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import eventually, serving, training

pytestmark = pytest.mark.browser


def test_the_picture_grows_with_the_training_and_nothing_jumps(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    with training(tmp_path, "growing", 60, 0.15) as child, serving(tmp_path) as address:
        assert child.stdout is not None
        for _ in range(6):
            child.stdout.readline()
        page = open_page(f"{address}/run/growing")
        page.locator(".heat").wait_for()
        page.evaluate("window.marker = 'the same window'")
        box = page.locator(".heat").bounding_box()
        for line in iter(child.stdout.readline, "flushed\n"):
            assert line
        eventually(page, "document.querySelector('.heat').ariaLabel.includes('steps 0 to 59')", seconds=60)
        assert page.evaluate("window.marker") == "the same window"
        after = page.locator(".heat").bounding_box()
        assert (after["x"], after["width"]) == (box["x"], box["width"])
        page.wait_for_selector("article[aria-label='findings'], article.cause")


def test_a_zoomed_picture_stays_where_it_is_while_the_run_grows(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    with training(tmp_path, "growing", 50, 0.1) as child, serving(tmp_path) as address:
        assert child.stdout is not None
        for _ in range(15):
            child.stdout.readline()
        page = open_page(f"{address}/run/growing?steps=2-8")
        eventually(page, "document.querySelector('.heat')?.ariaLabel.includes('steps 2 to 8')", seconds=40)
        for line in iter(child.stdout.readline, "flushed\n"):
            assert line
        eventually(page, "document.querySelector('[data-fact=steps]').innerText === '50'", seconds=60)
        page.wait_for_timeout(500)
        assert "steps 2 to 8" in page.locator(".heat").get_attribute("aria-label")
