"""Oracle: RunRecord of the one rank. The picture of a run of several ranks, by rank."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import eventually, serving
from tests.browser.states import changed, column
from tests.store import made_rows
from weighbridge.records import Quantity
from weighbridge.store.layout import create_run
from weighbridge.store.writer import RankWriter

pytestmark = pytest.mark.browser


def test_the_picture_of_one_rank_is_chosen_and_stands_in_the_address(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    run = create_run(tmp_path, "two", {"world_size": 2})
    for rank in (0, 1):
        rows = made_rows.rows(0, 30)
        if rank:  # it holds copies: only parameters are weighed
            rows = rows.filter(column(rows, "quantity") == int(Quantity.PARAMETER))
            rows = changed(rows, sum_sq=column(rows, "sum_sq") * 4)
        writer = RankWriter(run, rank)
        writer.write({"rows": rows, "steps": made_rows.steps(0, 30), "tensors": made_rows.tensors()}, 0, 29)
        writer.finish(30)
    with serving(tmp_path) as address:
        page = open_page(f"{address}/run/two")
        page.locator(".heat").wait_for()
        menu = page.get_by_label("ranks")
        assert menu.locator("option").all_inner_texts() == ["ranks: all as one", "rank 0 alone", "rank 1 alone"]
        menu.select_option(label="rank 1 alone")
        eventually(page, "location.search", "?rank=1")
        page.get_by_text("Rank 1 recorded nothing of gradient · rms in these steps.").wait_for()
        page.get_by_role("button", name="weight · rms").click()
        page.locator(".heat").wait_for()
        eventually(page, "location.search", "?rank=1&stat=parameter.rms")
        assert page.evaluate("document.documentElement.scrollWidth") == 1280
