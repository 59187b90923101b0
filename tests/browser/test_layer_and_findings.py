"""Oracle: the store and the rules themselves. What the pages show must be what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import eventually, expect, judged, point, settled, two_runs, where
from weighbridge.diagnosis import registry
from weighbridge.diagnosis.engine import diagnose
from weighbridge.store.record import open_run

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    folder = tmp_path_factory.mktemp("layers")
    with two_runs(folder, 60, 50) as address:
        yield folder, address


def test_a_weight_under_the_pointer_is_the_recorded_number(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    folder, address = shown
    page = open_page(f"{address}/run/small/layer/net.0?step=20")
    exhibit = page.locator("section.units .exhibit [role=img]").last
    exhibit.wait_for()
    point(page, exhibit, 40, 38, "!!document.querySelector('[data-weight]')")
    shown_weight = page.locator("[data-weight]")
    truth = open_run(folder / "small").values("net.0.weight", "parameter", 20)
    assert truth[0] <= 20
    assert float(shown_weight.get_attribute("data-weight")) == float(truth[1][0, 0])


def test_weight_and_bias_stand_side_by_side_with_the_same_charts(
    shown: tuple[Path, str], open_page: Callable[..., Any]
) -> None:
    page = open_page(f"{shown[1]}/run/small/layer/net.0")
    page.wait_for_selector("article[aria-label='net.0.bias']")
    settled(page)
    boxes = [page.locator(f"article[aria-label='net.0.{name}']").bounding_box() for name in ("weight", "bias")]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["height"] == boxes[1]["height"]
    for name in ("weight", "bias"):
        for chart in ("gradient, rms", f"update / {name}"):
            eventually(page, f"!!document.querySelector(\"[aria-label^='{chart} of net.0.{name}: steps 0 to 49']\")")
    eventually(page, "!!document.querySelector(\"[aria-label='values of net.0.bias: 8 values at 50 steps']\")")


def test_the_step_is_moved_by_keys_and_stands_in_the_address(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{shown[1]}/run/small/layer/net.0?step=4")
    page.wait_for_selector("[data-step='4']")
    page.keyboard.press("ArrowRight")
    eventually(page, "location.search.includes('step=5')")
    page.wait_for_selector("[data-step='5']")
    page.keyboard.press("]")
    eventually(page, "location.pathname.endsWith('/layer/net.1') || location.pathname.endsWith('/layer/net.2')")
    assert "step=5" in where(page)


def test_play_walks_through_the_kept_steps(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{shown[1]}/run/small/layer/net.0?step=0")
    page.wait_for_selector("[data-step='0']")
    page.route("**/api/layer?*step=6*", lambda route: None)  # it waits for this answer, and is still playing there
    page.get_by_role("button", name="Play").click()
    eventually(page, "Number(new URLSearchParams(location.search).get('step')) >= 3")
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Play").wait_for()


def test_ridges_and_density_are_drawn_of_what_is_chosen(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{shown[1]}/run/small/layer/net.0")
    page.wait_for_selector("[aria-label^='weight: how many values are where']")
    page.get_by_role("button", name="density").click()
    page.get_by_label("what is spread").select_option(label="output over time")
    page.wait_for_selector("[aria-label^='output: how many values are where'][aria-label$='in powers of two']")
    assert "view=density" in where(page)


def test_the_picture_leads_to_the_layer(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{shown[1]}/run/small")
    page.locator(".heat").wait_for()
    settled(page).locator(".heat").focus()
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    eventually(page, "location.pathname.includes('/layer/')")


def test_every_finding_stands_with_its_evidence_and_its_rule(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    folder, address = shown
    truth = diagnose(folder / "first")
    page = open_page(f"{address}/run/first/findings")
    page.wait_for_selector("nav[aria-label=findings] a")
    expect(page.locator("nav[aria-label=findings] a")).to_have_count(len(truth.findings))
    for finding in truth.findings:
        page.locator("nav[aria-label=findings] a").filter(has_text=registry.rule(finding.rule).title).first.click()
        detail = page.locator("article.detail")
        expect(detail).to_contain_text(finding.fix, use_inner_text=True)
        expect(detail.locator(".evidence .evidence")).to_have_count(len(finding.evidence))
    page.get_by_role("button", name="Every rule").click()
    expect(page.locator("section.rules li")).to_have_count(len(truth.answers))
    page.locator("article.detail").get_by_role("link", name="The rule").click()
    eventually(page, "location.pathname.startsWith('/rules/')")


def test_all_rules_are_listed_found_and_explained(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{shown[1]}/rules")
    page.wait_for_selector("ul.all li")
    expect(page.locator("ul.all li")).to_have_count(len(registry.rules()))
    page.get_by_placeholder("find a rule").fill("nonfinite-origin")
    eventually(page, "document.querySelectorAll('ul.all li').length", 1)
    page.locator("ul.all a").click()
    page.wait_for_selector("h2:has-text('How it decides')")
    told = registry.explanation(registry.rule("nonfinite-origin"))
    expect(page.locator("article.rule")).to_contain_text(told.summary, use_inner_text=True)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize(
    "place", ["run/small/layer/net.0", "run/first/layer/layers.0", "run/first/findings", "rules", "rules/nothing"]
)
def test_no_page_needs_sideways_scrolling(
    shown: tuple[Path, str], open_page: Callable[..., Any], place: str, width: int
) -> None:
    page = open_page(f"{shown[1]}/{place}", width=width, theme="dark")
    page.wait_for_selector("main h1, main h2")
    settled(page)
    assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize(
    ("path", "sign"),
    [
        ("/run/small", ".heat"),
        ("/run/small/layer/net.0", "section.units"),
        ("/run/small/network", "ol li"),
        ("/run/small/tensors", "[data-statistic]"),
    ],
)
def test_of_runs_that_have_ended_nothing_is_asked_twice(
    shown: tuple[Path, str], open_page: Callable[..., Any], path: str, sign: str
) -> None:
    page = open_page(f"{shown[1]}{path}")
    page.wait_for_selector(sign)
    judged(page).reload()  # the rules have read the run by now, and what they say is no news
    page.wait_for_selector(sign)
    settled(page).wait_for_timeout(3000)
    asked = page.evaluate("performance.getEntriesByType('resource').map((one) => one.name.split('/api/')[1])")
    names = [
        name for name in asked if name and not name.startswith(("findings?", "runs"))
    ]  # these until the rules have answered
    assert len(names) > 1
    assert sorted(names) == sorted(set(names))


def test_rows_of_the_list_are_not_asked_again_once_the_rules_have_read_the_runs(
    shown: tuple[Path, str], open_page: Callable[..., Any]
) -> None:
    page = open_page(f"{shown[1]}/")
    page.wait_for_selector(".spark")
    eventually(page, "document.body.innerText.includes('not read yet')", False)
    settled(page)
    page.evaluate("performance.clearResourceTimings()")
    page.wait_for_timeout(3000)
    asked = page.evaluate("performance.getEntriesByType('resource').map((one) => one.name.split('/api/')[1])")
    assert [name for name in asked if name and name.startswith("rows?")] == []
