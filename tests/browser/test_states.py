"""Every state at the edge: what the page says and draws. Oracle: how tests/browser/states.py made the run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import states
from tests.browser.conftest import eventually, expect, patient, serving, settled
from tests.browser.test_export import rows, saved

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    folder = tmp_path_factory.mktemp("states")
    place = Path(__file__).parents[2]
    program = [sys.executable, "-m", "tests.browser.states", str(folder)]  # of its own: these runs' process is gone
    subprocess.run(program, check=True, cwd=place, env={**os.environ, "PYTHONPATH": str(place / "src")})
    with serving(folder) as address:
        yield folder, address


def opened(shown: tuple[Path, str], open_page: Callable[..., Any], name: str, width: int = 1280) -> Any:
    page = open_page(f"{shown[1]}/run/{name}", width=width)
    page.locator(".heat").wait_for()
    return settled(page)


def cells(page: Any) -> list[dict[str, str]]:
    """The cells of the picture, as they are saved."""
    return rows(saved(page, "gradient · rms", "CSV"))


def tip(page: Any, *pressed: str) -> str:
    page.locator(".heat").focus()
    for key in pressed:
        page.keyboard.press(key)
    found = page.locator(".holder > .tip")
    found.wait_for()
    return " ".join(found.inner_text().split())


def test_without_a_step_the_page_says_so(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{shown[1]}/run/none")
    page.wait_for_selector("section.map >> text=before its first optimizer step")
    expect(page.locator("[data-fact=steps]")).to_have_text("0")


@pytest.mark.parametrize("width", [1280, 390])
def test_one_step_is_one_column_and_dots(shown: tuple[Path, str], open_page: Callable[..., Any], width: int) -> None:
    page = opened(shown, open_page, "one", width)
    assert "step 0" in tip(page, "Home", "End")
    box = page.locator("canvas.base").bounding_box()
    narrow = """at => { const c = document.querySelector('canvas.base'), r = devicePixelRatio;
        const row = c.getContext('2d').getImageData(0, Math.round(27 * r), c.width, 1).data;
        let count = 0;
        for (let i = 0; i < row.length; i += 4) if (row[i + 3] && row[i + 2] > row[i] + 40) count++;
        return count / r; }"""
    assert 24 <= page.evaluate(narrow, box["width"]) <= 60  # with the letter of the row
    page.goto(f"{shown[1]}/run/one/findings")
    page.get_by_role("button", name="Every rule").click()
    page.wait_for_selector("text=not enough data")


def test_a_million_steps_and_one_bad_among_them(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = opened(shown, open_page, "million")
    found = [row for row in cells(page) if row["name"] == "layers.0.weight"]
    assert 500 < len(found) <= 1200
    bad = [row for row in found if row["state"] == "NaN or Inf"]
    assert len(bad) == 1
    assert int(bad[0]["first step"]) <= states.SPIKE <= int(bad[0]["last step"])
    width = int(bad[0]["last step"]) - int(bad[0]["first step"]) + 1
    assert f"One column = {width:,} steps" in page.locator("section.map").inner_text()


def test_where_nothing_is_finite_colours_have_no_range(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = opened(shown, open_page, "nan")
    page.wait_for_selector("section.map >> text=no finite value recorded")
    assert {row["state"] for row in cells(page)} == {"NaN or Inf"}
    assert "no finite value" in page.locator("section[aria-label=Loss] [role=img]").get_attribute("aria-label")


def test_a_run_that_died_says_when_it_was_last_heard_of(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = opened(shown, open_page, "died")
    page.wait_for_selector("text=ended without finish, no word since")
    expect(page.locator(".state")).to_contain_text("60 steps recorded")


def test_what_was_left_out_is_hatched_and_says_why(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = opened(shown, open_page, "skipped")
    left_out = {int(row["first step"]) for row in cells(page) if row["state"] == "not recorded"}
    assert left_out == set(range(20, 30))
    assert "not recorded" in tip(page, "Home", "Home", *["ArrowRight"] * 22)
    flags = [row["text"] for row in page.evaluate("fetch('/api/notes?run=skipped').then((answer) => answer.json())")]
    assert flags == ["own cost had reached 2.1 %"]


def test_exactly_zero_is_no_dark_end_of_the_scale(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = opened(shown, open_page, "zero")
    page.wait_for_selector("section.map >> text=exactly 0")
    found = [row for row in cells(page) if row["name"] == "layers.0.bias"]
    assert {row["state"] for row in found} == {"exactly zero"}


def test_after_a_restart_the_newest_numbers_stand(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = opened(shown, open_page, "restart")
    flags = page.evaluate("fetch('/api/notes?run=restart').then((answer) => answer.json())")
    assert [(one["step"], one["text"]) for one in flags] == [(40, "attempt 1 begins at step 40; 40 to 59 trained again")]
    told = rows(saved(page, "Loss", "CSV"))
    newest = [float(row["mean"]) for row in told if row["line"] == "Loss"]
    assert newest == [1 / (step + 1) + (step >= 40) for step in range(80)]


@pytest.mark.parametrize("width", [1280, 390])
def test_long_names_are_cut_and_told_in_full(shown: tuple[Path, str], open_page: Callable[..., Any], width: int) -> None:
    name = next(path.name for path in shown[0].iterdir() if path.name.startswith("sweep"))
    page = opened(shown, open_page, name, width)
    assert page.locator("h1").get_attribute("title") == name
    assert page.locator("h1").inner_text() == name  # the one place that has the room for it
    assert states.LONG[0] in tip(page, "Home", "Home")
    assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize(("name", "sentence"), [("newer", "Install a newer weighbridge"), ("damaged", "damaged")])
def test_what_cannot_be_read_is_a_sentence_and_the_others_go_on(
    shown: tuple[Path, str], browser: Any, name: str, sentence: str
) -> None:
    """The browser itself logs an answer that refuses, so this page is opened without the watch on its console."""
    page = patient(browser.new_page())
    page.goto(f"{shown[1]}/run/{name}")
    page.wait_for_selector(f"main >> text={sentence}")
    eventually(page, f"document.body.innerText.includes('{name}/')")  # the file within the run, and not where that lies here
    eventually(page, f"document.body.innerText.includes('{shown[0].parent}')", False)
    page.goto(f"{shown[1]}/")
    page.wait_for_selector("text=restart")
    eventually(page, "document.body.innerText.includes('newer')")
    page.close()


def test_nothing_is_wider_than_a_phone_with_long_names(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    name = next(path.name for path in shown[0].iterdir() if path.name.startswith("sweep"))
    layer = "transformer.encoder.blocks.17.attention.output_projection_after_the_heads"
    for address in (f"run/{name}/layer/{layer}", f"compare?run=one&run=zero&run={name}"):
        page = settled(open_page(f"{shown[1]}/{address}", width=390))
        assert page.evaluate("document.documentElement.scrollWidth") == 390, address


@pytest.mark.parametrize("name", ["none", "one", "nan", "died", "skipped", "zero", "restart", "sweep"])
def test_every_tab_of_every_state_is_without_an_error_and_no_wider_than_a_phone(
    shown: tuple[Path, str], open_page: Callable[..., Any], name: str
) -> None:
    """open_page fails where the console tells of an error."""
    run = next(path.name for path in shown[0].iterdir() if path.name.startswith(name))
    page = open_page(f"{shown[1]}/run/{run}", width=390)
    layer = page.get_by_role("link", name="Layers").get_attribute("href").removeprefix(f"/run/{run}/")
    for tab in ("", layer, "network", "tensors", "findings", "before", f"../../compare?run={run}&run=zero"):
        page.goto(f"{shown[1]}/run/{run}/{tab}")
        page.locator("main :is(h1, h2)").first.wait_for()
        settled(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 390, tab
