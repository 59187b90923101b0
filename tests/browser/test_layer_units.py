"""Oracle: the store, and the report that `weighbridge.biases` gave. Kernels, windows of large layers, what a bias is worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import weighbridge
from tests.browser.conftest import eventually, expect, point, serving, settled
from tests.browser.test_export import rows, saved
from weighbridge.store.record import open_run

pytestmark = pytest.mark.browser
STEPS = 12


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, weighbridge.BiasReport]]:
    folder = tmp_path_factory.mktemp("units")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Conv2d(2, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 36, 300), nn.ReLU(), nn.Linear(300, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = (torch.randn(48, 2, 8, 8), torch.arange(48) % 4)
    with weighbridge.init(dir=folder, name="cnn", quiet=True) as run:
        run.watch(model)
        for _ in range(STEPS):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data[0]), data[1]).backward()
            optimizer.step()
        report = weighbridge.biases(model, data, nn.functional.cross_entropy)
        run.attach(report)
    with serving(folder) as address:
        yield folder, address, report


def exhibit(page: Any) -> Any:
    """The picture of units, once what stands above it is there and nothing moves it any more."""
    picture = page.locator("section.units .exhibit [role=img]").last
    picture.wait_for()
    page.wait_for_selector("[aria-label^='weight: how many values are where']")
    page.wait_for_selector(".outputs article")
    settled(page)
    picture.scroll_into_view_if_needed()
    return picture


def test_a_number_of_a_kernel_is_the_recorded_one(shown: tuple[Path, str, Any], open_page: Callable[..., Any]) -> None:
    folder, address, _ = shown
    page = open_page(f"{address}/run/cnn/layer/0?step=5")
    truth = open_run(folder / "cnn").values("0.weight", "parameter", 5)[1]
    point(page, exhibit(page), 36, 38, "!!document.querySelector('[data-weight]')")
    expect(page.locator(".exhibit .tip dt").first).to_have_text("channel 0")
    assert float(page.locator("[data-weight]").get_attribute("data-weight")) == float(truth[0, 0, 0, 0])


def test_every_number_of_every_kernel_is_in_the_picture(shown: tuple[Path, str, Any], open_page: Callable[..., Any]) -> None:
    folder, address, _ = shown
    page = open_page(f"{address}/run/cnn/layer/0?step=5", width=390, theme="dark")
    exhibit(page)
    page.wait_for_selector("text=one row = one output channel")
    found = rows(saved(page, "units at step 5", "CSV"))
    truth = open_run(folder / "cnn").values("0.weight", "parameter", 5)[1].reshape(12, 18)
    kernels = [[float(row[name]) for name in row if name.startswith("weight from channel")] for row in found]
    assert np.array_equal(np.array(kernels), truth.astype(float))


def test_a_layer_too_large_is_shown_in_windows_with_what_is_not_kept(
    shown: tuple[Path, str, Any], open_page: Callable[..., Any]
) -> None:
    folder, address, _ = shown
    page = open_page(f"{address}/run/cnn/layer/3")
    exhibit(page)
    told = " ".join(page.locator("section.units").inner_text().split())
    assert "The 129,600 numbers of 3.weight are not in this run: shown is its bias and what each unit gave." in told
    assert "weighbridge.watch(model, plan=weighbridge.Plan(values=129_600))" in told
    assert "to 63 of 300" in told
    page.get_by_role("button", name="units after these").click()
    eventually(page, "location.search", "?unit=64")
    page.wait_for_selector("text=to 127 of 300")
    settled(page)
    bias = open_run(folder / "cnn").values("3.bias", "parameter", STEPS - 1)[1]
    found = rows(saved(page, f"units at step {STEPS - 1}", "CSV"))
    assert [int(row["unit"]) for row in found] == list(range(64, 128))
    assert [float(row["bias"]) for row in found] == bias[64:128].astype(float).tolist()
    field = page.get_by_label("first of the units shown")
    field.fill("299")
    field.press("Enter")
    eventually(page, "location.search", "?unit=256")
    page.wait_for_selector("text=to 299 of 300")
    page.get_by_role("button", name="by bias").click()
    eventually(page, "location.search", "?sort=bias")
    page.wait_for_selector("text=places")


def test_what_a_bias_is_worth_stands_on_the_page_of_its_layer(
    shown: tuple[Path, str, weighbridge.BiasReport], open_page: Callable[..., Any]
) -> None:
    _, address, report = shown
    truth = {one.layer: one for one in report}["5"].worth
    page = open_page(f"{address}/run/cnn/layer/5")
    worth = page.locator("[data-worth]")
    worth.wait_for()
    assert truth is not None
    assert float(worth.get_attribute("data-worth")) == truth.mean
    expect(page.locator("section.units")).to_contain_text(f"on {truth.units} samples", use_inner_text=True)


def test_the_last_ridge_is_the_end_and_not_a_step_that_never_was(
    shown: tuple[Path, str, Any], open_page: Callable[..., Any]
) -> None:
    page = open_page(f"{shown[1]}/run/cnn/layer/0")
    ridges = page.locator("[aria-label^='weight: how many values are where']")
    ridges.wait_for()
    exhibit(page)
    ridges.scroll_into_view_if_needed()
    box = ridges.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] - 22)
    eventually(page, "location.search", f"?step={STEPS - 1}")
