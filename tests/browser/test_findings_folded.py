"""Oracle: the rules themselves. One cause of many findings stands alone until somebody asks what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import weighbridge
from tests.browser.conftest import eventually, serving
from weighbridge.diagnosis import Diagnosis
from weighbridge.diagnosis.engine import diagnose

pytestmark = pytest.mark.browser
STEPS, BREAKS = 160, 60


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Diagnosis]]:
    """A training that is well until its learning rate is a thousand times larger."""
    folder: Path = tmp_path_factory.mktemp("broken")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    layers = [layer for _ in range(6) for layer in (nn.Linear(12, 12), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(12, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, y = torch.randn(64, 12), torch.arange(64) % 3
    with weighbridge.init(dir=folder, name="broken", quiet=True) as run:
        run.watch(model)
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = 0.05 if step < BREAKS else 50.0
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    with serving(folder) as address:
        yield address, diagnose(folder / "broken")


def test_what_follows_from_a_cause_is_folded_until_it_is_asked_for(
    broken: tuple[str, Diagnosis], open_page: Callable[..., Any]
) -> None:
    address, truth = broken
    causes = [finding.key for finding in truth.causes]
    followers = [key for key in truth.causes[0].explains if key not in causes]
    assert len(followers) > 3
    page = open_page(f"{address}/run/broken/findings")
    count = "document.querySelectorAll('nav[aria-label=findings] a').length"
    page.wait_for_selector("nav[aria-label=findings] .fold")
    folded = page.evaluate(count)
    assert folded <= len(truth.findings) - len(followers)
    fold = page.locator("nav[aria-label=findings] .fold").first
    assert fold.get_attribute("aria-expanded") == "false"
    told = " ".join(fold.inner_text().split())
    assert sum(int(word) for word in told.split() if word.isdigit()) == len(followers)
    fold.click()
    eventually(page, count, folded + len(followers))
    assert "open=" in page.url
    page.locator("nav[aria-label=findings] a.follows").last.click()
    eventually(page, "document.querySelector('nav[aria-label=findings] a[aria-current]').classList.contains('follows')")
    fold.click()  # who looks at one of them goes back to the cause
    eventually(page, count, folded)
    eventually(page, "document.querySelector('nav[aria-label=findings] a[aria-current]').classList.contains('follows')", False)


def test_a_link_to_one_that_follows_shows_it_in_its_place(broken: tuple[str, Diagnosis], open_page: Callable[..., Any]) -> None:
    address, truth = broken
    causes = [finding.key for finding in truth.causes]
    key = next(key for key in truth.causes[0].explains if key not in causes)
    page = open_page(f"{address}/run/broken/findings/{key.replace(' ', '%20')}", width=390, theme="dark")
    page.wait_for_selector("nav[aria-label=findings] a.follows[aria-current]")
    assert page.locator("nav[aria-label=findings] .fold").first.get_attribute("aria-expanded") == "true"
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_own_cost_is_drawn_in_percent_as_its_headline(broken: tuple[str, Diagnosis], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{broken[0]}/run/broken")
    chart = page.locator("[aria-label^='own cost in %: steps']")
    chart.wait_for()
    assert " %" in chart.get_attribute("aria-label")
    headline = float(page.locator("section[aria-label='own cost'] h2 b").inner_text().rstrip(" %"))
    low, high = (
        float(word) for word in chart.get_attribute("aria-label").partition("values from ")[2].replace(" %", "").split(" to ")
    )
    assert low <= headline <= high
