"""A run that went on after a restart. Oracle: the attempts that tests/browser/states.py wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.browser import states
from tests.browser.conftest import eventually, expect, judged, serving
from tests.browser.test_export import kinds, rows, saved

pytestmark = pytest.mark.browser


def test_steps_that_were_trained_twice_are_seen_as_such(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    states.restart(tmp_path)
    with serving(tmp_path) as address:
        page = judged(open_page(f"{address}/run/restart"))
        expect(page.locator("section[aria-label=Loss]")).to_contain_text("attempt 1 goes on from step 40")
        found = rows(saved(page, "Loss", "CSV"))
        before = [row for row in found if "before" in row["line"]]
        assert [int(row["first step"]) for row in before] == list(range(40, 60))
        assert float(before[0]["mean"]) == 1 / 41
        assert len(found) == 80 + 20
        assert kinds(saved(page, "Loss", "SVG"))["path"] > 0
        panel = page.locator("section.map")
        expect(panel).to_contain_text("steps 40 to 59: trained again, attempt 1 is shown")
        panel.get_by_label("attempts").select_option(label="attempt 0: steps 0 to 59")
        eventually(page, "location.search", "?attempt=0")
        page.wait_for_selector("[aria-label*='steps 0 to 59']")
        assert "trained again" not in panel.inner_text()
