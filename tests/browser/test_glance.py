"""Oracle: the store itself. What the picture shows under the pointer must be what the reader reads; what the rules say must
stand on the page in their words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browser.conftest import eventually, expect, judged, serving, settled, where
from tests.server.conftest import make_run
from tests.server.test_heat import deep_run
from weighbridge.diagnosis.engine import diagnose
from weighbridge.store.layout import create_run
from weighbridge.store.record import open_run

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Runs of known numbers: `first` of 200 steps, `one` of one step, `deep` of 82 tensors, `none` without any step."""
    folder = tmp_path_factory.mktemp("glance")
    make_run(folder, "first", steps=200)
    make_run(folder, "one", steps=1)
    deep_run(folder, 20)
    create_run(folder, "none", {})
    with serving(folder) as address:
        yield folder, address


def picture(page: Any) -> Any:
    found = page.locator(".heat")
    found.wait_for()
    return found


def test_hovering_a_cell_tells_its_exact_number(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    folder, address = shown
    page = open_page(f"{address}/run/first?steps=20-39")
    picture(page).focus()
    page.keyboard.press("Home")
    page.keyboard.press("Home")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    tip = page.locator(".holder > .tip")
    expect(tip).to_contain_text("layers.0.bias")
    expect(tip).to_contain_text("step 24")
    eventually(page, "!!document.querySelector('.holder > .tip [data-cell]')?.dataset.cell")
    truth = open_run(folder / "first").series("layers.0.bias", "gradient.rms").values[24]
    assert float(tip.locator("[data-cell]").get_attribute("data-cell")) == truth


def test_a_drag_zooms_into_steps_and_double_click_goes_back(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{shown[1]}/run/first")
    page.wait_for_selector("article.cause")
    settled(page)
    box = picture(page).bounding_box()
    page.mouse.move(box["x"] + 400, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + 700, box["y"] + 32, steps=5)
    page.mouse.up()
    eventually(page, "/steps=\\d+-\\d+/.test(location.search)")
    low, high = (int(word) for word in where(page).split("steps=")[1].split("&")[0].split("-"))
    eventually(page, f"document.querySelector('.heat')?.ariaLabel.includes('steps {low} to {high}')")
    assert 0 < low < high < 199
    box = picture(settled(page)).bounding_box()
    page.mouse.dblclick(box["x"] + 500, box["y"] + 30)
    eventually(page, "document.querySelector('.heat')?.ariaLabel.includes('steps 0 to 199')")
    page.reload()
    picture(page)


def test_keys_mark_steps_and_rows_and_zoom_into_them(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{shown[1]}/run/deep?fold=none")
    eventually(page, "document.querySelector('.heat')?.ariaLabel.includes('of 82 rows, steps 0 to 3')")
    picture(settled(page)).focus()
    for key in ("Home", "Home", "PageDown", "ArrowRight", "z"):  # the first only shows the cell
        page.keyboard.press(key)
    for key in ("Escape", "z", *["ArrowRight"] * 2, *["ArrowDown"] * 3):
        page.keyboard.press(key)
    assert "steps=" not in where(page)
    page.keyboard.press("z")
    eventually(page, "new URLSearchParams(location.search).get('rows')", "10-13")
    eventually(page, "new URLSearchParams(location.search).get('steps')", "1-3")
    eventually(page, "document.querySelector('.heat')?.ariaLabel.includes('steps 1 to 3')")
    page.keyboard.press("0")
    eventually(page, "document.querySelector('.heat')?.ariaLabel.includes('of 82 rows, steps 0 to 3')")
    assert "steps=" not in where(page)


def test_statistic_and_rows_are_chosen_and_stand_in_the_address(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{shown[1]}/run/first")
    picture(page)
    page.get_by_label("statistic").select_option("update.ratio")
    eventually(page, "document.querySelector('.heat')?.ariaLabel.startsWith('update / weight of 3 rows')")
    page.get_by_role("button", name="biases").click()
    eventually(page, "document.querySelector('.heat')?.ariaLabel.startsWith('update / weight of 1 rows, biases only')")
    assert "stat=update.ratio&show=b" in where(page)
    page.go_back()
    eventually(page, "document.querySelector('.heat')?.ariaLabel.startsWith('update / weight of 3 rows')")


def test_the_most_likely_cause_stands_first_in_the_rules_words(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    folder, address = shown
    page = open_page(f"{address}/run/first")
    cause = diagnose(folder / "first").causes[0]
    card = page.locator("article.cause")
    card.wait_for()
    told = judged(page).locator("article.cause").inner_text()
    assert cause.message in told
    assert cause.fix in told
    assert "Try first" in told
    page.get_by_role("button", name="Show on heat map").click()
    eventually(page, f"location.search.includes('at={cause.first_step}')")


def test_many_layers_are_folded_and_open_by_hand(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{shown[1]}/run/deep")
    eventually(page, "document.querySelector('.heat')?.ariaLabel.includes('of 42 rows')")
    picture(page).focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    eventually(page, "location.search.includes('open=blocks.0')")
    eventually(page, "document.querySelector('.heat')?.ariaLabel.includes('of 44 rows')")
    page.get_by_label("fold").select_option("none")
    eventually(page, "document.querySelector('.heat')?.ariaLabel.includes('of 82 rows')")


def test_the_same_numbers_as_a_table(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{shown[1]}/run/first?table=1&stat=gradient.nonfinite_count&at=13&steps=0-60")
    row = page.locator("section.map tbody tr").first
    row.wait_for()
    settled(page)
    assert "NaN" not in row.inner_text()
    assert "5.00" in row.inner_text()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("run", ["first", "one", "deep", "none"])
def test_every_state_of_a_run_is_drawn_without_a_complaint(
    shown: tuple[Path, str], open_page: Callable[..., Any], run: str, width: int
) -> None:
    page = open_page(f"{shown[1]}/run/{run}", width=width, theme="dark" if width == 390 else "light")
    page.wait_for_selector("section.map")
    page.wait_for_selector("text=will be recorded" if run == "none" else ".heat")
    settled(page)
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_cell_is_the_colour_of_its_number(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{shown[1]}/run/first?stat=parameter.zero_fraction&steps=0-13")
    picture(page)
    settled(page)
    pixel = """at => { const c = document.querySelector('canvas.base'), r = devicePixelRatio;
        return [...c.getContext('2d').getImageData(Math.round(at[0] * r), Math.round(at[1] * r), 1, 1).data].slice(0, 3) }"""
    box = page.locator("canvas.base").bounding_box()
    lefts = [page.evaluate(pixel, [x, 27]) for x in np.linspace(box["width"] * 0.2, box["width"] * 0.92, 200).tolist()]
    zero = [20, 16, 50]  # the dark end: made_rows' share of zeros is 0 at every seventh step
    assert zero in lefts
    assert any(colour != zero for colour in lefts)
