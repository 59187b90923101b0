"""Oracle: the endpoint, whose numbers tests/server/test_network.py holds against torch."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import eventually, expect, serving, settled, two_runs, where

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    folder = tmp_path_factory.mktemp("network")
    with two_runs(folder, 20, 30) as address:
        yield folder, address


def test_modules_stand_in_order_with_their_gains(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    told = json.load(urllib.request.urlopen(f"{shown[1]}/api/network?run=small&stat=gradient.rms"))
    page = open_page(f"{shown[1]}/run/small/network")
    page.wait_for_selector("ol li")
    expect(settled(page).locator("ol li")).to_have_count(len(told["nodes"]))
    names = page.locator("ol .node b").all_inner_texts()
    assert names == [node["path"] or "model" for node in told["nodes"] if node["count"]]
    label = page.locator("[aria-label^='backward gains']").get_attribute("aria-label")
    assert len(label.split(",")) == sum(node["backward"] is not None for node in told["nodes"])


def test_modules_are_coloured_by_what_was_said_of_them(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    said = dict.fromkeys(("message", "fix"), "") | {"evidence": [], "explains": []}
    said |= {"rule": "dead-units", "title": "Units are dead", "certainty": "test", "first_step": 3, "told_step": 3}
    of_module = said | {"severity": "note", "key": "a", "place": "net.0"}
    of_weight = said | {"severity": "warning", "key": "b", "place": "net.0.weight"}
    told = {"known": True, "pending": False, "error": "", "steps": 30, "causes": [], "muted": [], "rules": []}
    told["findings"] = [of_module, of_weight]
    page = open_page("about:blank")
    page.route("**/api/findings?*", lambda route: route.fulfill(json=told))
    page.goto(f"{shown[1]}/run/small/network")
    page.wait_for_selector("ol li .badge .warning")
    page.get_by_label("statistic").select_option("health")
    eventually(page, "location.search", "?stat=health")
    grounds = "[...document.querySelectorAll('ol .node')].map((one) => one.style.background)"
    eventually(page, f"{grounds}[0]", "var(--warning-fill)")  # the gravest of both
    assert set(page.evaluate(grounds)[1:]) == {"var(--surface)"}
    expect(page.locator("ol .node .value").first).to_contain_text("values")
    page.get_by_text("warning: 1 modules").wait_for()


def test_a_node_leads_to_its_layer_and_the_step_goes_along(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{shown[1]}/run/small/network?step=5")
    page.wait_for_selector("[data-step='5']")
    page.keyboard.press("ArrowRight")
    eventually(page, "location.search.includes('step=6')")
    page.wait_for_selector("[data-step='6']")
    page.locator("ol .node").first.click()
    eventually(page, "location.pathname.includes('/layer/net.0') && location.search.includes('step=6')")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("run", ["small", "first"])
def test_every_state_is_drawn(shown: tuple[Path, str], open_page: Callable[..., Any], run: str, width: int) -> None:
    page = open_page(f"{shown[1]}/run/{run}/network", width=width, theme="dark")
    page.wait_for_selector("text=was not weighed" if run == "first" else "ol li")
    settled(page)
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_before_training_shows_loss_layers_and_the_lines_that_are_missing(
    tmp_path: Path, open_page: Callable[..., Any]
) -> None:
    from tests.server.test_before import train

    train(tmp_path, attach=False, steps=30)
    with serving(tmp_path) as address:
        page = open_page(f"{address}/run/net")
        page.get_by_role("link", name="Before training").click()
        page.get_by_text("Loss at the start").wait_for()
        assert where(page).endswith("/run/net/before")
        row = page.get_by_role("row").filter(has_text="Linear 6 → 8")
        expect(row).to_contain_text("redundant, leaving it out saves", use_inner_text=True)
        page.get_by_text("run.attach(weighbridge.biases(").wait_for()
        page.get_by_role("link", name="A bias that a norm or a softmax takes out again").first.wait_for()
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 844})
            eventually(page, "innerWidth", width)
            settled(page)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
