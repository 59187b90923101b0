"""2,001 layers, 4,002 tensors: the page can be used, scrolls on its own, and keeps its memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import eventually, expect, judged, serving, settled
from tests.browser.test_export import rows, saved
from tests.server.test_heat import deep_run
from weighbridge.store.record import open_run

pytestmark = pytest.mark.browser
BLOCKS, STEPS = 1000, 12
MIB = 2**20


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    folder = tmp_path_factory.mktemp("deep")
    deep_run(folder, BLOCKS, STEPS)
    with serving(folder) as address:
        yield folder, address


def drawn(page: Any, count: int) -> Any:
    eventually(page, f"document.querySelector('.heat')?.ariaLabel.includes('of {count} rows')")
    return page.locator(".heat")


SCROLLED = "document.querySelector('.heat .scroller').scrollTop"
HEIGHT = "document.querySelector('.heat .scroller').scrollHeight"


def test_layers_scroll_inside_their_panel_and_by_the_strip_at_the_left(
    shown: tuple[Path, str], open_page: Callable[..., Any]
) -> None:
    page = open_page(f"{shown[1]}/run/deep")
    drawn(page, 2 * BLOCKS + 2)
    judged(page)
    page.evaluate("document.querySelector('.map').scrollIntoView()")
    box = page.locator(".heat").bounding_box()
    assert box["height"] < 900
    assert page.evaluate("document.documentElement.scrollHeight") < 3000
    page.mouse.move(box["x"] + 400, box["y"] + 200)
    page.mouse.wheel(0, 500)
    eventually(page, f"{SCROLLED} > 300")
    box = settled(page).locator(".heat").bounding_box()
    page.mouse.click(box["x"] + 4, box["y"] + 20 + (box["height"] - 40) * 0.75)
    eventually(page, f"Math.abs({SCROLLED} / {HEIGHT} - 0.75) < 0.06")
    drawn(page, 2 * BLOCKS + 2).focus()
    page.keyboard.press("ArrowDown")
    for _ in range(12):
        page.keyboard.press("PageDown")
    expect(page.locator(".holder > .tip b")).to_have_text("blocks.60")  # from the first row 121 further, two rows a block
    eventually(page, f"{SCROLLED} < {HEIGHT} * 0.2")  # the cursor is always seen


def test_a_folded_row_tells_between_what_its_tensors_lie(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    folder, address = shown
    page = open_page(f"{address}/run/deep?at=3")
    drawn(page, 2 * BLOCKS + 2).focus()
    page.keyboard.press("ArrowDown")
    record = open_run(folder / "deep")
    values = [float(record.series(f"blocks.0.{part}.weight", "gradient.rms").values[3]) for part in "ab"]
    expect(page.locator(".holder > .tip")).to_contain_text(f"{min(values):#.3g} to {max(values):#.3g}", use_inner_text=True)


def test_every_tensor_can_be_asked_for_and_saved(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{shown[1]}/run/deep?fold=none")
    drawn(page, 4 * BLOCKS + 2)
    found = rows(saved(page, "gradient · rms", "CSV"))
    assert len({row["name"] for row in found}) == 4 * BLOCKS + 2


@pytest.mark.parametrize("tab", ["layer/blocks.500.a", "network", "tensors", "findings", "?table=1"])
def test_the_other_pages_open(shown: tuple[Path, str], open_page: Callable[..., Any], tab: str) -> None:
    page = open_page(f"{shown[1]}/run/deep/{tab}" if tab[0] != "?" else f"{shown[1]}/run/deep{tab}")
    page.wait_for_selector("main h2, main h3, main article")
    settled(page)
    assert page.evaluate("document.querySelectorAll('main *').length") < 12_000
    assert page.evaluate("document.documentElement.scrollWidth") == 1280


def test_memory_stays_where_it_is(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{shown[1]}/run/deep")
    client = page.context.new_cdp_session(page)

    def heap() -> float:
        client.send("HeapProfiler.collectGarbage")
        metrics = {one["name"]: one["value"] for one in client.send("Performance.getMetrics")["metrics"]}
        return float(metrics["JSHeapUsedSize"]) / MIB

    def walk() -> None:
        for statistic, word in (("parameter.rms", "weight · rms"), ("gradient.rms", "gradient · rms")):
            page.get_by_label("statistic", exact=True).select_option(statistic)
            eventually(page, f"document.querySelector('.heat')?.ariaLabel.startsWith('{word} of ')")
            page.mouse.move(500, 500)
            page.mouse.wheel(0, 900)

    client.send("Performance.enable")
    drawn(page, 2 * BLOCKS + 2)
    walk()
    before = heap()
    for _ in range(5):
        walk()
    assert heap() < before + 15
