"""A CSV file as a data set, with messages that name the line and the column."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np

from weighbridge.errors import BadInput, nearest
from weighbridge.teaching.data import Dataset, Task, read_target

MISSING = {"", "nan", "na", "n/a", "null", "none", "?", "-"}


def read_csv(path: Path, target: str | None = None, task: Task | None = None) -> Dataset:
    """Read a file whose columns are numbers, but for the target, which may be words. Raises BadInput."""
    header, rows, lines = _cells(path)
    place = _place_of_target(path, header, target)
    _refuse_missing(path, header, rows, lines)
    inputs = [i for i in range(len(header)) if i != place]
    if not inputs:
        raise BadInput(f"{path} has one column only: a target without inputs.")
    x = np.empty((len(rows), len(inputs)))
    for column, i in enumerate(inputs):
        for row, cells in enumerate(rows):
            x[row, column] = _number(path, header[i], cells[i], lines[row])
    decided, why, classes, y = read_target([cells[place] for cells in rows], task)
    why = f"{why} (column {header[place]})"
    return Dataset(path.stem, x, y, decided, why, tuple(header[i] for i in inputs), classes)


def _cells(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    """Column names, rows of stripped cells, and the line of the file (from 1) on which each row ends."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BadInput(f"Cannot read {path}: {error.strerror}. Give the path of a CSV file.") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path} is not text in UTF-8. Save it as a CSV file in UTF-8.") from None
    delimiter = max(",;\t", key=text.split("\n", 1)[0].count)
    reader = csv.reader(text.splitlines(), delimiter=delimiter)
    numbered = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(cell.strip() for cell in row)]
    if not numbered:
        raise BadInput(f"{path} is empty.")
    lines, table = [n for n, _ in numbered], [row for _, row in numbered]
    has_header = any(not _is_number(cell) and cell.lower() not in MISSING for cell in table[0])
    if has_header and len(table) > 1 and _looks_like_a_row(table):
        has_header = False
    width = len(table[0])
    header = table[0] if has_header else [f"column{i + 1}" for i in range(width)]
    if has_header:
        lines, table = lines[1:], table[1:]
    if len(table) < 2:
        raise BadInput(f"{path} has {len(table)} row(s) of data: too few to train on.")
    for line, row in zip(lines, table, strict=True):
        if len(row) != width:
            raise BadInput(f"{path}, line {line}: {len(row)} cells, but the first line has {width}.")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise BadInput(f"{path} has more than one column named {', '.join(twice)}: give each its own name.")
    return header, table, lines


def _looks_like_a_row(table: list[list[str]]) -> bool:
    """A first line whose cells are numbers wherever the next line's are is data, not a header (iris without a header)."""
    below = [i for i, cell in enumerate(table[1]) if _is_number(cell)]
    return bool(below) and all(i < len(table[0]) and _is_number(table[0][i]) for i in below)


def _place_of_target(path: Path, header: list[str], target: str | None) -> int:
    if target is None:
        return len(header) - 1
    if target not in header:
        raise BadInput(f"{path} has no column {target!r} to predict.{nearest(target, header)} Its columns: {_some(header)}.")
    return header.index(target)


def _refuse_missing(path: Path, header: list[str], rows: list[list[str]], lines: list[int]) -> None:
    holes = [(row, i) for row, cells in enumerate(rows) for i, cell in enumerate(cells) if cell.lower() in MISSING]
    if holes:
        row, i = holes[0]
        raise BadInput(
            f"{path} has {len(holes)} missing value(s) in {len({r for r, _ in holes})} row(s); the first is in line "
            f"{lines[row]}, column {header[i]}. Remove these rows, or fill the values in, first."
        )


def _number(path: Path, column: str, cell: str, line: int) -> float:
    if not _is_number(cell):
        raise BadInput(
            f"{path}, line {line}: column {column} holds text ({cell!r}). Inputs must be numbers: drop the column, or "
            f"turn it into numbers first. If it is what you want to predict, say --target {column}."
        )
    value = float(cell)
    if not math.isfinite(value):
        raise BadInput(f"{path}, line {line}: column {column} holds {cell!r}, which is not a finite number.")
    return value


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _some(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
