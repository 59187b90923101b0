"""Oracle: the store. What is saved from a chart must be the numbers that the reader reads, and pictures that open."""

from __future__ import annotations

import csv
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.browser.conftest import eventually, settled, two_runs
from weighbridge.store.record import open_run

pytestmark = pytest.mark.browser
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    folder = tmp_path_factory.mktemp("export")
    with two_runs(folder, 60, 50) as address:
        yield folder, address


def saved(page: Any, chart: str, what: str) -> Path:
    """What the chart's menu saves under this name, chosen by keyboard alone."""
    button = page.locator(f'[aria-label="save or share: {chart}"]').first
    button.wait_for(state="attached")
    button.focus()
    with page.expect_download() as started:
        page.keyboard.press("Enter")
        page.locator("[role=menu]").wait_for()
        assert page.locator("[role=menu] .micro").first.evaluate("(hint) => getComputedStyle(hint).opacity") == "1"
        for _ in range(("PNG", "SVG", "CSV").index(what)):
            page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
    page.locator("[role=menu]").wait_for(state="detached")
    assert page.evaluate("document.activeElement.ariaLabel") == f"save or share: {chart}"
    assert started.value.suggested_filename.endswith(f".{what.lower()}")
    return Path(started.value.path())


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def kinds(path: Path) -> dict[str, int]:
    """How many of each element an SVG has."""
    found: dict[str, int] = {}
    for element in ElementTree.parse(path).iter():
        name = element.tag.removeprefix(SVG)
        found[name] = found.get(name, 0) + 1
    return found


def test_the_loss_is_saved_to_the_last_bit(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    folder, address = shown
    page = open_page(f"{address}/run/first")
    page.locator("section[aria-label=Loss] .uplot").wait_for()
    found = rows(saved(page, "Loss", "CSV"))
    truth = open_run(folder / "first").losses()
    assert [int(row["first step"]) for row in found] == truth.steps.tolist()
    assert np.array_equal([float(row["mean"]) for row in found], truth.values, equal_nan=True)


def test_a_line_is_saved_as_shapes(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{shown[1]}/run/first")
    page.locator("section[aria-label=Loss] .uplot").wait_for()
    found = kinds(saved(page, "Loss", "SVG"))
    assert "image" not in found
    assert found["path"] > 3
    assert found["text"] > 6


def test_the_picture_of_all_tensors_is_saved_cell_by_cell(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    folder, address = shown
    page = open_page(f"{address}/run/first?steps=10-29")
    eventually(page, "document.querySelector('.heat')?.ariaLabel.includes('steps 10 to 29')")
    found = rows(saved(page, "gradient · rms", "CSV"))
    record = open_run(folder / "first")
    assert len(found) == len(record.tensors) * 20
    for tensor in record.tensors:
        truth = record.series(tensor.name, "gradient.rms", 10, 30).values
        mine = [row for row in found if row["name"] == tensor.name]
        assert [int(row["first step"]) for row in mine] == list(range(10, 30))
        assert np.array_equal(np.array([float(row["gradient.rms"]) for row in mine], np.float32), truth.astype(np.float32))


def test_the_picture_of_all_tensors_is_saved_as_pictures(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{shown[1]}/run/first")
    page.locator(".heat").wait_for()
    settled(page)
    found = kinds(saved(page, "gradient · rms", "SVG"))
    assert found["image"] == 1
    assert found["text"] > 5
    content = saved(page, "gradient · rms", "PNG").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    box = page.locator(".heat").bounding_box()
    assert width == 2 * (round(box["width"]) + 24)
    assert height > 2 * box["height"]


def test_ridges_and_units_are_saved(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    folder, address = shown
    page = open_page(f"{address}/run/small/layer/net.0?step=20")
    page.wait_for_selector("[aria-label^='weight: how many values are where']")
    page.wait_for_selector("section.units .exhibit [role=img]")
    steps = {int(row["step"]) for row in rows(saved(page, "weight over time", "CSV"))}
    assert min(steps) == 0
    assert max(steps) >= 49
    assert "image" not in kinds(saved(page, "weight over time", "SVG"))
    found = rows(saved(page, "units at step 20", "CSV"))
    weights = np.array([[float(row[f"weight {i}"]) for i in range(4)] for row in found])
    assert np.array_equal(weights, open_run(folder / "small").values("net.0.weight", "parameter", 20)[1])
    lines = rows(saved(page, "values of net.0.bias", "CSV"))
    bias = open_run(folder / "small").values("net.0.bias", "parameter", 20)[1]
    at_20 = next(row for row in lines if row["step"] == "20")
    assert [float(at_20[f"value {i}"]) for i in range(len(bias))] == bias.tolist()


def test_modules_layers_and_losses_of_runs_are_saved(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    folder, address = shown
    record = open_run(folder / "small")
    page = open_page(f"{address}/run/small/network?step=20")
    page.wait_for_selector("ol li")
    found = {row["module"]: row for row in rows(saved(page, "modules as executed", "CSV"))}
    truth = record.series("net.0.weight", "gradient.rms").values[20]
    assert float(found["net.0"]["gradient.rms"]) == truth
    assert kinds(saved(page, "modules as executed", "SVG"))["rect"] > 2
    page.goto(f"{address}/run/small/layer/net.0?step=20")
    page.wait_for_selector(".strip a")
    found = {row["layer"]: row for row in rows(saved(page, "gradient rms by depth", "CSV"))}
    assert float(found["net.0"]["gradient rms"]) == truth
    page.goto(address)
    page.wait_for_selector(".spark canvas")
    losses = rows(saved(page, "training losses", "CSV"))
    assert {row["run"] for row in losses} == {"first", "small"}
    assert kinds(saved(page, "training losses", "SVG"))["path"] >= 2


def test_what_comes_later_takes_no_menu_away(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    """Lines of single values come after all other lines, and take their place where nothing stood."""
    page = open_page(f"{shown[1]}/run/small")
    held: list[Any] = []
    page.route("**/api/lines?*", lambda route: held.append(route))
    page.goto(f"{shown[1]}/run/small/layer/net.0?step=20")
    page.wait_for_selector("[aria-label^='gradient, rms of net.0.bias: steps 0 to 49']")
    values = page.locator("[aria-label='save or share: values of net.0.bias']")
    assert values.count() == 0
    while not held:
        page.wait_for_timeout(50)
    for route in held:
        route.continue_()
    values.wait_for(state="attached")


@pytest.mark.parametrize(
    ("path", "sign", "least"),
    [
        ("/run/small", ".heat", 2),
        ("/", "[role=row][data-run]", 1),  # of all sparklines together
        ("/run/small/layer/net.0", "section.units .exhibit [role=img]", 9),
        ("/run/small/network", "ol li", 3),
        ("/run/small/tensors", "[data-statistic]", 4),
        ("/compare?run=small&run=first", "section.loss [role=img]", 1),
    ],
)
def test_every_chart_has_its_menu(
    shown: tuple[Path, str], open_page: Callable[..., Any], path: str, sign: str, least: int
) -> None:
    page = open_page(f"{shown[1]}{path}")
    page.wait_for_selector(sign)
    settled(page)
    count = "document.querySelectorAll('.charted').length"
    assert page.evaluate(count) >= least
    assert page.evaluate(count) == page.evaluate("document.querySelectorAll('.charted > .export').length")
    beside = "[...document.querySelectorAll('main canvas')].filter((c) => !c.closest('.charted, .spark, .key')).length"
    assert page.evaluate(beside) == 0


def test_the_link_is_the_whole_view(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{shown[1]}/run/first?steps=10-29")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator(".heat").wait_for()
    page.locator("[aria-label='save or share: gradient · rms']").focus()
    page.keyboard.press("Enter")
    page.get_by_role("menuitem", name="Copy link").click()
    page.wait_for_selector("text=copied")
    eventually(page, "navigator.clipboard.readText().then((text) => text === location.href)")


def test_what_is_unfolded_is_part_of_the_view(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    for path, button in (("/run/first/findings", "Every rule"), ("/compare?run=first&run=small", "equal setting")):
        page = open_page(shown[1] + path)
        page.get_by_role("button", name=button).click()
        eventually(page, f"document.querySelector('[aria-expanded=true]')?.innerText.includes('{button}')")
        page.reload()
        eventually(page, f"document.querySelector('[aria-expanded=true]')?.innerText.includes('{button}')")
