"""The layer x step picture: one row per tensor, one column per bucket of steps, drawn as the page draws it.

What is no value has its own mark: hatch (not recorded), centre line (exactly zero), cross-hatch after a solid edge (NaN or
Inf), empty outline (the very same in two runs).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from weighbridge.drawing.colours import INK, ramp
from weighbridge.drawing.scale import decade, round_marks
from weighbridge.drawing.sheet import Sheet, cut
from weighbridge.format import count, factor, number

VALUE, ZERO, NONFINITE, ABSENT, IDENTICAL = range(5)  # what a cell is, as server/heat.py and versus.py say it
TALL, LOW, APART, ROOM = 15, 7, 3, 640  # px of a weight, of its bias, between layers; of all rows
TITLE, KEY, FLAGS, FOOT = 22, 40, 14, 26
LEFT, RIGHT = 196, 74
COLOURS: Final = 250
SEVERITIES: Final = ("error", "warning", "note")
CLEAR, HATCH, TROUBLE, SOFT, LINE, EDGE = range(COLOURS, 256)


@dataclass(frozen=True, slots=True)
class Label:
    """What stands beside a row."""

    title: str  # of the layer
    flow: str  # its shape, or how many tensors are folded into it
    letter: str  # W, b
    is_bias: bool


@dataclass(frozen=True, slots=True)
class Flag:
    """Something that began at a step."""

    step: int
    severity: str
    text: str


def heat_map(
    title: str,
    value: np.ndarray,
    mask: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    labels: Sequence[Label],
    scale: str,
    domain: tuple[float, float] | None,
    *,
    flags: Sequence[Flag] = (),
    sides: tuple[str, str] = ("the first", "the second"),
    width: int = 920,
    on: Sheet | None = None,
    top: float = 0,
) -> tuple[str, float]:
    """The picture and where it ends, in px; also put on a sheet that is there.

    value, mask: [rows, columns]; sides: what two runs are called where they are compared.
    """
    sheet = on or Sheet(width, title)
    places, height = stacked(labels)
    plot = width - LEFT - RIGHT
    sheet.text(0, top + 9, title, size=12, colour=INK["ink"], weight=600)
    begin = top + TITLE + KEY + FLAGS
    _key(sheet, scale, domain, mask, width, top + TITLE, sides)
    _labels(sheet, labels, places, begin)
    if len(first):
        index = pixels_of(value, mask, places, height, plot, scale, domain)
        sheet.pixels(LEFT, begin, index, _palette(scale))
        _numbers(sheet, value, mask, places, scale, width, begin, int(last[-1]))
        _steps(sheet, first, last, plot, begin + height)
        _flags(sheet, flags, first, last, plot, begin, height)
    else:
        sheet.text(LEFT, begin + 20, "nothing recorded yet")
    end = begin + height + FOOT
    return sheet.svg(end), end


def stacked(labels: Sequence[Label]) -> tuple[list[tuple[int, int]], int]:
    """Upper edge and height of each row, and the height of all: less for each where there are many."""
    for tall, low, apart in ((TALL, LOW, APART), (11, 5, 2), (8, 4, 1), (5, 3, 1), (4, 2, 1)):
        places, at = [], 0
        for i, label in enumerate(labels):
            at += 0 if i == 0 else 1 if label.is_bias and labels[i - 1].title == label.title else apart
            places.append((at, low if label.is_bias else tall))
            at += places[-1][1]
        if at <= ROOM:
            break
    return places, max(at, 24)


def pixels_of(
    value: np.ndarray,
    mask: np.ndarray,
    places: Sequence[tuple[int, int]],
    height: int,
    width: int,
    scale: str,
    domain: tuple[float, float] | None,
) -> np.ndarray:
    """uint8 [height, width] into the palette."""
    picture = np.full((height, width), CLEAR, np.uint8)
    columns = value.shape[1]
    of = np.minimum(np.arange(width) * columns // width, columns - 1)  # the column of each px
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    hatch = np.where((across + down) % 4 == 0, HATCH, CLEAR)
    cross = np.where(((across + down) % 6 == 0) | ((across - down) % 6 == 0), TROUBLE, SOFT)
    colour = _indices(value, scale, domain)
    for row, (top, tall) in enumerate(places):
        kinds = mask[row][of]
        block = np.broadcast_to(colour[row][of], (tall, width)).copy()
        area = slice(top, top + tall)
        block = np.where(kinds == ABSENT, hatch[area], block)
        block = np.where(kinds == IDENTICAL, CLEAR, block)
        if scale in ("log", "count"):
            middle = (np.arange(tall) == tall // 2)[:, None]
            block = np.where(kinds == ZERO, np.where(middle, LINE, CLEAR), block)
        if tall > 2:
            edge = ((np.arange(tall) == 0) | (np.arange(tall) == tall - 1))[:, None]
            block = np.where((kinds == IDENTICAL) & edge, EDGE, block)
        bad = kinds == NONFINITE
        block = np.where(bad, cross[area], block)
        starts = np.flatnonzero(bad & ~np.concatenate([[False], bad[:-1]]))
        for start in starts:  # the moment it happened is solid
            solid = slice(start, min(width, start + 5))
            block[:, solid] = np.where(bad[solid], TROUBLE, block[:, solid])
        picture[area] = block
    return picture


def _indices(value: np.ndarray, scale: str, domain: tuple[float, float] | None) -> np.ndarray:
    """The colour of each value, uint8 [rows, columns]."""
    if domain is None:
        return np.full(value.shape, CLEAR, np.uint8)
    with np.errstate(all="ignore"):
        at, low, high = (np.log(v) if scale == "log" else v for v in (value.astype(np.float64), domain[0], domain[1]))
        place = np.nan_to_num((at - low) / (high - low), nan=0.0, posinf=1.0, neginf=0.0)
    return np.asarray(np.rint(np.clip(place, 0, 1) * (COLOURS - 1)).astype(np.uint8))


def _palette(scale: str) -> np.ndarray:
    """uint8 [256, 4]."""
    solid = np.concatenate([ramp(scale, COLOURS), np.full((COLOURS, 1), 255, np.uint8)], axis=1)
    marks = [(255, 255, 255, 0), _rgba("hatch"), _rgba("trouble"), (*_rgba("trouble")[:3], 40), _rgba("ink-3"), _rgba("line-2")]
    return np.concatenate([solid, np.array(marks, np.uint8)])


def _rgba(name: str) -> tuple[int, int, int, int]:
    hexed = INK[name]
    return int(hexed[1:3], 16), int(hexed[3:5], 16), int(hexed[5:7], 16), 255


def _labels(sheet: Sheet, labels: Sequence[Label], places: Sequence[tuple[int, int]], begin: float) -> None:
    free = -1e9
    for i, (label, (top, tall)) in enumerate(zip(labels, places, strict=True)):
        y = begin + top + tall / 2
        if y >= free and (i == 0 or labels[i - 1].title != label.title):
            flow = cut(label.flow, 62)
            sheet.text(0, y, cut(label.title, LEFT - 42 - 6.2 * len(flow), 11.5), size=11, colour=INK["ink"], mono=True)
            sheet.text(LEFT - 28, y, flow, align="right")
            free = y + 13
        if tall >= 6 and label.letter:
            colour = INK["bias" if label.is_bias else "weight"]
            sheet.text(LEFT - 12, y, label.letter, size=9 if label.is_bias else 11, colour=colour, align="middle", weight=600)


def _numbers(
    sheet: Sheet,
    value: np.ndarray,
    mask: np.ndarray,
    places: Sequence[tuple[int, int]],
    scale: str,
    width: int,
    begin: float,
    step: int,
) -> None:
    sheet.text(width, begin - 8, f"step {count(step)}", align="right")
    free = -1e9
    for row, (top, tall) in enumerate(places):
        y = begin + top + tall / 2
        if y < free:
            continue
        kind, last = int(mask[row, -1]), float(value[row, -1])
        text = {ABSENT: "–", NONFINITE: "NaN, Inf", IDENTICAL: "same", ZERO: "0"}.get(kind) or cell_text(last, scale)
        sheet.text(width, y, text, size=10, colour=INK["ink-2"], align="right")
        free = y + 10


def cell_text(value: float, scale: str) -> str:
    """A cell's number; a factor where two runs are compared."""
    if scale == "versus":
        return ("÷" if value < 0 else "") + factor(10.0 ** abs(value)).removeprefix("×" if value < 0 else "")
    return number(value, 2)


def _steps(sheet: Sheet, first: np.ndarray, last: np.ndarray, plot: int, y: float) -> None:
    sheet.line([(LEFT, y + 0.5), (LEFT + plot, y + 0.5)], INK["line-2"])
    sheet.text(LEFT - 8, y + 14, "step", align="right")
    low, high = int(first[0]), int(last[-1])
    for step in sorted({round(mark) for mark in round_marks(low, high, max(2, plot // 100))}):
        sheet.text(_x(step, first, last, plot), y + 14, count(step), align="middle")


def _x(step: float, first: np.ndarray, last: np.ndarray, plot: int) -> float:
    column = int(np.clip(np.searchsorted(first, step, "right") - 1, 0, len(first) - 1))
    share = (step - first[column]) / (last[column] - first[column] + 1)
    return float(LEFT + plot * (column + np.clip(share, 0, 1)) / len(first))


def _flags(
    sheet: Sheet, flags: Sequence[Flag], first: np.ndarray, last: np.ndarray, plot: int, begin: float, height: float
) -> None:
    inside = sorted((flag for flag in flags if first[0] <= flag.step <= last[-1]), key=lambda flag: flag.step)
    placed = [(_x(flag.step, first, last, plot), flag) for flag in inside]
    apart: list[tuple[float, Flag]] = []
    for x, flag in placed:  # neighbours are one flag, of the gravest
        if not apart or x - apart[-1][0] >= 12:
            apart.append((x, flag))
        elif SEVERITIES.index(flag.severity) < SEVERITIES.index(apart[-1][1].severity):
            apart[-1] = (apart[-1][0], flag)
    for i, (x, flag) in enumerate(apart):
        colour = INK.get(flag.severity, INK["note"])
        sheet.line([(x, begin - 6), (x, begin + height)], colour)
        sheet.mark(flag.severity, x, begin - 9, 8)
        room = (apart[i + 1][0] if i + 1 < len(apart) else LEFT + plot - 10) - x - 18
        if room > 60:
            sheet.text(x + 8, begin - 9, cut(flag.text, room), colour=INK["ink-2"])


def _key(
    sheet: Sheet,
    scale: str,
    domain: tuple[float, float] | None,
    mask: np.ndarray,
    width: int,
    y: float,
    sides: tuple[str, str],
) -> None:
    """Which colour is which number, and what the other marks mean."""
    x0, long = LEFT, 250
    if domain is None:
        sheet.text(x0, y + 6, "no finite value recorded")
    else:
        colours = np.broadcast_to(np.arange(long) * (COLOURS - 1) // (long - 1), (9, long)).astype(np.uint8)
        sheet.pixels(x0, y, colours, _palette(scale))
        ends = [(0.0, domain[0]), (1.0, domain[1])]
        for place, edge in ends if scale == "log" or domain[0] * domain[1] >= 0 else [*ends, (0.5, 0.0)]:
            text = "same" if scale == "versus" and place == 0.5 else decade(edge) if scale == "log" else cell_text(edge, scale)
            sheet.text(x0 + place * long, y + 19, text, align="left" if place == 0 else "right" if place == 1 else "middle")
        if scale in ("versus", "less"):
            sheet.text(x0 + long + 12, y + 5, f"blue: {sides[0]} is larger, orange: {sides[1]}")
    if scale in ("versus", "less"):
        words = ["empty: the very same"]
    else:
        words = [f"hatched: not recorded{'' if (mask == ABSENT).any() else ' (none)'}"]
        words += [f"cross-hatched: NaN or Inf{'' if (mask == NONFINITE).any() else ' (none)'}"]
    sheet.text(width, y + 19, ", ".join(words), align="right")
