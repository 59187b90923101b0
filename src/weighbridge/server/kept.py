"""The server's answers put into a page that has no server: a report, the output of a notebook's cell.

Each answer is compressed (zlib), written as base64 and named by its question, as frontend/src/state/frozen.ts names it too.
Pictures are kept at `columns` columns, their values rounded to 12 bits of mantissa: three digits and more.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Final
from urllib.parse import urlencode

import numpy as np
import pyarrow as pa
from starlette.requests import Request
from starlette.responses import Response

from weighbridge.errors import WeighbridgeError
from weighbridge.server.api import Api

COLUMNS: Final = 400
LEAST_COLUMNS: Final = 60
PICTURES: Final = ("gradient.rms", "update.ratio", "parameter.rms", "gradient.nonfinite_count", "activation.rms")
METRICS: Final = 8
FACES: Final = 24  # tensors whose values are set side by side
KEPT_BITS: Final = np.uint32(0xFFFFF800)  # of a float32: sign, exponent, 12 bits of mantissa
AS_PICTURES: Final = ("heat", "difference")

Question = tuple[str, list[tuple[str, str]]]  # what is asked for, and of what


def question(what: str, of: Sequence[tuple[str, str]]) -> str:
    """The name of an answer."""
    return f"{what}?{urlencode(sorted(of, key=lambda pair: pair[0]))}"


def columns_for(cells: int, tensors: int) -> int:
    """How many columns a picture may have where all pictures together may have so many cells."""
    return max(LEAST_COLUMNS, min(COLUMNS, cells // (max(1, tensors) * 3)))


def of_a_run(name: str, metrics: Sequence[str], pictures: Sequence[str] = PICTURES) -> Iterator[Question]:
    """All that the page asks about one run."""
    run = ("run", name)
    for what in ("run", "rows", "tensors", "findings", "notes", "loss", "cost", "clock"):
        yield what, [run]
    for key in metrics[:METRICS]:
        yield "logged", [run, ("key", key)]
    for statistic in pictures:
        yield "heat", [run, ("stat", statistic)]


def of_any_run() -> Iterator[Question]:
    """What does not depend on a run."""
    yield "statistics", []
    yield "rules", []


def of_several(names: Sequence[str], tensors: Sequence[str]) -> Iterator[Question]:
    """All that the page asks to set runs side by side, all of them and each two. tensors: those in common."""
    for some in [list(names), *(list(pair) for pair in combinations(names, 2) if len(names) > 2)]:
        runs = [("run", name) for name in some]
        yield "compare", runs
        for tensor in tensors[:FACES]:
            yield "faces", [*runs, ("tensor", tensor)]
    for first, second in combinations(names, 2):
        for statistic in PICTURES:
            yield "difference", [("run", first), ("run", second), ("stat", statistic)]


def answer(api: Api, asked: Question, columns: int, level: int = 9) -> dict[str, str]:
    """The answer by its name; empty where nothing of this kind was recorded. level: of the compression."""
    what, of = asked
    query = urlencode([*of, ("buckets", str(columns))])
    scope = {"type": "http", "method": "GET", "path": f"/api/{what}", "headers": [], "query_string": query.encode()}
    try:
        response: Response = api.plain()[what](Request(scope))
    except WeighbridgeError:
        return {}
    body = _rounded(bytes(response.body)) if what in AS_PICTURES else bytes(response.body)
    return {question(what, of): packed(body, level)}


def packed(body: bytes, level: int = 9) -> str:
    """Compressed, as text."""
    return base64.b64encode(zlib.compress(body, level)).decode()


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
