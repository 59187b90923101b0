"""Oracle: the rules and the store; a parser of Markdown for what the text looks like."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tests.cli.calling import call
from tests.server.conftest import make_run
from weighbridge.diagnosis.engine import diagnose
from weighbridge.server import pictures
from weighbridge.server.markdown import code, escaped, markdown, table
from weighbridge.store.record import open_run

LINK = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")


def html(text: str) -> str:
    return MarkdownIt("commonmark").enable("table").render(text)


def test_every_picture_that_is_linked_is_there_and_no_other(folder: Path, tmp_path: Path) -> None:
    answer = call("report", str(folder / "first"), "--md", "-o", str(tmp_path / "out.md"))
    assert answer.code == 0, answer.err
    text = (tmp_path / "out.md").read_text()
    linked = LINK.findall(text)
    assert linked
    assert {tmp_path / link for link in linked} == set((tmp_path / "out-pictures").iterdir())
    for link in linked:
        ET.parse(tmp_path / link)
    assert not re.search(r"https?://", text)


def test_the_ending_md_is_enough_and_html_stays_html(folder: Path, tmp_path: Path) -> None:
    assert call("report", str(folder / "first"), "-o", str(tmp_path / "x.md")).code == 0
    assert (tmp_path / "x.md").read_text().startswith("# first\n")


def test_causes_stand_with_their_evidence_and_all_else_in_a_table(folder: Path) -> None:
    text, _ = markdown([folder / "first"], "pictures")
    found = diagnose(folder / "first")
    assert found.causes
    for finding in found.findings:
        assert escaped(finding.message) in text
    for cause in found.causes:
        assert f"**Try first:** {escaped(cause.fix)}" in text
    info = open_run(folder / "first").info
    assert f"| {info.steps} |" in text


def test_several_runs_come_with_their_comparison_first(folder: Path) -> None:
    text, files = markdown([folder / "first", folder / "second"], "p")
    assert text.startswith("# first and second\n\n**")
    assert text.index("B: `second`") < text.index("## first") < text.index("## second")
    assert {"losses.svg", "second-against-first.svg"} <= set(files)


def test_two_runs_of_one_name_keep_their_pictures_apart(tmp_path: Path) -> None:
    places = [make_run(tmp_path / where, "same", steps=5) for where in ("x", "y")]
    text, files = markdown(places, "p")
    assert "## x/same" in text
    assert {LINK.findall(text)[i].split("/")[1] for i in range(len(files))} == set(files)


@pytest.mark.parametrize(
    "evil", ["a|b", "<img src=x onerror=alert(1)>", "*no*", "_no_", "[a](http://b)", "`c`", "a\nb", "# no"]
)
def test_what_comes_from_a_run_stays_text(evil: str) -> None:
    shown = html(table(["a", "b"], [[escaped(evil), code(evil)]]))
    assert shown.count("<td>") == 2
    assert not re.search(r"<(img|em|a|h1|strong)\b", shown)
    assert "<" not in escaped(evil).replace("<!-- -->", "")


def test_a_picture_of_what_was_not_recorded_is_none(folder: Path) -> None:
    with pytest.raises(ValueError, match="was recorded"):
        pictures.heat_of(open_run(folder / "first"), "moment1.rms", None)


def test_a_bar_in_a_name_ends_no_cell() -> None:
    assert "<code>a|b</code>" in html(table(["a"], [[code("a|b")]]))


def test_a_text_calls_nobody() -> None:
    assert "@all" not in escaped("cc @all #12")
    assert "#12" not in escaped("cc @all #12")


def test_a_run_without_a_step_has_a_report(tmp_path: Path) -> None:
    from weighbridge.store.layout import create_run
    from weighbridge.store.writer import RankWriter

    run = create_run(tmp_path, "empty", {})
    RankWriter(run).finish(0)
    text, files = markdown([run], "p")
    assert "| finished | 0 |" in text
    assert list(files) == ["empty-loss.svg"]
