"""What the terminal prints, in a notebook: columns as a table, lines as they are."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from weighbridge import html
from weighbridge.report import grid


def table_of(columns: Sequence[grid.Column]) -> str:
    """Columns under their headings."""
    rows = [[one.cells[i].plain for one in columns] for i in range(len(columns[0].cells) if columns else 0)]
    return html.table([one.heading for one in columns], rows, [one.right for one in columns])


def lines_of(lines: Sequence[Text]) -> str:
    """Lines of a fixed width."""
    return html.block(html.preformatted("\n".join(line.plain for line in lines)))
