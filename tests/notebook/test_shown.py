"""What stands below a cell that ends in one of our objects. Oracle: the object's own facts; a parser of HTML."""

from __future__ import annotations

import html.parser
from pathlib import Path
from typing import Any

import pytest
import torch

import weighbridge
from tests.server.conftest import make_run
from weighbridge import html as pieces
from weighbridge.diagnosis import (
    Diagnosis,
    Finding,
    HistogramEvidence,
    SeriesEvidence,
    SettingEvidence,
    TableEvidence,
    ValueEvidence,
)
from weighbridge.store.views import Series

EVIL = "<img src=x onerror=alert(1)>"
EVIDENCE = (
    ValueEvidence("ratio", 2.0, 1.0, "px"),
    SeriesEvidence("norm", (0, 1, 2), (1.0, 2.0, float("nan")), 1.5),
    HistogramEvidence("spread", (0.0, 1.0, 2.0), (3, 4)),
    TableEvidence("layers", ("where", "norm"), ((EVIL, 1.5), ("b", 2))),
    SettingEvidence("lr", "0.1"),
)
FINDING = Finding(EVIL, 3, 5, "It is dead.", EVIDENCE, "Use GELU.", "dead-units", "warning", "test")


class Reader(html.parser.HTMLParser):
    """Tags that were opened and not closed, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.seen, self.text = [], [], ""  # type: ignore[var-annotated]

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(shown: str) -> Reader:
    reader = Reader()
    reader.feed(shown)
    assert reader.open == []
    assert not {"script", "iframe", "object", "style"} & set(reader.seen)
    return reader


def test_a_finding_is_a_line_and_in_a_notebook_all_of_it() -> None:
    assert repr(FINDING) == f"<Finding warning: dead-units at {EVIL}, from step 3: It is dead.>"
    reader = read(FINDING._repr_html_())
    for words in ("dead-units", "It is dead.", "Use GELU.", "from step 3", EVIL, "lr = 0.1", "(limit 1)", "2 px"):
        assert words in reader.text
    assert reader.seen.count("img") == 2  # the series and the histogram; none of the names


def test_a_diagnosis_counts_and_opens_its_causes() -> None:
    found = Diagnosis("some run", (FINDING,), (), 10)
    assert repr(found) == "<Diagnosis of some run: 1 warning>"
    assert str(found) == str(FINDING)
    shown = found._repr_html_()
    assert shown.count("<details open") == len(found.causes) == 1
    assert "1 finding in 10 steps" in read(shown).text
    assert repr(Diagnosis("x", (), (), 3)) == "<Diagnosis of x: nothing found>"
    assert "nothing found in 3 steps" in read(Diagnosis("x", (), (), 3)._repr_html_()).text


def test_an_opened_run_and_its_series(tmp_path: Path) -> None:
    record = weighbridge.open_run(make_run(tmp_path, "made", steps=30))
    assert repr(record) == f"<weighbridge.RunRecord '{tmp_path / 'made'}': finished, 30 steps, {record.info.tensors} tensors>"
    reader = read(record._repr_html_())
    assert "made" in reader.text
    assert "finished" in reader.text
    series = record.series(record.tensors[0].name, "gradient.rms")
    assert repr(series).startswith(f"<Series {series.name}: 30 values, last {series.values[-1]:.6g} at step 29>")
    assert read(series._repr_html_()).seen.count("img") == 1


def test_a_run_that_is_gone_still_has_a_name(tmp_path: Path) -> None:
    run = make_run(tmp_path, "made", steps=3)
    record = weighbridge.open_run(run)
    for file in sorted(run.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    run.rmdir()
    assert repr(record).startswith(f"<weighbridge.RunRecord '{run}'")


def test_an_empty_series_has_nothing_last() -> None:
    import numpy as np

    empty = Series("s", np.array([], np.int64), np.array([]))
    assert repr(empty) == "<Series s: 0 values>"
    read(empty._repr_html_())


def test_a_run_that_records(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 1)
    with weighbridge.init(dir=tmp_path, name="now", quiet=True) as run:
        run.watch(model)
        assert "recording" in read(run._repr_html_()).text


@pytest.fixture
def network() -> tuple[torch.nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    return model, (torch.randn(64, 4), torch.arange(64) % 3)


def test_an_inspection_is_a_table_and_its_findings(network: tuple[torch.nn.Module, Any]) -> None:
    model, batch = network
    found = weighbridge.inspect(model, batch, torch.nn.functional.cross_entropy)
    assert repr(found).startswith("<Inspection of Sequential: ")
    reader = read(found._repr_html_())
    assert "BatchNorm1d" in reader.text
    assert all(finding.rule in reader.text for finding in found.findings)
    assert str(found).split("\n")[0] in reader.text


def test_a_report_on_biases_is_a_table_and_what_to_change(network: tuple[torch.nn.Module, Any]) -> None:
    model, batch = network
    report = weighbridge.biases(model, batch, torch.nn.functional.cross_entropy)
    assert "1 redundant" in repr(report)
    reader = read(report._repr_html_())
    assert all(one.verdict in reader.text for one in report)
    assert "model[0] = nn.Linear(in_features=4, out_features=8, bias=False)" in reader.text


def test_words_of_a_user_stay_words() -> None:
    reader = read(pieces.block(pieces.table([EVIL], [[EVIL]]), pieces.paragraph(pieces.bold(EVIL)), pieces.preformatted(EVIL)))
    assert "img" not in reader.seen
    assert reader.text.count(EVIL) == 4
