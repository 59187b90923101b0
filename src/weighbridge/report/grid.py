"""Columns of text under headings, for the terminal. Widths are counted in cells, so names of any language line up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.text import Text

GAP = 2  # cells between two columns


@dataclass(slots=True)
class Column:
    """One column: its heading, its cells, and where they stand in it."""

    heading: str
    cells: list[Text] = field(default_factory=list)
    right: bool = True

    @property
    def width(self) -> int:
        return max([cell_len(self.heading), *(cell_len(cell.plain) for cell in self.cells)])


def column(heading: str, cells: Sequence[str | Text], right: bool = True) -> Column:
    """A column from plain strings (never read as markup) or styled texts."""
    return Column(heading, [cell if isinstance(cell, Text) else Text(cell) for cell in cells], right)


def total_width(columns: Sequence[Column]) -> int:
    return sum(c.width for c in columns) + GAP * (len(columns) - 1)


def lines(columns: Sequence[Column], indent: int = 0) -> list[Text]:
    """The heading (dim) and one line per row."""
    widths = [c.width for c in columns]
    head = _line([Text(c.heading, style="dim") for c in columns], columns, widths, indent)
    count = len(columns[0].cells) if columns else 0
    return [head, *(_line([c.cells[i] for c in columns], columns, widths, indent) for i in range(count))]


def in_blocks(fixed: Sequence[Column], others: Sequence[Column], width: int) -> list[list[Column]]:
    """The columns in as many blocks as the width asks for; the fixed ones stand at the left of each."""
    blocks: list[list[Column]] = []
    current = list(fixed)
    for one in others:
        if len(current) > len(fixed) and total_width([*current, one]) > width:
            blocks.append(current)
            current = list(fixed)
        current.append(one)
    return [*blocks, current]


def _line(cells: Sequence[Text], columns: Sequence[Column], widths: Sequence[int], indent: int) -> Text:
    line = Text(" " * indent)
    for i, (cell, one, width) in enumerate(zip(cells, columns, widths, strict=True)):
        room = " " * (width - cell_len(cell.plain))
        line.append(" " * GAP if i else "")
        line.append_text(Text(room) + cell if one.right else cell + Text(room))
    line.rstrip()
    return line
