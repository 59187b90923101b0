"""Oracle: RunRecord of the one rank. The picture of a run of several ranks, by rank."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.browser.conftest import eventually, expect, serving, settled
from tests.browser.states import changed, column
from tests.browser.test_export import rows as csv_rows
from tests.browser.test_export import saved
from tests.store import made_rows
from weighbridge.format import metric
from weighbridge.records import COPY, REPLICA, Quantity
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
        menu = page.get_by_label("ranks", exact=True)
        assert menu.locator("option").all_inner_texts() == ["ranks: all as one", "rank 0 alone", "rank 1 alone"]
        menu.select_option(label="rank 1 alone")
        eventually(page, "location.search", "?rank=1")
        page.get_by_text("Rank 1 recorded nothing of gradient · rms in these steps.").wait_for()
        page.get_by_role("button", name="weight · rms").click()
        page.locator(".heat").wait_for()
        eventually(page, "location.search", "?rank=1&stat=parameter.rms")
        assert page.evaluate("document.documentElement.scrollWidth") == 1280


def test_a_rank_that_differs_is_named_under_the_picture(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    run = create_run(tmp_path, "apart", {"world_size": 3})
    for rank in range(3):
        rows = made_rows.rows(0, 30)
        wrong = (column(rows, "step") >= 12) & (column(rows, "tensor") == 1) & (rank == 2)
        rows = changed(rows, sum=column(rows, "sum") + wrong)
        described = [{**row, "placement": COPY if rank else REPLICA} for row in made_rows.tensors().to_pylist()]
        tensors = pa.RecordBatch.from_pylist(described, made_rows.tensors().schema)
        writer = RankWriter(run, rank)
        writer.write({"rows": rows, "steps": made_rows.steps(0, 30), "tensors": tensors}, 0, 29)
        writer.finish(30)
    with serving(tmp_path) as address:
        for width in (1280, 390):
            page = open_page(f"{address}/run/apart", width=width)
            panel = page.get_by_label("ranks beside each other")
            expect(panel).to_contain_text("Rank 2 differs from ranks 0 and 1 in 1 of 3 parameters from step 12 on")
            expect(panel.locator("tr[data-rank='2']")).to_contain_text("from step 12")
            expect(panel.locator("tr[data-rank='1']")).to_contain_text("none")
            settled(page)
            assert page.evaluate("document.documentElement.scrollWidth") == width
            expect(panel.locator("tr[data-rank='1'] td.num").nth(1)).to_have_text(metric(1 / 30))  # not the mean of a bucket
            assert panel.locator(".scroll").evaluate("(box) => box.scrollWidth <= box.clientWidth"), "no column is cut off"
        found = csv_rows(saved(page, "differences between ranks", "CSV"))
        losses = csv_rows(saved(page, "losses of the ranks", "CSV"))
    wrong_cells = [(row["parameter"], row["rank"], row["first step"]) for row in found if row["state"] == "different"]
    assert {row["rank"] for row in losses} == {"rank 0", "rank 1", "rank 2"}
    last = [float(row["mean loss around it"]) for row in losses if row["rank"] == "rank 2" and row["step"] == "29"]
    assert last == [pytest.approx(1 / 30, rel=1e-3)]
    assert wrong_cells == [("layers.0.bias", "2", str(step)) for step in range(12, 30)]
