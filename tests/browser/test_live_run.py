"""Oracle: the training process itself. It prints what plain torch says of each step; the page must say the same."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.browser.conftest import eventually, expect, go_on, point, printed, serving, settled, training, where
from tests.server.training import EVIL
from weighbridge.store.record import open_run

pytestmark = pytest.mark.browser

STATISTICS = ("parameter.max", "gradient.max", "gradient.rms")
CHOSEN = "tensor=net.0.weight&tensor=net.0.bias&" + "&".join(f"stat={name}" for name in STATISTICS)


class Shown:
    """What several tests look at: a training of which all steps are recorded and which has not ended."""

    def __init__(self, folder: Path, address: str, truth: list[dict[str, float]]) -> None:
        self.folder, self.address, self.truth = folder, address, truth


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("live")
    with training(folder, "meanwhile", 60, 0.0) as child, serving(folder) as address:
        yield Shown(folder, address, [json.loads(line) for line in printed(child, "flushed")])


def test_the_page_grows_without_a_reload_and_shows_the_numbers_of_the_training(
    tmp_path: Path, open_page: Callable[..., Any]
) -> None:
    with training(tmp_path, "growing", 80, 0.05, hold=20) as child, serving(tmp_path) as address:
        lines = printed(child, "held")
        page = open_page(f"{address}/run/growing/tensors?{CHOSEN}&table=1")
        page.evaluate("window.marker = 'the same window'")
        page.wait_for_selector("tr[data-step='19']")
        before = settled(page).locator("article").first.bounding_box()
        go_on(child)
        lines += printed(child, "flushed")
        eventually(page, "document.querySelector('[data-fact=steps]')?.innerText", "80")
        page.wait_for_selector("tr[data-step='79']")
        # Each statistic comes with an answer of its own, the loss too.
        eventually(page, "[...document.querySelectorAll(\"tr[data-step='79'] td\")].every(cell => cell.innerText.trim())")
        assert page.evaluate("window.marker") == "the same window"
        assert page.locator("article").first.bounding_box() == before, "the layout jumped while the run grew"
        compare_table(page, {step["step"]: step for step in map(json.loads, lines)})


def compare_table(page: Any, told: dict[int, dict[str, float]]) -> None:
    cells = page.locator("tbody tr").evaluate_all(
        """rows => rows.map(row => [Number(row.dataset.step), Object.fromEntries([...row.querySelectorAll('td')]
           .map(cell => [cell.dataset.tensor + ' ' + cell.dataset.statistic, cell.textContent.trim()]))])"""
    )
    compared = 0
    for step, row in cells:
        if step not in told or not row["net.0.weight gradient.rms"]:
            continue
        assert float(row[" loss"]) == told[step]["loss"]
        assert float(row["net.0.weight parameter.max"]) == told[step]["parameter.max"]
        assert float(row["net.0.weight gradient.max"]) == told[step]["gradient.max"]
        assert math.isclose(float(row["net.0.weight gradient.rms"]), told[step]["gradient.rms"], rel_tol=1e-6)
        compared += 1
    assert compared >= 40


def test_a_pinned_step_shows_its_number_in_full(live: Shown, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{live.address}/run/meanwhile/tensors?{CHOSEN}&at=17")
    value = page.locator("[data-tensor='net.0.weight'] [data-statistic='gradient.rms']")
    expect(value).to_have_attribute("data-step", "17")
    recorded = open_run(live.folder / "meanwhile").series("net.0.weight", "gradient.rms").values[17]
    assert float(value.get_attribute("data-exact")) == recorded
    assert math.isclose(recorded, live.truth[17]["gradient.rms"], rel_tol=1e-6)
    expect(value).to_contain_text("step 17")


def test_hovering_tells_the_exact_number(live: Shown, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{live.address}/run/meanwhile/tensors?{CHOSEN}")
    chart = page.get_by_role("img", name="parameter.max of net.0.weight")
    page.wait_for_selector("[data-statistic='parameter.max']")  # the numbers are there
    settled(page)
    chart.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    tip = page.locator("dl.tip")
    expect(tip).to_contain_text("step 3")
    assert float(tip.locator("dd.mono").inner_text()) == live.truth[3]["parameter.max"]
    width = chart.bounding_box()["width"]
    point(page, chart, width - 19, 40, "document.querySelector('dl.tip')?.innerText.includes('step 59')")


def test_dragging_zooms_and_back_undoes_it(live: Shown, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{live.address}/run/meanwhile/tensors?{CHOSEN}")
    chart = page.get_by_role("img", name="Loss")
    chart.locator("canvas").wait_for()
    settled(page)
    box = chart.bounding_box()
    page.mouse.move(box["x"] + 300, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 600, box["y"] + 60, steps=4)
    page.mouse.up()
    eventually(page, "/steps=\\d+-\\d+/.test(location.search)")
    assert "&at=" not in where(page)
    low, high = (int(word) for word in where(page).split("steps=")[1].split("&")[0].split("-"))
    assert 0 < low < high < 60
    eventually(page, f"document.querySelector('[role=img]')?.ariaLabel.includes('steps {low} to {high}')")
    page.go_back()
    eventually(page, "document.querySelector('[role=img]')?.ariaLabel.includes('steps 0 to 59')")


def test_tensors_and_statistics_are_chosen_by_hand_and_kept_in_the_address(live: Shown, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{live.address}/run/meanwhile/tensors")
    page.get_by_role("button", name="net.2.bias", exact=True).click()
    page.wait_for_selector("[data-tensor='net.2.bias']")
    page.get_by_role("button", name="statistics").click()
    page.get_by_placeholder("find a statistic").fill("largest absolute")
    page.get_by_role("checkbox").nth(1).check()
    page.wait_for_selector("[data-statistic='gradient.abs_max']")
    page.keyboard.press("Escape")
    page.reload()
    page.wait_for_selector("[data-tensor='net.2.bias'] [data-statistic='gradient.abs_max']")
    page.get_by_role("button", name="biases", exact=True).click()
    eventually(page, "!document.querySelector(\"[data-tensor='net.0.weight']\")")


def test_a_tensor_named_as_markup_is_text(live: Shown, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{live.address}/run/meanwhile/tensors?tensor={quote(EVIL)}&stat=parameter.rms&table=1")
    page.wait_for_selector("article h3")
    settled(page)
    assert EVIL in [page.locator("article h3").get_attribute("title"), page.locator("thead code").last.inner_text()]
    page.wait_for_selector("tbody tr")
    settled(page)
    assert page.locator("img").count() == 0
    assert page.evaluate("window.harmed") is None


def test_the_list_shows_the_live_run_and_leads_to_it(live: Shown, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{live.address}/")
    row = page.get_by_role("row").filter(has_text="meanwhile")
    row.get_by_text("live, step 59").wait_for()
    row.get_by_role("link", name="meanwhile").click()
    page.wait_for_selector("h1:has-text('meanwhile')")
    assert page.evaluate("performance.getEntriesByType('navigation').length") == 1


@pytest.mark.parametrize("address", ["/", f"/run/meanwhile/tensors?{CHOSEN}&table=1"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(live: Shown, open_page: Callable[..., Any], address: str, theme: str) -> None:
    page = open_page(live.address + address, width=390, theme=theme)
    page.wait_for_selector("canvas")
    settled(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(246, 245, 241)", "dark": "rgb(18, 21, 25)"}[theme]


def test_an_empty_folder_says_how_to_record_a_first_run(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    with serving(tmp_path) as address:
        page = open_page(address + "/")
        page.wait_for_selector("text=No run yet")
        assert "weighbridge.watch(model)" in page.locator("pre").inner_text()
        assert str(tmp_path) in page.locator("section").inner_text()
        assert page.locator("canvas").count() == 0
