"""A finding that somebody has judged. Oracle: labels.json in the run's folder, and what the rules say of the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import weighbridge
from tests.browser.conftest import eventually, expect, judged, serving
from weighbridge.diagnosis.engine import diagnose
from weighbridge.store.labels import read_labels, write_labels

pytestmark = pytest.mark.browser


def gradients_pile_up(folder: Path) -> Path:
    """A run in which nobody empties the gradients."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x = torch.randn(32, 4)
    with weighbridge.init(dir=folder, name="piled", quiet=True) as run:
        run.watch(model)
        for _ in range(60):
            nn.functional.mse_loss(model(x), x[:, :1]).backward()
            optimizer.step()
    return run.path


def test_a_finding_is_muted_with_its_reason_and_taken_back(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    path = gradients_pile_up(tmp_path)
    key = next(f.key for f in diagnose(path).findings if f.rule == "gradients-not-zeroed")
    assert diagnose(path).causes[0].key == key
    left = len(diagnose(path).findings) - 1
    with serving(tmp_path) as address:
        page = judged(open_page(f"{address}/run/piled/findings/{key}"))
        page.get_by_role("button", name="Mute for this run").click()
        page.get_by_label("Why it may stand aside").fill("accumulated on purpose")
        page.keyboard.press("Enter")
        expect(page.locator("article.detail")).to_contain_text("Muted for this run: accumulated on purpose")
        assert dict(read_labels(path).muted) == {key: "accumulated on purpose"}
        fold = page.get_by_role("button", name="1 muted for this run")
        expect(fold).to_have_attribute("aria-expanded", "true")
        expect(page.locator("nav[aria-label=findings] a")).to_have_count(left + 1)
        expect(page.locator("nav[aria-label=findings] a.muted")).to_have_count(1)

        judged(page.goto(f"{address}/run/piled") and page)  # a new reading knows it from the folder
        page.get_by_role("link", name="muted for this run").or_(page.get_by_role("link", name="1 muted")).first.wait_for()
        eventually(page, "!document.querySelector('article.cause')")  # and no symptom of it has taken its place

        page.goto(address)  # the list does not call it clear
        page.locator("[data-run=piled] .counts").get_by_text("1 muted").wait_for(state="attached")
        page.goto(f"{address}/run/piled/findings/{key}")
        page.locator("article.detail").get_by_role("button", name="Undo").click()
        page.get_by_role("button", name="Mute for this run").wait_for()
        assert read_labels(path).muted == ()
        expect(page.locator("nav[aria-label=findings] a.muted")).to_have_count(0)


def dead_from_birth(folder: Path) -> Path:
    """A run whose first layer answers nothing, so that its weights take no gradient."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x = torch.randn(64, 4)
    with weighbridge.init(dir=folder, name="dead", quiet=True) as run:
        run.watch(model)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), x[:, :1]).backward()
            optimizer.step()
    return run.path


@pytest.mark.parametrize("width", [1280, 390])
def test_what_follows_from_a_muted_cause_does_not_stand_alone(
    tmp_path: Path, open_page: Callable[..., Any], width: int
) -> None:
    path = dead_from_birth(tmp_path)
    cause = next(f for f in diagnose(path).causes if f.rule == "dead-units")
    others = [f for f in diagnose(path).findings if f.key in cause.explains]
    assert others
    write_labels(path, read_labels(path).changed(mute={cause.key: "on purpose"}))
    with serving(tmp_path) as address:
        page = judged(open_page(f"{address}/run/dead", width=width))
        expect(page.locator("article[aria-label=findings]")).to_contain_text("from what is muted")
        page = judged(open_page(f"{address}/run/dead/findings/{others[0].key}", width=width))
        expect(page.locator("article.detail")).to_contain_text("which is muted")
        expect(page.locator("nav[aria-label=findings] a.on")).to_contain_text("follows from what is muted")
        assert page.evaluate("document.documentElement.scrollWidth") == width
