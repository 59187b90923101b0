"""No label of a picture is cut by its edge or stands over its neighbour. Oracle: the SVG, its text measured by the browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

import weighbridge
from tests.browser.conftest import serving, settled
from tests.browser.test_export import SVG, saved
from tests.store import made_rows
from weighbridge.store.layout import create_run
from weighbridge.store.writer import RankWriter

pytestmark = pytest.mark.browser
WIDTH = """([text, font]) => {
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = font;
  return pen.measureText(text).width;
}"""
LATE = 99_950
BEFORE = {"start": 0.0, "middle": 0.5, "end": 1.0}


def spans(page: Any, file: Path) -> list[tuple[str, float, float, float]]:
    """Every text of a picture, without the title above it: its words, left and right edge and height, px."""
    found = []
    for one in ElementTree.parse(file).iterfind(f".//{SVG}g[@transform]//{SVG}text"):
        font = f"{one.get('font-weight')} {one.get('font-size')}px {one.get('font-family')}"
        wide = page.evaluate(WIDTH, [one.text, font])
        left = float(one.get("x", "nan")) - BEFORE[one.get("text-anchor", "start")] * wide
        found.append((one.text or "", left, left + wide, float(one.get("y", "nan"))))
    return found


def check_apart(texts: list[tuple[str, float, float, float]], width: float) -> None:
    """Inside the picture, and none over another."""
    for words, left, right, _ in texts:
        assert left >= 0, (words, left)
        assert right <= width, (words, right)
    for one in texts:
        for other in texts:
            if one is not other and abs(one[3] - other[3]) < 6 and one[1] <= other[1]:
                assert one[2] <= other[1], (one, other)


def check_room(page: Any, name: str) -> list[str]:
    """All words of the picture, after they were found to lie inside it and beside each other."""
    file = saved(page, name, "SVG")
    root = ElementTree.parse(file).getroot()
    body = page.locator(f'.charted:has([aria-label="save or share: {name}"]) .picture').first.bounding_box()
    texts = spans(page, file)
    check_apart(texts, body["width"])
    assert root.find(f".//{SVG}clipPath") is None  # nothing is cut to its room
    return [words for words, *_ in texts]


def test_the_heads_of_a_convolution_have_room_on_a_phone(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(12, 24, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    images = torch.randn(8, 12, 6, 6)
    model(images)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with weighbridge.watch(model, run=weighbridge.init(dir=tmp_path, name="cnn", quiet=True)):
        for _ in range(3):
            nn.functional.cross_entropy(model(images), torch.arange(8) % 2).backward()
            optimizer.step()
            optimizer.zero_grad()
    with serving(tmp_path) as address:
        page = open_page(f"{address}/run/cnn/layer/0", width=390)
        page.wait_for_selector("text=one row = one output channel")
        settled(page)
        words = check_room(page, "units at step 2")
    assert {"kernels, 3 × 3", "bias", "fires for", "gradient", "inputs 0 … 11"} <= set(words)


def test_late_steps_have_room_beside_the_ridges(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    writer = RankWriter(create_run(tmp_path, "late", {}))
    steps = (LATE, LATE + 40)
    writer.write(
        {"rows": made_rows.rows(*steps), "steps": made_rows.steps(*steps), "tensors": made_rows.tensors()}, LATE, steps[1] - 1
    )
    writer.finish(steps[1])
    with serving(tmp_path) as address:
        for width in (1280, 390):
            page = open_page(f"{address}/run/late/layer/layers.0", width=width)
            page.wait_for_selector("[aria-label^='weight: how many values are where']")
            settled(page)
            assert any(word.startswith("99,9") for word in check_room(page, "weight over time"))


@pytest.mark.parametrize("width", [1280, 390])
def test_names_of_two_models_have_room_beside_the_picture(tmp_path: Path, open_page: Callable[..., Any], width: int) -> None:
    models = {name: nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)) for name in ("generator", "critic")}
    with weighbridge.init(dir=tmp_path, name="two", quiet=True) as run:
        for name, model in models.items():
            run.watch(model, name=name)
        for _ in range(3):
            for model in models.values():
                model(torch.ones(3, 4)).square().mean().backward()
                torch.optim.SGD(model.parameters(), lr=0.1).step()
    with serving(tmp_path) as address:
        page = open_page(f"{address}/run/two", width=width)
        page.locator(".heat").wait_for()
        settled(page)
        box = page.locator(".heat").bounding_box()
        told = page.locator("section.map [aria-label^='save or share: ']").get_attribute("aria-label")
        texts = spans(page, saved(page, told.removeprefix("save or share: "), "SVG"))
        check_apart(texts, box["width"])
        assert any(words.startswith("critic:" if width > 390 else "crit") for words, *_ in texts)
        page.goto(f"{address}/run/two/layer/critic:0")
        page.get_by_role("heading", name="critic:0").wait_for()
        page.goto(f"{address}/run/two/network")
        page.locator("ol li").first.wait_for()
        if width > 390:
            page.get_by_text("generator:0").wait_for()
