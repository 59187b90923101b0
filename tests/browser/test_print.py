"""What is printed. Oracle: the rules' findings; the text of the PDF as pypdf reads it."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pypdf import PdfReader

from tests.browser.conftest import judged, serving, settled
from tests.cli.calling import call
from tests.server.conftest import make_run
from weighbridge.diagnosis.engine import diagnose
from weighbridge.store.layout import create_run

pytestmark = pytest.mark.browser
STEPS = 120


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    folder = tmp_path_factory.mktemp("print")
    make_run(folder, "made", steps=STEPS)
    create_run(folder, "none", {})
    with serving(folder) as address:
        yield folder, address


def on_paper(page: Any) -> tuple[str, Any]:
    """Its text, words parted by one space, and the sheets."""
    sheets = PdfReader(io.BytesIO(page.pdf(format="A4", print_background=True))).pages
    return " ".join(" ".join(sheet.extract_text() for sheet in sheets).split()), sheets


def letters(text: str) -> str:
    """Without spaces (a line's end in a PDF may be one or none), and with no two letters as one sign."""
    return "".join(unicodedata.normalize("NFKC", text.replace("`", "")).split())


def check_all_is_told(page: Any, run: Path) -> None:
    text, _ = on_paper(page)
    findings = diagnose(run).findings
    assert findings
    for one in findings:
        assert letters(one.message) in letters(text)
        assert letters(one.fix) in letters(text)
    for control in ("as table", "Show on heat map", "Compare", "Rules", "Mute for this run"):
        assert control not in text


@pytest.mark.parametrize("tab", ["", "/findings"])
def test_a_printed_run_tells_every_finding_and_no_control(
    shown: tuple[Path, str], open_page: Callable[..., Any], tab: str
) -> None:
    page = judged(open_page(f"{shown[1]}/run/made{tab}", theme="dark"))
    check_all_is_told(page, shown[0] / "made")
    assert page.locator("section[aria-label='all findings']").count() == 0  # on the screen the tab has them


def test_a_printed_report_tells_every_finding_and_draws_its_own_cost(
    shown: tuple[Path, str], tmp_path: Path, open_page: Callable[..., Any]
) -> None:
    file = tmp_path / "made.html"
    assert call("report", str(shown[0] / "made"), "-o", str(file)).code == 0
    page = open_page(f"file://{file}")
    page.locator("section[aria-label='own cost'] .chart canvas").wait_for()
    check_all_is_told(settled(page), shown[0] / "made")


def test_pictures_are_drawn_for_the_sheet(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    """None is as wide as the screen gave it: letters would shrink with it."""
    page = judged(open_page(f"{shown[1]}/run/made"))
    wide = page.locator(".heat canvas.base").evaluate("(one) => one.width")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    widths = page.locator(".heat canvas.base, .uplot canvas").evaluate_all("(all) => all.map((one) => one.width)")
    assert len(widths) > 2
    assert max(widths) <= 640 < wide
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator(".heat canvas.base").evaluate("(one) => one.width") == wide


def test_a_run_of_nothing_fits_one_sheet(shown: tuple[Path, str], open_page: Callable[..., Any]) -> None:
    page = judged(open_page(f"{shown[1]}/run/none"))
    text, sheets = on_paper(page)
    assert len(sheets) == 1
    assert letters(text).count("firstoptimizerstep") == 1  # the empty panel of the loss is left out
    assert "not recorded: none" not in text
