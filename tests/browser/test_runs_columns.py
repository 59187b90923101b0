"""Oracle: the settings that each run was given. Columns of the list of runs that a person chooses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.browser.conftest import eventually, serving
from tests.store import made_rows
from weighbridge.store.layout import create_run
from weighbridge.store.writer import RankWriter

pytestmark = pytest.mark.browser
SETTINGS = {"slow": {"lr": 0.01, "layers": 4, "batch": 64}, "fast": {"lr": 0.3, "layers": 2, "batch": 64}}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("columns")
    for name, config in SETTINGS.items():
        writer = RankWriter(create_run(folder, name, {"config": config}))
        tables = {"rows": made_rows.rows(0, 5), "steps": made_rows.steps(0, 5), "tensors": made_rows.tensors()}
        writer.write({**tables, "logs": made_rows.logs(0, 5)}, 0, 4)
        writer.finish(5)
    with serving(folder) as place:
        yield place


def cells(page: Any, column: str) -> dict[str, str]:
    found: dict[str, str] = page.evaluate(
        """(column) => Object.fromEntries([...document.querySelectorAll(`[data-column="${column}"]`)].map(
            (cell) => [cell.closest("[data-run]").dataset.run, cell.textContent.trim()]))""",
        column,
    )
    return found


def test_a_chosen_setting_has_a_column_that_stands_in_the_address_and_sorts(
    address: str, open_page: Callable[..., Any]
) -> None:
    page = open_page(address)
    page.wait_for_selector(".spark")
    page.locator("summary", has_text="columns").click()
    menu = page.locator("[role=group][aria-label=columns]")
    assert "batch the same in all" in " ".join(menu.inner_text().split())
    menu.get_by_label("lr").check()
    menu.get_by_label("layers").check()
    eventually(page, "location.search", "?column=lr&column=layers")
    page.keyboard.press("Escape")
    eventually(page, "document.querySelector('details').open", False)
    eventually(page, "document.querySelectorAll('[data-column=lr]').length", 2)
    for name in ("lr", "layers"):
        assert cells(page, name) == {run: str(settings[name]) for run, settings in SETTINGS.items()}
    page.get_by_role("columnheader", name="lr").get_by_role("button").click()
    eventually(page, "[...document.querySelectorAll('[data-run]')].map((row) => row.dataset.run).join()", "fast,slow")
    page.get_by_role("columnheader", name="lr").get_by_role("button").click()
    eventually(page, "[...document.querySelectorAll('[data-run]')].map((row) => row.dataset.run).join()", "slow,fast")
    page.reload()
    eventually(page, "document.querySelectorAll('[data-column=layers]').length", 2)


def test_a_metric_that_is_chosen_is_not_shown_twice(address: str, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{address}/?column=accuracy")
    eventually(page, "document.querySelectorAll('[data-column=accuracy]').length", 2)
    assert page.locator("[role=columnheader]", has_text="accuracy").count() == 1


def test_six_columns_at_most_and_the_table_scrolls_not_the_page(address: str, open_page: Callable[..., Any]) -> None:
    names = ["lr", "layers", "batch", "accuracy", "a", "b", "c"]
    page = open_page(f"{address}/?{'&'.join(f'column={name}' for name in names)}")
    eventually(page, "document.querySelectorAll('[data-run=slow] [data-column]').length", 6)
    assert page.evaluate("document.documentElement.scrollWidth") == 1280
    assert page.evaluate("document.querySelector('.table').scrollWidth") > page.evaluate(
        "document.querySelector('.table').clientWidth"
    )


def test_on_a_phone_the_menu_and_the_cards_fit(address: str, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{address}/?column=lr", width=390, theme="dark")
    page.wait_for_selector(".spark")
    page.locator("summary", has_text="columns").click()
    page.wait_for_selector("[role=group][aria-label=columns]")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    card = " ".join(page.locator("[data-run=slow]").inner_text().split())
    assert "lr 0.01" in card
