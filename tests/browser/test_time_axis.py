"""Charts over the time of training. Oracle: runs whose steps were given their times by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pyarrow as pa
import pytest

from tests.browser import states
from tests.browser.conftest import eventually, expect, judged, serving, settled
from tests.browser.test_export import rows, saved
from tests.browser.test_labels import spans
from tests.cli.calling import call
from tests.store import made_rows
from weighbridge.records import STEPS as COLUMNS
from weighbridge.store.writer import RankWriter

pytestmark = pytest.mark.browser
STEPS, SLOW_FROM = 100, 60
HOUR = 3600.0


def seconds(step: np.ndarray) -> np.ndarray:
    """A second a step, and ten from step 60 on."""
    return np.where(step < SLOW_FROM, step, SLOW_FROM - 1 + 10.0 * (step - SLOW_FROM + 1))


def timed(first: int, stop: int, attempt: int = 0, late: float = 0.0) -> pa.RecordBatch:
    told = made_rows.steps(first, stop, attempt).to_pylist()
    start = made_rows.steps(0, 1).to_pylist()[0]["time_ns"]
    return pa.RecordBatch.from_pylist(
        [row | {"time_ns": start + int((seconds(np.array(row["step"])) + late) * 1e9)} for row in told], COLUMNS
    )


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("time")
    states.made(folder, "uneven", made_rows.rows(0, STEPS), timed(0, STEPS), STEPS - 1)
    states.made(folder, "even", made_rows.rows(0, STEPS), made_rows.steps(0, STEPS), STEPS - 1)
    run = states.made(folder, "resumed", made_rows.rows(0, 50), timed(0, 50), 49, finish=False)
    again = RankWriter(run, attempt=1)
    again.write({"rows": made_rows.rows(40, 80, attempt=1), "steps": timed(40, 80, 1, HOUR)}, 40, 79)
    again.finish(80)
    with serving(folder) as address:
        yield address


def drag(page: Any, over: Any, low: float, high: float) -> None:
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + low * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + high * box["width"], y, steps=4)
    page.mouse.up()


def query(page: Any) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.evaluate("location.href")).query).items()}


@pytest.mark.parametrize("width", [1280, 390])
def test_the_loss_is_drawn_over_time_and_zoomed_in_it(shown: str, open_page: Callable[..., Any], width: int) -> None:
    page = judged(open_page(f"{shown}/run/uneven", width=width, theme="dark" if width == 390 else "light"))
    page.get_by_role("group", name="axis").get_by_role("button", name="time").click()
    eventually(page, "location.search", "?axis=time")
    page.wait_for_selector("[aria-label^='Loss: steps 0 to 99, 0.0 s to 7 min 39 s of training']")
    page.wait_for_selector(".heat[aria-label*='steps 0 to 99, 0.0 s to 7 min 39 s of training']")
    drag(page, settled(page).locator("section[aria-label=Loss] .u-over"), 0.5, 0.9)  # 229.5 s to 413.1 s: steps 77 to 95.4
    eventually(page, "location.search.includes('steps=')")
    low, high = (int(step) for step in query(page)["steps"].split("-"))
    assert abs(low - np.interp(0.5 * 459, seconds(np.arange(STEPS)), np.arange(STEPS))) < 2
    assert abs(high - np.interp(0.9 * 459, seconds(np.arange(STEPS)), np.arange(STEPS))) < 2
    bar = "document.querySelector('section[aria-label=Loss] .strip i').style"  # of all the run, in time and not in steps
    eventually(page, f"Math.abs(parseFloat({bar}.left) - {100 * seconds(np.array(low)) / 459}) < 0.1")
    assert (
        abs(float(page.evaluate(f"parseFloat({bar}.width)")) - 100 * (seconds(np.array(high)) - seconds(np.array(low))) / 459)
        < 0.1
    )
    judged(page).reload()
    page.wait_for_selector(f"[aria-label^='Loss: steps {low} to {high}, ']")
    expect(page.locator("section[aria-label=Loss]")).to_contain_text("time of training")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    told = rows(saved(page, "Loss", "CSV"))
    assert [float(row["seconds of training"]) for row in told] == seconds(np.arange(low, high + 1)).tolist()
    page.get_by_role("group", name="axis").get_by_role("button", name="step").click()
    page.wait_for_selector(f"[aria-label^='Loss: steps {low} to {high}, values']")


def test_numbers_beside_the_own_cost_have_room(shown: str, open_page: Callable[..., Any]) -> None:
    page = judged(open_page(f"{shown}/run/uneven"))  # 20 µs of a second: 0.002 %
    texts = spans(page, saved(page, "own cost in %", "SVG"))
    assert any(words.endswith("002 %") for words, *_ in texts), texts
    assert all(left >= 0 for _, left, _, _ in texts), texts


def test_a_pin_and_the_pointer_stand_at_the_same_step_in_time(shown: str, open_page: Callable[..., Any]) -> None:
    page = judged(open_page(f"{shown}/run/uneven?axis=time"))
    page.wait_for_selector("[aria-label*='of training']")
    chart = page.locator("section[aria-label=Loss] [role=img]")
    chart.focus()
    page.keyboard.press("End")
    expect(chart.locator(".tip")).to_contain_text("7 min 39 s")
    page.keyboard.press("Enter")
    eventually(page, "location.search.includes('at=99')")


@pytest.mark.parametrize("width", [1280, 390])
def test_layers_and_tensors_have_the_axis_too(shown: str, open_page: Callable[..., Any], width: int) -> None:
    page = judged(open_page(f"{shown}/run/uneven?axis=time&steps=50-80", width=width))
    page.get_by_role("link", name="Layers").click()
    page.wait_for_selector("article.column [aria-label*=', 50.0 s to 4 min 29 s of training']")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.get_by_role("group", name="axis").get_by_role("button", name="step").click()
    eventually(page, "!location.search.includes('axis')")
    page.goto(f"{shown}/run/uneven/tensors?axis=time")
    page.wait_for_selector("article[data-tensor] [aria-label*='0.0 s to 7 min 39 s of training']")
    drag(page, settled(page).locator("article[data-tensor] .u-over").first, 0.5, 0.9)
    eventually(page, "/steps=7[67]-9[56]/.test(location.search)")
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_the_pause_before_a_run_went_on_is_left_out_and_told(shown: str, open_page: Callable[..., Any]) -> None:
    page = judged(open_page(f"{shown}/run/resumed?axis=time"))
    panel = page.locator("section[aria-label=Loss]")
    # from step 39 of the first attempt to the end of step 40 of the second; then a step takes a second, or ten
    expect(panel).to_contain_text("1 h 00 min between attempts left out")
    page.wait_for_selector("[aria-label^='Loss: steps 0 to 79, 0.0 s to 4 min 18 s of training']")


def test_compared_runs_are_zoomed_in_time(shown: str, open_page: Callable[..., Any]) -> None:
    page = settled(open_page(f"{shown}/compare?run=uneven&run=resumed&axis=time"))
    page.wait_for_selector("[aria-label='loss of 2 runs, 0.0 s to 7 min 39 s of training']")
    drag(page, settled(page).locator("section.loss .picture"), 0.3, 0.6)
    eventually(page, "location.search.includes('seconds=')")
    low, high = (float(one) for one in query(page)["seconds"].split("-"))
    assert 0.2 * 459 < low < high < 0.7 * 459
    told = rows(saved(settled(page), "loss", "CSV"))
    every = seconds(np.arange(STEPS))
    inside = [step for step in range(STEPS) if low <= every[step] <= high]
    assert {float(row["first step"]) for row in told if row["run"] == "A"} >= set(inside)
    assert len([row for row in told if row["run"] == "A"]) <= len(inside) + 2
    page.reload()
    page.get_by_role("button", name="×").filter(has_text="s").first.wait_for()
    settled(page).keyboard.press("0")
    eventually(page, "!location.search.includes('seconds')")


def test_a_report_has_the_axis_too(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    run = states.made(tmp_path, "uneven", made_rows.rows(0, STEPS), timed(0, STEPS), STEPS - 1)
    assert call("report", str(run), "-o", str(tmp_path / "one.html")).code == 0
    page = settled(open_page(f"file://{tmp_path}/one.html"))
    page.get_by_role("group", name="axis").get_by_role("button", name="time").click()
    eventually(page, "location.hash.includes('axis=time')")
    page.wait_for_selector("[aria-label^='Loss: steps 0 to 99, 0.0 s to 7 min 39 s of training']")
