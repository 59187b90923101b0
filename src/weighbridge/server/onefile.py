"""A run as one HTML file that needs neither server nor network: the page itself, with the server's answers put in beforehand.

Each answer is compressed (zlib) and written as base64. Pictures are kept at COLUMNS columns, their values rounded to 12 bits of
mantissa: three digits and more. What was not put in, the page says.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import numpy as np
import pyarrow as pa
from starlette.requests import Request
from starlette.responses import Response

from weighbridge.errors import WeighbridgeError
from weighbridge.server.api import Api
from weighbridge.server.page import STATIC, check_built
from weighbridge.server.runs import Runs

COLUMNS: Final = 400
PICTURES: Final = ("gradient.rms", "update.ratio", "parameter.rms", "gradient.nonfinite_count", "activation.rms")
CELLS: Final = 360_000  # of all pictures together; more runs and tensors are kept in fewer columns
METRICS: Final = 8
KEPT_BITS: Final = np.uint32(0xFFFFF800)  # of a float32: sign, exponent, 12 bits of mantissa


def one_file(places: Sequence[Path], static: Path = STATIC) -> str:
    """The page of these runs as one file. Raises PageNotBuilt, NotARun, CorruptRun or NewerFormat; may take a while."""
    check_built(static)
    answers: dict[str, str] = {}
    names = []
    for place in places:
        runs = Runs(place)
        name = runs.names()[0]
        names.append(name)
        answers |= answers_of(Api(runs), name, CELLS // len(places))
    content = json.dumps({"runs": names, "answers": answers}, ensure_ascii=True)
    return _page(static, content, names)


def answers_of(api: Api, name: str, cells: int) -> dict[str, str]:
    """What the page will ask about one run, by its question."""
    with api.runs.use(name) as record:
        api.diagnoser.keep(name, record)
        tensors = max(1, len(record.tensors))
        metrics = record.log_keys()[:METRICS]
    columns = max(60, min(COLUMNS, cells // (tensors * 3)))
    kept: dict[str, str] = {}

    def keep(what: str, **of: str) -> None:
        body = _answer(api, what, {**of, "buckets": str(columns)})
        if body is not None:
            kept[question(what, of)] = _packed(body)

    for what in ("run", "rows", "tensors", "findings", "notes", "loss"):
        keep(what, run=name)
    for metric in metrics:
        keep("logged", run=name, key=metric)
    for statistic in PICTURES:
        keep("heat", run=name, stat=statistic)
    for what in ("statistics", "rules"):
        keep(what)
    return kept


def question(what: str, of: dict[str, str]) -> str:
    """The name of an answer, as frontend/src/state/frozen.ts makes it too."""
    return f"{what}?{urlencode(sorted(of.items()))}"


def _answer(api: Api, what: str, of: dict[str, str]) -> bytes | None:
    scope = {"type": "http", "method": "GET", "path": f"/api/{what}", "headers": [], "query_string": urlencode(of).encode()}
    try:
        response: Response = api.plain()[what](Request(scope))
    except WeighbridgeError:  # nothing of this kind was recorded
        return None
    body = bytes(response.body)
    return _rounded(body) if what == "heat" else body


def _rounded(stream: bytes) -> bytes:
    """A picture whose values compress well."""
    table = pa.ipc.open_stream(stream).read_all()
    value = table["value"].to_numpy().astype(np.float32)
    short = (value.view(np.uint32) & KEPT_BITS).view(np.float32)
    kept = np.where(np.isfinite(value), short, value).astype(np.float32)
    sink = pa.BufferOutputStream()
    made = pa.table({"value": kept, "mask": table["mask"]}).replace_schema_metadata(table.schema.metadata)
    with pa.ipc.new_stream(sink, made.schema) as writer:
        writer.write_table(made.combine_chunks())
    return bytes(sink.getvalue())


def _packed(body: bytes) -> str:
    return base64.b64encode(zlib.compress(body, 9)).decode()


def _page(static: Path, content: str, names: Sequence[str]) -> str:
    """index.html with its script and style written into it, and the answers before them."""
    page = (static / "index.html").read_text(encoding="utf-8")
    title = ", ".join(names)

    def script(match: re.Match[str]) -> str:
        code = (static / match[1].lstrip("/")).read_text(encoding="utf-8")
        return '<script type="module">' + code.replace("</script", "<\\/script") + "</script>"

    def style(match: re.Match[str]) -> str:
        return (
            "<style>" + (static / match[1].lstrip("/")).read_text(encoding="utf-8").replace("</style", "<\\/style") + "</style>"
        )

    page = re.sub(r'<link rel="stylesheet"[^>]*href="([^"]+)"[^>]*>', style, page)
    page = re.sub(r"<link[^>]*>", "", page)
    data = '<script type="application/json" id="frozen">' + content.replace("</", "<\\/") + "</script>"
    page = re.sub(r'<script type="module"[^>]*src="([^"]+)"[^>]*></script>', lambda found: data + script(found), page)
    return page.replace("<title>weighbridge</title>", f"<title>{_text(title)} · weighbridge</title>")


def _text(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
