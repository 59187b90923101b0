"""Oracle: the page's own sources for colours; the cells themselves for pixels, which are read back out of the picture."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.files import indexed_png
from weighbridge.drawing import Label, Sheet, heat_map, histogram, lines
from weighbridge.drawing.chart import Line
from weighbridge.drawing.colours import INK, SIGNED, WATER, ramp
from weighbridge.drawing.heat import (
    ABSENT,
    CLEAR,
    COLOURS,
    EDGE,
    HATCH,
    IDENTICAL,
    LINE,
    NONFINITE,
    SOFT,
    TROUBLE,
    VALUE,
    ZERO,
    Flag,
    pixels_of,
    stacked,
)
from weighbridge.drawing.scale import axis_of, round_marks, written
from weighbridge.drawing.sheet import png

FRONTEND = Path(__file__).parents[2] / "frontend/src"
PAIR = (Label("0", "4→8", "W", False), Label("0", "8", "b", True))


def read_png(content: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Index [height, width], palette [colours, 3], opacity [colours], by the format's specification."""
    index, colours, chunks = indexed_png(content)
    return index, colours, np.frombuffer(chunks[b"tRNS"], np.uint8)


def test_the_scales_and_the_light_colours_are_those_of_the_page() -> None:
    scales = (FRONTEND / "heat/colours.ts").read_text()
    for name, own in (("WATER", WATER), ("SIGNED_LIGHT", SIGNED)):
        found = re.search(rf'const {name} =\s*"([0-9a-f]+)"', scales)
        assert found is not None
        assert found[1] == own
    light = (FRONTEND / "tokens.css").read_text().split("}")[0]
    assert {name: re.search(rf"--{name}: (\S+);", light)[1] for name in INK} == INK  # type: ignore[index]


def test_a_greyscale_print_can_be_read_the_scale_only_grows_lighter() -> None:
    grey = ramp("log", 64) @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(grey) > 0).all()


def test_each_kind_of_cell_has_its_own_mark() -> None:
    kinds = np.array([[VALUE, ZERO, NONFINITE, ABSENT, IDENTICAL]], np.uint8)
    value = np.array([[1.0, 0.0, np.nan, np.nan, 1.0]])
    found = pixels_of(value, kinds, [(0, 15)], 15, 100, "log", (0.1, 1.0))
    cells = [found[:, 20 * i : 20 * i + 20] for i in range(5)]
    assert (cells[0] == COLOURS - 1).all()
    assert (cells[1][7] == LINE).all()
    assert (np.delete(cells[1], 7, axis=0) == CLEAR).all()
    assert (cells[2][:, :5] == TROUBLE).all()  # the moment it happened is solid
    assert set(np.unique(cells[2][:, 5:])) == {TROUBLE, SOFT}
    assert set(np.unique(cells[3])) == {HATCH, CLEAR}
    assert (cells[4][[0, -1]] == EDGE).all()
    assert (cells[4][1:-1] == CLEAR).all()


def test_a_log_scale_places_a_value_by_its_logarithm_and_what_lies_beyond_saturates() -> None:
    value = np.array([[1e-6, 1e-4, 1e-2, 1.0, 1e3]])
    found = pixels_of(value, np.zeros((1, 5), np.uint8), [(0, 15)], 15, 5, "log", (1e-4, 1.0))
    assert found[0].tolist() == [0, 0, round((COLOURS - 1) / 2), COLOURS - 1, COLOURS - 1]


def test_the_pixels_of_the_picture_are_those_of_the_cells() -> None:
    value, mask = np.array([[0.1, 1.0], [0.5, 0.2]]), np.zeros((2, 2), np.uint8)
    svg, _ = heat_map("t", value, mask, np.array([0, 1]), np.array([0, 1]), PAIR, "linear", (0.0, 1.0))
    images = re.findall(r"base64,([^\"]+)", svg)
    index, palette, opacity = read_png(base64.b64decode(images[-1]))  # the first is the colour key
    (top, _), (below, _) = stacked(PAIR)[0]
    colours = ramp("linear", COLOURS)
    for row, at in ((0, top), (1, below)):
        for column, x in ((0, 3), (1, index.shape[1] - 3)):
            wanted = colours[round(value[row, column] * (COLOURS - 1))]
            assert palette[index[at + 2, x]].tolist() == wanted.tolist()
            assert opacity[index[at + 2, x]] == 255


@pytest.mark.parametrize("rows", [2, 60, 600])
def test_rows_never_lie_over_each_other(rows: int) -> None:
    labels = [Label(str(i // 2), "", "W" if i % 2 == 0 else "b", i % 2 == 1) for i in range(rows)]
    places, height = stacked(labels)
    assert all(a[0] + a[1] <= b[0] for a, b in pairwise(places))
    assert places[-1][0] + places[-1][1] <= height
    assert height <= 640 or rows == 600


def test_text_of_a_run_stays_text() -> None:
    evil = '</text><script>alert(1)</script> & "x" \x1b'
    cells = np.ones((1, 1)), np.zeros((1, 1), np.uint8), np.array([0]), np.array([0])
    labels, flags = [Label(evil, evil, "W", False)], [Flag(0, "error", evil)]
    svg, _ = heat_map(evil, *cells, labels, "log", (0.1, 1.0), flags=flags)
    tree = ET.fromstring(svg)
    assert "<script" not in svg
    assert any("</text><script>alert(1)</script> & " in (one.text or "") for one in tree.iter())


def test_nothing_recorded_and_nothing_finite_are_said() -> None:
    empty = np.zeros((2, 0)), np.zeros((2, 0), np.uint8), np.array([], np.int64), np.array([], np.int64)
    svg, _ = heat_map("t", *empty, PAIR, "log", None)
    assert "nothing recorded yet" in svg
    assert "no finite value recorded" in svg


def test_a_line_breaks_where_there_is_no_number_and_marks_infinity() -> None:
    svg = lines([Line(np.arange(5), np.array([1.0, 2.0, np.inf, np.inf, 1.5]))], "t")
    assert svg.count(INK["error"]) == 1  # one mark where it begins, however long it lasts
    assert len(re.findall(r'stroke-width="1.5"', svg)) == 1  # the last value alone is a dot, no line


def test_a_series_that_spans_a_thousand_is_drawn_on_a_log_axis() -> None:
    axis = axis_of(np.array([0.02, 3000.0]))
    assert (axis.low, axis.high, axis.is_log) == (0.01, 10_000.0, True)
    assert axis.place(1.0) == pytest.approx(1 / 3)
    assert axis.place(0.0) is None
    assert not axis_of(np.array([1.0, 900.0])).is_log
    assert axis_of(np.array([])).marks(3)


def test_marks_of_an_axis_share_their_decimals() -> None:
    marks = round_marks(2.25, 2.36, 4)
    assert [written(marks)(mark) for mark in marks] == ["2.25", "2.30", "2.35"]
    assert [written([0.0, 2500.0, 5000.0])(mark) for mark in (0.0, 2500.0)] == ["0", "2,500"]


def test_bars_are_as_tall_as_their_counts() -> None:
    svg = histogram([0.0, 1.0, 2.0], [1, 4], "t", height=124)
    heights = [float(h) for h in re.findall(rf'height="([\d.]+)" fill="{INK["note"]}"', svg)]
    assert heights[1] == pytest.approx(4 * heights[0])


def test_a_sheet_is_a_picture_of_its_own_and_a_png_reads_back() -> None:
    sheet = Sheet(100, "a < b")
    sheet.text(0, 5, "x")
    assert ET.fromstring(sheet.svg(20)).get("viewBox") == "0 0 100 20"
    index, palette = np.arange(12, dtype=np.uint8).reshape(3, 4), np.random.default_rng(0).integers(0, 256, (12, 4))
    found, colours, opacity = read_png(png(index, palette))
    assert (found == index).all()
    assert (colours == palette[:, :3]).all()
    assert (opacity == palette[:, 3]).all()
