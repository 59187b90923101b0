"""Where the commands print: one place that knows how wide the terminal is and whether it has colours."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text


def width() -> int:
    """Columns of the terminal; 80 in a pipe unless COLUMNS says otherwise."""
    return Console().width


def show(lines: Iterable[Text]) -> None:
    """Print lines as they are: no markup is read in them, and nothing is wrapped again."""
    console = Console(markup=False, highlight=False, emoji=False, soft_wrap=True)
    with console:
        for line in lines:
            console.print(line, soft_wrap=True)


def put(text: str) -> None:
    """Print what a program will read, byte for byte."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
