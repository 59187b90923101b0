"""Numbers over steps as lines, counts between edges as bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from weighbridge.drawing.colours import INK
from weighbridge.drawing.scale import Axis, axis_of, decade, round_marks, written
from weighbridge.drawing.sheet import Sheet
from weighbridge.format import count, number

LEFT, RIGHT, HEAD, FOOT = 58, 14, 24, 24
DOTS = 40  # points that are drawn as dots too


@dataclass(frozen=True, slots=True)
class Line:
    """Arrays of one length. low and high: the band around values, where each stands for several steps."""

    steps: np.ndarray
    values: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    colour: str = INK["weight"]
    name: str = ""


def lines(
    drawn: Sequence[Line],
    title: str,
    *,
    limit: float | None = None,
    width: int = 920,
    height: int = 220,
    on: Sheet | None = None,
    top: float = 0,
) -> str:
    """A chart of one or several lines; also put on a sheet that is there, at `top`. A number that is not finite is a mark."""
    sheet = on or Sheet(width, title)
    everything = [v for line in drawn for v in (line.values, line.low, line.high) if v is not None]
    axis = axis_of(np.concatenate(everything) if everything else np.array([]), limit)
    steps = np.concatenate([line.steps for line in drawn]) if drawn else np.array([0])
    first, last = (float(steps.min()), float(steps.max())) if len(steps) else (0.0, 0.0)
    at = _Plot(LEFT, top + HEAD, width - LEFT - RIGHT, height - HEAD - FOOT, first, last, axis)
    sheet.text(0, top + 9, title + (", log scale" if axis.is_log else ""), size=12, colour=INK["ink"], weight=600)
    _legend(sheet, drawn, width, top + 9)
    _surround(sheet, at, limit)
    for line in drawn:
        _draw(sheet, at, line)
    return sheet.svg(top + height)


@dataclass(frozen=True, slots=True)
class _Plot:
    left: float
    top: float
    width: float
    height: float
    first: float
    last: float
    axis: Axis

    def x(self, step: float) -> float:
        return self.left + (
            self.width * (step - self.first) / (self.last - self.first) if self.last > self.first else self.width / 2
        )

    def y(self, value: float) -> float | None:
        place = self.axis.place(value)
        return None if place is None else self.top + self.height * (1 - min(1.0, max(0.0, place)))


def _legend(sheet: Sheet, drawn: Sequence[Line], width: int, y: float) -> None:
    right = float(width - RIGHT)
    for line in reversed([one for one in drawn if one.name]):
        sheet.text(right, y, line.name, colour=INK["ink-2"], align="right")
        right -= 6.4 * len(line.name) + 6
        sheet.line([(right - 14, y), (right, y)], line.colour, width=2)
        right -= 30


def _surround(sheet: Sheet, at: _Plot, limit: float | None) -> None:
    marks = at.axis.marks(max(2, int(at.height / 40)))
    text = decade if at.axis.is_log else written(marks)
    for mark in marks:
        y = at.y(mark)
        if y is not None:
            sheet.line([(at.left, y), (at.left + at.width, y)], INK["line"])
            sheet.text(at.left - 6, y, text(mark), colour=INK["ink-2"], align="right")
    bottom = at.top + at.height
    sheet.line([(at.left, bottom), (at.left + at.width, bottom)], INK["line-2"])
    sheet.text(at.left - 6, bottom + 14, "step", colour=INK["ink-2"], align="right")
    for step in sorted({round(mark) for mark in round_marks(at.first, at.last, 8)}):
        sheet.text(at.x(step), bottom + 14, count(step), colour=INK["ink-2"], align="middle")
    edge = None if limit is None else at.y(limit)
    if edge is not None:
        sheet.line([(at.left, edge), (at.left + at.width, edge)], INK["ink"], dash="5 4")
        sheet.text(at.left + at.width, edge - 8, "limit", colour=INK["ink-2"], align="right")


def _draw(sheet: Sheet, at: _Plot, line: Line) -> None:
    if line.low is not None and line.high is not None:
        band = [(at.x(s), at.y(lo), at.y(hi)) for s, lo, hi in zip(line.steps, line.low, line.high, strict=True)]
        kept = [(x, lo, hi) for x, lo, hi in band if lo is not None and hi is not None]
        if len(kept) > 1:
            sheet.area([(x, hi) for x, _, hi in kept] + [(x, lo) for x, lo, _ in reversed(kept)], line.colour, 0.18)
    points: list[tuple[float, float]] = []
    for step, value in zip(line.steps.tolist(), line.values.tolist(), strict=True):
        y = at.y(value)
        if y is not None:
            points.append((at.x(step), y))
            continue
        _stroke(sheet, points, line)
        points = []
    _stroke(sheet, points, line)
    _bad(sheet, at, line)


def _bad(sheet: Sheet, at: _Plot, line: Line) -> None:
    """Where the number is infinite (or, with a band, was none): a mark where it begins, a line as long as it lasts."""
    bad, foot = np.isinf(line.values), at.top + at.height - 4
    begins = np.flatnonzero(bad & ~np.concatenate([[False], bad[:-1]]))
    ends = np.flatnonzero(bad & ~np.concatenate([bad[1:], [False]]))
    for begin, end in zip(begins, ends, strict=True):
        x = at.x(float(line.steps[begin]))
        sheet.line([(x, foot), (at.x(float(line.steps[end])), foot)], INK["trouble"], width=2, dash="2 3")
        sheet.mark("error", x, foot, 7)


def _stroke(sheet: Sheet, points: Sequence[tuple[float, float]], line: Line) -> None:
    if len(points) > 1:
        sheet.line(points, line.colour, width=1.5)
    if points and len(line.steps) <= DOTS:
        for x, y in points:
            sheet.mark("note" if line.colour == INK["note"] else "dot", x, y, 4)


def histogram(edges: Sequence[float], counts: Sequence[int], title: str, *, width: int = 920, height: int = 170) -> str:
    """Counts between edges, one more edge than counts; the bins are drawn as wide as each other."""
    sheet = Sheet(width, title)
    sheet.text(0, 9, title, size=12, colour=INK["ink"], weight=600)
    left, right, top, bottom = LEFT, width - RIGHT, HEAD, height - FOOT
    most, each = max([1, *counts]), (right - left) / max(1, len(counts))
    for i, n in enumerate(counts):
        tall = (bottom - top) * n / most
        sheet.rect(left + i * each + 0.5, bottom - tall, max(1.0, each - 1), tall, INK["note"])
    sheet.line([(left, bottom), (right, bottom)], INK["line-2"])
    sheet.text(left - 6, top + 5, count(most), colour=INK["ink-2"], align="right")
    sheet.text(left - 6, bottom, "0", colour=INK["ink-2"], align="right")
    for i in sorted({0, len(counts) // 2, len(counts)}):
        if i < len(edges):
            sheet.text(left + i * each, bottom + 14, number(edges[i], 2), colour=INK["ink-2"], align="middle")
    return sheet.svg(height)
