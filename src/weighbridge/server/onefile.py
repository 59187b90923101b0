"""Runs as one HTML file that needs neither server nor network: the page itself, with the server's answers put in beforehand.

What was not put in (kept.py), the page says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from weighbridge.errors import BadInput
from weighbridge.server import kept
from weighbridge.server.api import Api
from weighbridge.server.page import STATIC, check_built
from weighbridge.server.parting import common
from weighbridge.server.runs import SomeRuns

CELLS: Final = 360_000  # of all pictures together; more runs and tensors are kept in fewer columns
MOST: Final = 8  # runs


def one_file(places: Sequence[Path], static: Path = STATIC, cells: int = CELLS) -> str:
    """The page of these runs as one file. Raises PageNotBuilt, NotARun, CorruptRun or NewerFormat; may take a while."""
    check_built(static)
    if len(places) > MOST:
        raise BadInput(f"{len(places)} runs are too many for one report; name {MOST} at most.")
    api = Api(SomeRuns(places))
    return page_of({"runs": api.runs.names(), "answers": answers_of(api, cells)}, static)


def answers_of(api: Api, cells: int) -> dict[str, str]:
    """What the page will ask about all runs of this server, by its question."""
    names = api.runs.names()
    found: dict[str, str] = {}
    room = cells // max(1, len(names) + len(names) * (len(names) - 1) // 2)
    widest = kept.COLUMNS
    for name in names:
        with api.runs.use(name) as record:
            api.diagnoser.keep(name, record)
            columns, metrics = kept.columns_for(room, len(record.tensors)), record.log_keys()
        widest = min(widest, columns)
        for asked in kept.of_a_run(name, metrics):
            found |= kept.answer(api, asked, columns)
    for asked in kept.of_any_run():
        found |= kept.answer(api, asked, widest)
    if len(names) > 1:
        for asked in kept.of_several(names, _in_common(api, names)):
            found |= kept.answer(api, asked, widest)
    return found


def _in_common(api: Api, names: Sequence[str]) -> list[str]:
    with ExitStack() as opened:
        return [tensor.name for tensor in common([opened.enter_context(api.runs.use(name)) for name in names])]


def page_of(content: dict[str, object], static: Path = STATIC) -> str:
    """index.html with its script and style written into it, and what the page must know before them."""
    page = (static / "index.html").read_text(encoding="utf-8")

    def script(match: re.Match[str]) -> str:
        code = (static / match[1].lstrip("/")).read_text(encoding="utf-8")
        return '<script type="module">' + code.replace("</script", "<\\/script") + "</script>"

    def style(match: re.Match[str]) -> str:
        return (
            "<style>" + (static / match[1].lstrip("/")).read_text(encoding="utf-8").replace("</style", "<\\/style") + "</style>"
        )

    page = re.sub(r'<link rel="stylesheet"[^>]*href="([^"]+)"[^>]*>', style, page)
    page = re.sub(r"<link[^>]*>", "", page)
    told = json.dumps(content, ensure_ascii=True).replace("</", "<\\/")
    data = f'<script type="application/json" id="frozen">{told}</script>'
    page = re.sub(r'<script type="module"[^>]*src="([^"]+)"[^>]*></script>', lambda found: data + script(found), page)
    names = content["runs"]
    title = ", ".join(names) if isinstance(names, list) else ""
    return page.replace("<title>weighbridge</title>", f"<title>{_text(title)} · weighbridge</title>")


def _text(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
