"""Oracle: what was put into the folder. The list must show it, find it, sort it, and leave every run where it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import PATIENCE, eventually, expect, serving, settled, where
from tests.server.conftest import add_steps, make_run
from weighbridge.store.checked import read_sealed, write_sealed
from weighbridge.store.labels import read_labels

pytestmark = pytest.mark.browser

NAMES = "[...document.querySelectorAll('[data-run]')].map(row => row.dataset.run)"


def run_of(folder: Path, name: str, started: int, steps: int = 20, **config: Any) -> Path:
    """A made run with these settings, started so many seconds after a day of 2023."""
    path = make_run(folder, name, steps=steps)
    about = {key: value for key, value in read_sealed(path / "run.json").items() if key != "check"}
    about |= {"started_ns": (1_700_000_000 + started) * 10**9, "info": {"config": config}}
    write_sealed(path / "run.json", about, replace=True)
    return path


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    folder = tmp_path_factory.mktemp("runs")
    run_of(folder, "alder", 1, lr=0.1, layers=3)
    run_of(folder, "birch", 2, steps=40, lr=0.001, layers=10)
    run_of(folder, "cedar", 3, lr=0.01, layers=10)
    with serving(folder) as address:
        yield folder, address


def test_each_row_says_what_was_recorded(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = open_page(shown[1])
    row = page.locator("[data-run=birch]")
    row.get_by_text("10, 0.001").or_(row.get_by_text("0.001, 10")).wait_for()
    expect(row).to_contain_text("0.0250")  # 1 / 40
    row.get_by_text("NaN or infinity arises").wait_for()  # the rules have read it meanwhile; nobody has opened it
    eventually(page, NAMES, ["cedar", "birch", "alder"])
    expect(page.get_by_role("columnheader").filter(has_text="layers")).to_contain_text("lr")


@pytest.mark.parametrize(
    ("text", "names"),
    [("lr>0.005", ["cedar", "alder"]), ("layers=10 -cedar", ["birch"]), ("finding:nonfinite-*", ["cedar", "birch", "alder"])],
)
def test_what_is_typed_is_found(shown: tuple[Path, str], open_page: Callable[..., Any], text: str, names: list[str]) -> None:
    page = open_page(shown[1])
    page.get_by_text("NaN or infinity arises").nth(2).wait_for()
    page.keyboard.press("/")
    page.keyboard.type(text)
    eventually(page, NAMES, names)
    page.reload()
    eventually(page, NAMES, names)


def test_a_wrong_text_is_a_sentence_and_the_list_stays(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = open_page(shown[1])
    page.locator("[data-run=alder]").wait_for()
    page.get_by_role("searchbox").fill("lr>abc")
    page.get_by_role("alert").filter(has_text="behind > comes a number").wait_for()
    eventually(page, f"{NAMES}.length", 3)
    page.get_by_role("button", name="Start again").click()
    page.get_by_role("alert").wait_for(state="hidden")


def test_columns_sort_and_groups_fold(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = open_page(shown[1])
    page.get_by_role("columnheader", name="steps", exact=True).get_by_role("button").click()
    eventually(page, NAMES, ["birch", "cedar", "alder"])
    page.get_by_label("group", exact=True).select_option("layers")
    eventually(page, NAMES, ["alder", "birch", "cedar"])
    page.get_by_role("button", name="layers 10").click()
    eventually(page, NAMES, ["alder"])
    assert "fold=10" in where(page)
    page.go_back()
    eventually(page, NAMES, ["alder", "birch", "cedar"])


def test_keys_walk_choose_and_compare(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = open_page(shown[1])
    page.locator("[data-run=alder]").wait_for()
    settled(page).keyboard.press("ArrowDown")
    page.keyboard.press("x")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("x")
    page.get_by_text("2 chosen").wait_for()
    assert "pick=cedar&pick=birch" in where(page)
    page.keyboard.press("c")
    eventually(page, "location.pathname", "/compare")


def test_new_runs_wait_until_they_are_asked_for(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    run_of(tmp_path, "old", 1)
    with serving(tmp_path) as address:
        page = open_page(address)
        page.locator("[data-run=old]").wait_for()
        make_run(tmp_path, "new", steps=5, finish=False)
        show = page.get_by_role("button", name="1 new run, show")
        show.wait_for()
        eventually(page, NAMES, ["old"])
        show.click()
        eventually(page, NAMES, ["new", "old"])
        add_steps(tmp_path / "new", 5, 9)
        page.locator("[data-run=new]").get_by_text("live, step 8").wait_for()
        shutil.rmtree(tmp_path / "old")
        eventually(page, NAMES, ["new"])


@pytest.mark.parametrize("width", [1280, 390])
def test_of_many_runs_only_those_on_the_screen_exist(tmp_path: Path, open_page: Callable[..., Any], width: int) -> None:
    first = make_run(tmp_path, "run-0000", steps=3)
    for i in range(1, 300):
        shutil.copytree(first, tmp_path / f"run-{i:04d}")
    with serving(tmp_path) as address:
        page = open_page(f"{address}/?sort=name", width=width)
        page.locator("[data-run=run-0000]").wait_for()
        eventually(page, "document.querySelector('.head').innerText.includes('not read yet')", False, 3 * PATIENCE)
        assert len(page.evaluate(NAMES)) < 45
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.locator("[data-run=run-0299]").get_by_text("finished").wait_for()
        assert len(page.evaluate(NAMES)) < 45
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_tags_archive_and_deletion_with_a_way_back(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    for i, name in enumerate(("alder", "birch", "cedar")):
        run_of(tmp_path, name, i)
    with serving(tmp_path) as address:
        page = open_page(f"{address}/?pick=alder&pick=birch")
        bar = page.get_by_role("group", name="chosen runs")
        bar.get_by_role("button", name="Tags").click()
        bar.get_by_label("tag", exact=True).fill("good")
        page.keyboard.press("Enter")
        for name in ("alder", "birch"):
            page.locator(f"[data-run={name}] .tag").get_by_text("good").wait_for()
        assert read_labels(tmp_path / "alder").tags == ("good",)
        bar.get_by_role("button", name="Archive").click()
        eventually(page, NAMES, ["cedar"])
        bar.get_by_role("button", name="Undo").click()
        eventually(page, NAMES, ["cedar", "birch", "alder"])
        page.get_by_label("choose cedar").check()
        bar.get_by_role("button", name="Delete").click()
        eventually(page, NAMES, ["birch", "alder"])
        assert not (tmp_path / "cedar").exists()
        bar.get_by_role("button", name="Undo").click()
        eventually(page, NAMES, ["cedar", "birch", "alder"])
        assert (tmp_path / "cedar" / "run.json").exists()


def test_a_live_run_cannot_be_deleted(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    make_run(tmp_path, "live", steps=5, finish=False)
    with serving(tmp_path) as address:
        page = open_page(f"{address}/?pick=live")
        page.get_by_text("live, step 4").wait_for()
        expect(page.get_by_role("button", name="Delete")).to_be_disabled()


def test_a_page_that_may_only_read_says_so(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    run_of(tmp_path, "alder", 1)
    with serving(tmp_path, "--read-only") as address:
        page = open_page(f"{address}/?pick=alder")
        page.get_by_text("This page was started with --read-only").wait_for()
        assert page.get_by_role("button", name="Delete").count() == 0
        assert not list(tmp_path.rglob("digest.json"))
