"""Oracle: the store, and the weights that the training was made to have. What is drawn is read back by the chart's own CSV."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import weighbridge
from tests.browser.conftest import eventually, expect, point, serving, settled
from tests.browser.test_export import rows, saved
from weighbridge.store.record import open_run

pytestmark = pytest.mark.browser
STEPS = 30


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """`wide`: 5,120 weights before tanh; its first three units are saturated, the next two are the same."""
    folder = tmp_path_factory.mktemp("charts")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = torch.nn.Sequential(torch.nn.Linear(80, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
    with torch.no_grad():
        model[0].bias[:3] = 50.0
        model[0].weight[4] = model[0].weight[3]
        model[0].bias[4] = model[0].bias[3]
        model[2].weight[0, 4] = model[2].weight[0, 3]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with weighbridge.init(dir=folder, name="wide", quiet=True) as run:
        run.watch(model)
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(torch.rand(16, 80)).square().mean().backward()
            optimizer.step()
    with serving(folder) as address:
        yield folder, address


def test_the_narrow_band_holds_nine_of_ten_values(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    folder, address = shown
    page = open_page(f"{address}/run/wide/layer/0")
    page.wait_for_selector("text=darker: 5 to 95 %")
    found = rows(saved(page, "values of 0.weight", "CSV"))
    record = open_run(folder / "wide")
    for name, end in (("5 %", 0), ("95 %", 1)):
        mine = [row for row in found if row["line"].endswith(f", {name}")]
        assert [int(row["first step"]) for row in mine] == list(range(STEPS + 1))  # the last is what the last step left behind
        for row in mine[::7]:
            edges, counts, total = record.histogram("0.weight", "parameter", int(row["first step"]))
            held = int(np.searchsorted(np.cumsum(counts), (0.05, 0.95)[end] * total))
            assert edges[held] <= float(row["least"]) <= float(row["mean"]) <= float(row["greatest"]) <= edges[held + 1]


def test_saturated_and_equal_units_are_named_beside_the_exhibit(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{shown[1]}/run/wide/layer/0")
    aside = page.locator("section.units .beside")
    aside.wait_for()
    expect(aside).to_contain_text(re.compile(r"saturated\s+3\s+0, 1, 2\s"), use_inner_text=True)
    expect(aside).to_contain_text(re.compile(r"units with the same numbers\s+3 = 4"), use_inner_text=True)
    exhibit = page.locator("section.units .exhibit [role=img]").last
    point(page, exhibit, 60, 38, "document.querySelector('.exhibit .tip')?.innerText.includes('saturated')")


def test_one_step_is_pointed_at_in_all_charts(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{shown[1]}/run/wide/layer/0")
    page.wait_for_selector("text=darker: 5 to 95 %")
    at = """[...document.querySelectorAll('.u-cursor-x')].map((line) =>
        Math.round(100 * new DOMMatrix(line.style.transform).e / line.parentElement.clientWidth))"""
    chart = settled(page).locator("[aria-label^='gradient, rms of 0.weight']")
    point(page, chart, 200, 40, f"{at}.every((x, _, all) => x > 0 && Math.abs(x - all[0]) < 3)")
    page.mouse.move(200, 2)
    eventually(page, f"{at}.every((x) => x < 0)")


def test_the_loss_and_the_picture_of_all_tensors_point_at_the_same_step(
    shown: tuple[Path, str], open_page: Callable[..., Any]
) -> None:
    page = open_page(f"{shown[1]}/run/wide")
    page.locator(".heat").wait_for()
    page.locator("section[aria-label=Loss] .uplot").wait_for()
    settled(page).locator(".heat").focus()
    for key in ("Home", "Home", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    plot = page.locator("section[aria-label=Loss] .u-over").bounding_box()
    at = "new DOMMatrix(document.querySelector('section[aria-label=Loss] .u-cursor-x')?.style.transform).e"
    eventually(page, f"Math.abs({at} - {plot['width'] * 2 / (STEPS - 1)}) < 2")


def test_spreads_are_drawn_of_stored_histograms_as_density_too(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    folder, address = shown
    page = open_page(f"{address}/run/wide/layer/0?view=density")
    page.wait_for_selector("[aria-label^='weight: how many values are where']")
    found = rows(saved(page, "weight over time", "CSV"))
    edges, counts, total = open_run(folder / "wide").histogram("0.weight", "parameter", 0)
    mine = [row for row in found if row["step"] == "0"]
    assert sum(float(row["count"]) for row in mine) == total == counts.sum()
    assert len(mine) == np.count_nonzero(counts)
    assert [float(row["from"]) for row in mine] == edges[:-1][counts > 0].tolist()
