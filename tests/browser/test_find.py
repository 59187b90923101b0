"""Oracle: the trainings in the folder. A few letters lead to a layer, a run, a rule; Back leads to where one was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import eventually, judged, serving, where
from tests.server.conftest import make_run

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("find")
    make_run(folder, "alder", steps=30)
    make_run(folder, "birch", steps=30)
    with serving(folder) as address:
        yield address


def sought(page: Any, words: str, key: str = "/") -> None:
    page.keyboard.press(key)
    page.get_by_role("combobox", name="find").fill(words)
    goals = page.get_by_role("listbox", name="what fits").get_by_role("option")
    goals.filter(has_text=words.split()[-1]).first.wait_for()


def test_letters_lead_to_a_layer_a_run_and_a_rule(shown: str, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{shown}/run/alder")
    page.get_by_role("heading", name="alder").wait_for()
    sought(page, "layer layers.0")
    page.keyboard.press("Enter")
    eventually(page, "location.pathname", "/run/alder/layer/layers.0")
    sought(page, "run birch", "Control+k")
    page.keyboard.press("Enter")
    eventually(page, "location.pathname", "/run/birch")
    sought(page, "setting lr 0.1")
    page.keyboard.press("Enter")
    eventually(page, "location.search", "?q=lr%3D0.1")  # all runs that are set so
    sought(page, "setting lr", "Control+k")
    page.keyboard.press("Enter")
    eventually(page, "location.search", "?column=lr")
    sought(page, "vanishing", "Control+k")
    page.keyboard.press("Enter")
    eventually(page, "location.pathname", "/rules/vanishing-gradient")


def test_what_is_not_there_is_said_and_escape_closes(shown: str, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{shown}/run/alder")
    page.get_by_role("heading", name="alder").wait_for()
    page.keyboard.press("/")
    page.get_by_role("combobox", name="find").fill("no such thing")
    page.get_by_text("Nothing here is called so").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("combobox", name="find").wait_for(state="detached")
    assert where(page).endswith("/run/alder")


def test_back_finds_the_page_where_it_was_left(shown: str, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{shown}/run/alder")
    page.set_viewport_size({"width": 1280, "height": 420})
    judged(page)  # what the rules say stands above, and would move the page
    page.evaluate("scrollTo(0, 300)")
    eventually(page, "Math.round(scrollY)", 300)
    page.get_by_role("link", name="Layers").evaluate("link => link.click()")
    eventually(page, "scrollY", 0)
    page.wait_for_selector(".columns")
    page.go_back()
    page.wait_for_selector(".heat")
    eventually(page, "Math.round(scrollY)", 300)
    held: list[Any] = []  # its numbers come late, after all patience
    page.route("**/api/run?*", lambda route: held.append(route))
    page.reload()
    page.wait_for_timeout(3_500)
    for route in held:
        route.continue_()
    page.wait_for_selector(".heat")
    eventually(page, "Math.round(scrollY)", 300)
