"""What a request asks for, read and checked. Everything here raises BadInput, which says what to write instead."""

from __future__ import annotations

import math
from typing import Final

from starlette.requests import Request

from weighbridge.errors import BadInput, nearest
from weighbridge.records import QUANTITIES
from weighbridge.server import arrays
from weighbridge.server.unitnumbers import SORTS, Wish

MOST_RUNS: Final = 8  # beside each other


def one(request: Request, name: str) -> str:
    """The one value of this name."""
    value = request.query_params.get(name)
    if not value:
        raise BadInput(f"The request names no {name}: add {name}=...")
    return value


def window(request: Request) -> tuple[int | None, int | None, int]:
    """start, stop (exclusive) and number of buckets."""
    buckets = integer(request, "buckets")
    wanted = arrays.BUCKETS if buckets is None else max(1, min(arrays.BUCKETS_AT_MOST, buckets))
    return integer(request, "start"), integer(request, "stop"), wanted


def several(request: Request, least: int) -> list[str]:
    """The names of the runs."""
    names = request.query_params.getlist("run")
    if not least <= len(names) <= MOST_RUNS:
        raise BadInput(f"Name {least} to {MOST_RUNS} runs: run=...&run=...")
    return names


def quantity(request: Request) -> str:
    """Its word; that of parameters where none is named."""
    word = request.query_params.get("quantity", "parameter")
    if word not in QUANTITIES:
        raise BadInput(f"There is no quantity {word!r}.{nearest(word, list(QUANTITIES))}")
    return word


def shares(request: Request) -> list[float]:
    """Parts of one, each between 0 and 1."""
    texts = request.query_params.getlist("share")
    try:
        found = [float(text) for text in texts]
    except ValueError:
        found = []
    if not found or not all(0 <= share <= 1 for share in found) or len(found) > MOST_RUNS:
        raise BadInput(f"share={','.join(texts)} is not one to {MOST_RUNS} numbers from 0 to 1, such as share=0.05&share=0.95.")
    return found


def units(request: Request) -> Wish:
    """Which units of a layer are looked at, in which order, and from which input on."""
    sort = request.query_params.get("sort", "unit")
    if sort not in SORTS:
        raise BadInput(f"sort={sort!r} is none of {', '.join(SORTS)}.{nearest(sort, list(SORTS))}")
    return Wish(sort, integer(request, "unit") or 0, integer(request, "input") or 0)


def domain(request: Request) -> tuple[float, float] | None:
    """The range of colours that the page keeps, where it has one."""
    text = request.query_params.get("domain")
    if text is None:
        return None
    try:
        low, high = (float(word) for word in text.split(","))
    except ValueError:
        raise BadInput(f"domain={text!r} is not two numbers.") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise BadInput(f"domain={text!r} is not a range.")
    return low, high


def integer(request: Request, name: str) -> int | None:
    """A whole number that an int64 holds; None where it is not there."""
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        value = int(text)
    except ValueError:
        raise BadInput(f"{name}={text!r} is no whole number.") from None
    if abs(value) > math.ldexp(1, 62):
        raise BadInput(f"{name}={text} is out of range.")
    return value
