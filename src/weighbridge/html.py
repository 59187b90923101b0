"""Pieces of HTML for a notebook's cell: tables, paragraphs, pictures. Text is escaped; colours are those of the notebook."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import Final

from weighbridge.format import visible

CELL: Final = "padding:1px 12px 1px 0;text-align:{align};vertical-align:top;white-space:nowrap"
TABLE: Final = "border-collapse:collapse;margin:4px 0 8px;font-variant-numeric:tabular-nums"


def text(words: str) -> str:
    """Words as they are."""
    return escape(visible(words))


def bold(words: str) -> str:
    return f"<b>{text(words)}</b>"


def paragraph(*pieces: str) -> str:
    """Pieces of HTML in one paragraph."""
    return f'<p style="margin:2px 0 6px;max-width:60em">{"".join(pieces)}</p>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool] = ()) -> str:
    """Words under headings. right: which columns stand at the right, as numbers do; default: none."""
    aligned = [CELL.format(align="right" if i < len(right) and right[i] else "left") for i in range(len(head))]

    def line(cells: Sequence[str], tag: str) -> str:
        told = "".join(f'<{tag} style="{style}">{text(cell)}</{tag}>' for cell, style in zip(cells, aligned, strict=True))
        return f"<tr>{told}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f'<table style="{TABLE}"><thead>{line(head, "th")}</thead><tbody>{body}</tbody></table>'


def picture(svg: str, told: str) -> str:
    """An SVG as an image, so that nothing in it can run."""
    data = base64.b64encode(svg.encode()).decode()
    return f'<img alt="{text(told)}" style="max-width:100%;display:block" src="data:image/svg+xml;base64,{data}">'


def folded(summary: str, *pieces: str, is_open: bool = False) -> str:
    """What opens at a click."""
    state = " open" if is_open else ""
    inside = f'<div style="margin-left:1.2em">{"".join(pieces)}</div>'
    return f'<details{state} style="margin:2px 0"><summary>{summary}</summary>{inside}</details>'


def preformatted(words: str) -> str:
    """Lines of a fixed width."""
    return f'<pre style="line-height:1.3">{chr(10).join(map(text, words.split(chr(10))))}</pre>'


def block(*pieces: str) -> str:
    """All of it."""
    return f"<div>{''.join(pieces)}</div>"
