"""Oracle: two trainings that are made to part at a known step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import eventually, expect, judged, serving, settled
from tests.server.conftest import make_run
from tests.server.test_versus import PART, at, faster, train
from weighbridge.store.record import open_run

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    folder = tmp_path_factory.mktemp("compare")
    train(folder, "one")
    train(folder, "two", faster)
    make_run(folder, "made", steps=30)
    train(folder, "again")
    train(folder, "told", more=at(PART, 1.0))
    with serving(folder) as address:
        yield folder, address


def test_the_page_says_where_two_runs_part_and_in_what_they_differ(
    shown: tuple[Path, str], open_page: Callable[..., Any]
) -> None:
    page = open_page(f"{shown[1]}/compare?run=one&run=two")
    page.wait_for_selector(f"text=They part at step {PART}, in all 4 tensors at once")
    expect(page.locator("section.first")).to_contain_text("the optimizer was set differently")
    expect(page.locator("section.first table")).to_contain_text(f"learning rate from step {PART}")
    page.locator(".heat").wait_for()
    page.get_by_role("button", name=f"Show step {PART}").click()
    eventually(page, f"location.search.includes('at={PART}')")


def test_before_they_part_a_cell_is_the_same_and_after_it_a_factor(
    shown: tuple[Path, str], open_page: Callable[..., Any]
) -> None:
    page = open_page(f"{shown[1]}/compare?run=one&run=two")
    page.locator(".heat").wait_for()
    settled(page).locator(".heat").focus()
    page.keyboard.press("Home")
    page.keyboard.press("Home")
    expect(page.locator(".holder > .tip")).to_contain_text("the same to the last bit")
    page.keyboard.press("End")
    expect(page.locator(".holder > .tip")).to_contain_text("of A")


def test_equal_weights_with_other_losses_are_not_called_the_same(
    shown: tuple[Path, str], open_page: Callable[..., Any]
) -> None:
    page = open_page(f"{shown[1]}/compare?run=one&run=again")
    page.get_by_role("heading", name="The same to the last bit").wait_for()
    page = open_page(f"{shown[1]}/compare?run=one&run=told")
    page.get_by_role("heading", name=f"They part at step {PART}, in the loss, not in weights").wait_for()
    page.get_by_role("button", name=f"Show step {PART}").click()
    eventually(page, f"location.search.includes('at={PART}')")
    assert page.get_by_role("heading", name="The same to the last bit").count() == 0


def test_runs_are_chosen_in_the_list_and_compared_by_a_key(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{shown[1]}/")
    page.get_by_label("choose one").check()
    page.get_by_label("choose two").check()
    page.get_by_role("heading", name="Runs").click()
    page.keyboard.press("c")
    eventually(page, "location.pathname === '/compare'")
    page.wait_for_selector("text=They part at step")
    page.get_by_role("button", name="Swap A and B").click()
    eventually(page, "location.search.includes('run=two&run=one')")
    page.get_by_label("leave out one").click()
    page.wait_for_selector("text=One more run, please")


def test_losses_over_the_time_that_each_run_took(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{shown[1]}/compare?run=one&run=made")
    page.get_by_role("group", name="axis").get_by_role("button", name="time").click()
    eventually(page, "location.search.includes('axis=time')")
    page.wait_for_selector("[aria-label^='loss of 2 runs, ']")
    eventually(page, "!!document.querySelector(\"[aria-label$='of training']\")")
    judged(page).reload()
    page.wait_for_selector("[aria-label$='of training']")
    judged(page)  # until the times are there the axis is empty
    longest = max(open_run(shown[0] / name).own_cost()[1] for name in ("one", "made"))
    told = page.locator("[aria-label$='of training']").get_attribute("aria-label")
    number, unit = told.rpartition(" to ")[2].split()[:2]
    assert float(number) / (1000 if unit == "ms" else 1) == pytest.approx(longest, abs=0.06)  # of 0.1 s, as it is written
    page.get_by_role("group", name="axis").get_by_role("button", name="step").click()
    page.wait_for_selector("[aria-label^='loss of 2 runs, steps 0']")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("runs", ["run=one&run=two&run=made", "run=one&run=made", ""])
def test_every_choice_of_runs_is_drawn(shown: tuple[Path, str], open_page: Callable[..., Any], runs: str, width: int) -> None:
    page = open_page(f"{shown[1]}/compare?{runs}", width=width)
    page.wait_for_selector("main h2")
    settled(page)
    assert page.evaluate("document.documentElement.scrollWidth") == width
