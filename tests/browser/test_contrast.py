"""Oracle: axe-core, and the formula of WCAG 2.2 over the tokens that pictures are drawn with (axe sees no canvas)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import PATIENCE, eventually, judged, serving, settled, training
from tests.server.conftest import make_run
from weighbridge.store.layout import create_run

pytestmark = pytest.mark.browser
FRONTEND = Path(__file__).parents[2] / "frontend"
AXE = FRONTEND / "node_modules" / "axe-core" / "axe.min.js"
TEXT = ("ink", "ink-2", "ink-3", "accent", "error", "clear")  # words are written in these
MARKS = ("weight", "bias", "warning", "note", "trouble", "run-a", "run-b")  # lines and marks, of which 3 to 1 is asked
GROUNDS = ("page", "surface")
PAGES = {
    "runs": ("/", ".spark"),
    "glance": ("/run/first", ".heat"),
    "glance zoomed": ("/run/first?steps=3-30&at=13&table=1", ".heat"),
    "glance empty": ("/run/none", "text=will be recorded"),
    "layer": ("/run/small/layer/net.0", "section.units"),
    "network": ("/run/small/network", "ol li"),
    "before training": ("/run/small/before", "section.layers"),
    "before any step": ("/run/none/before", "text=No step yet"),
    "runs chosen": ("/?group=state&pick=first", "text=1 chosen"),
    "runs not found": ("/?q=lr%3Eabc", "[role=alert]"),
    "tensors": ("/run/small/tensors?table=1", "[data-statistic]"),
    "findings": ("/run/first/findings", "article.detail"),
    "rules": ("/rules", "ul.all li"),
    "rule": ("/rules/dead-units", "article.rule"),
    "compare": ("/compare?run=small&run=first", "section.first"),
    "lab": ("/lab?data=moons&layers=3&play=12", "[data-fact=step][data-step='12']"),
    "lab of many inputs": ("/lab?data=digits&layers=8", "[data-fact=step]"),
    "lab refused": ("/lab?data=rnig", "text=Did you mean ring"),
    "nowhere": ("/nothing/here", "text=There is no such page"),
}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("contrast")
    make_run(folder, "first", steps=60)
    create_run(folder, "none", {})
    with training(folder, "small", 40, 0.0) as child:
        child.communicate("\n", timeout=PATIENCE)
    with serving(folder) as address:
        yield address


def faults(page: Any) -> list[str]:
    """What axe finds, each as one line."""
    assert AXE.exists(), "axe-core is not here: python hatch_build.py check brings it, and ./test runs that first"
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE.read_text(encoding="utf-8") + "\n;0")
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{fault['id']}: {node['html'][:160]} {node['failureSummary'].splitlines()[-1][:200]}"
        for fault in found["violations"]
        for node in fault["nodes"]
    ]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", PAGES)
def test_no_page_has_a_fault(shown: str, open_page: Callable[..., Any], name: str, width: int) -> None:
    """In the light, and in the dark that falls while it is open."""
    path, sign = PAGES[name]
    page = open_page(shown + path, width=width)
    page.wait_for_selector(sign)
    assert faults(judged(page)) == []
    page.emulate_media(color_scheme="dark")
    eventually(page, "document.documentElement.dataset.theme", "dark")
    assert faults(page) == []


def test_the_menu_of_a_chart_and_the_keys_have_no_fault(shown: str, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{shown}/run/first")
    page.locator("section[aria-label=Loss] .uplot").wait_for()
    page.locator("[aria-label='save or share: Loss']").focus()
    page.keyboard.press("Enter")
    page.locator("[role=menu]").wait_for()
    assert faults(page) == []
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    page.locator("dialog").wait_for()
    assert faults(page) == []


def test_nothing_moves_for_those_who_asked_for_that(shown: str, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{shown}/run/first")
    page.emulate_media(reduced_motion="reduce")
    page.locator(".heat").wait_for()
    settled(page)
    moving = """[...document.querySelectorAll('*')].filter((one) => {
        const look = getComputedStyle(one);
        const long = (text) => text.split(',').some((part) => parseFloat(part) > 0.01);
        return long(look.transitionDuration) || (look.animationName !== 'none' && long(look.animationDuration)); }).length"""
    assert page.evaluate(moving) == 0


def tokens(theme: str) -> dict[str, tuple[float, ...]]:
    """Each colour of a theme as linear red, green and blue."""
    text = (FRONTEND / "src" / "tokens.css").read_text(encoding="utf-8")
    block = (
        text[text.index(':root[data-theme="dark"]') :] if theme == "dark" else text[: text.index(':root[data-theme="dark"]')]
    )
    found = re.findall(r"--([a-z0-9-]+): #([0-9a-f]{6});", block)
    return {name: tuple(linear(int(hexed[i : i + 2], 16) / 255) for i in (0, 2, 4)) for name, hexed in reversed(found)}


def linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """WCAG 2.2: (lighter + 0.05) / (darker + 0.05)."""
    light = sorted(0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue in (one, other))
    return (light[1] + 0.05) / (light[0] + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("ground", GROUNDS)
def test_what_pictures_are_drawn_with_can_be_read(theme: str, ground: str) -> None:
    of = tokens(theme)
    weak = {name: contrast(of[name], of[ground]) for name in TEXT if contrast(of[name], of[ground]) < 4.5}
    weak |= {name: contrast(of[name], of[ground]) for name in MARKS if contrast(of[name], of[ground]) < 3}
    assert weak == {}
