"""Oracle: the rules and the store. The file is opened from the disk: no server runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import eventually, expect, settled
from tests.cli.calling import call
from tests.server.conftest import make_run
from weighbridge.diagnosis.engine import diagnose
from weighbridge.store.record import open_run

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("report")
    run = make_run(folder, "made", steps=120)
    file = folder / "made.html"
    answer = call("report", str(run), "-o", str(file))
    assert answer.code == 0
    assert file.name in answer.out
    return run, f"file://{file}"


def test_the_file_shows_cause_picture_and_numbers_without_a_server(
    report: tuple[Path, str], open_page: Callable[..., Any]
) -> None:
    run, address = report
    page = open_page(address)
    cause = diagnose(run).causes[0]
    page.wait_for_selector("article.cause")
    expect(page.locator("article.cause")).to_contain_text(cause.message, use_inner_text=True)
    settled(page).locator(".heat").focus()
    page.keyboard.press("Home")
    page.keyboard.press("Home")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    tip = page.locator(".holder > .tip")
    expect(tip).to_contain_text("step 5")
    truth = open_run(run).series("layers.0.weight", "gradient.rms").values[5]
    expect(tip).to_contain_text(f"{truth:.2f}")


def test_it_zooms_changes_statistic_and_goes_back_inside_the_file(
    report: tuple[Path, str], open_page: Callable[..., Any]
) -> None:
    page = open_page(f"{report[1]}#/run/made?steps=20-60")
    eventually(page, "document.querySelector('.heat')?.ariaLabel.includes('steps 20 to 60')")
    page.get_by_label("statistic").select_option("update.ratio")
    eventually(page, "document.querySelector('.heat')?.ariaLabel.startsWith('update / weight')")
    page.get_by_role("button", name="weights", exact=True).click()
    eventually(page, "document.querySelector('.heat')?.ariaLabel.includes('of 2 rows')")
    page.get_by_role("link", name="Findings").click()
    page.wait_for_selector("article.detail")
    page.get_by_role("link", name="The rule").click()
    page.wait_for_selector("article.rule")
    page.go_back()
    page.wait_for_selector("article.detail")


@pytest.mark.parametrize("width", [1280, 390])
def test_it_is_as_wide_as_the_window(report: tuple[Path, str], open_page: Callable[..., Any], width: int) -> None:
    page = open_page(report[1], width=width, theme="dark")
    page.locator(".heat").wait_for()
    settled(page)
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_on_paper_it_is_light_without_controls_and_says_what_is_drawn(
    report: tuple[Path, str], open_page: Callable[..., Any]
) -> None:
    page = open_page(report[1], width=794, theme="dark")
    page.locator(".heat").wait_for()
    settled(page).emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    expect(page.locator("header")).to_be_hidden()
    expect(page.get_by_label("statistic")).to_be_hidden()
    expect(page.locator(".map h2")).to_contain_text("Every tensor, every step: gradient · rms", use_inner_text=True)
    # sticky prints blank
    eventually(page, "getComputedStyle(document.querySelector('.heat canvas.base')).position", "static")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_several_runs_open_side_by_side_and_each_has_its_page(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    places = [make_run(tmp_path, name, steps=steps) for name, steps in (("one", 60), ("other", 40))]
    file = tmp_path / "both.html"
    assert call("report", *map(str, places), "-o", str(file)).code == 0
    page = open_page(f"file://{file}")
    page.locator(".heat").wait_for()
    expect(page.locator("main")).to_contain_text("They differ from the first step")
    expect(page.locator(".heat")).to_have_attribute("aria-label", re.compile("steps 0 to 39"))
    page.get_by_label("statistic").select_option("parameter.rms")
    eventually(page, "document.querySelector('.heat')?.ariaLabel.startsWith('parameter.rms')")
    page.get_by_role("link", name="other", exact=True).click()
    eventually(page, "document.querySelector('h1')?.textContent", "other")
    page.get_by_role("link", name="Compare", exact=True).click()
    page.locator(".faces canvas").wait_for()


def test_the_list_of_a_report_of_one_run_shows_it(report: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{report[1]}#/")
    page.get_by_role("link", name="made", exact=True).click()
    page.locator(".heat").wait_for()
