"""Answers that are no JSON of a record: Arrow streams, and every error as a sentence with a status."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio.from_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from weighbridge.errors import CorruptRun, NewerFormat, NotARun, NothingRecorded, UnknownTensor

MEDIA_TYPE: Final = "application/vnd.apache.arrow.stream"


def explain(told: Callable[[Exception], str], request: Request, error: Exception) -> Response:
    """Any reader's error as its sentence. `told`: what it says, for a reader of the page."""
    unknown = isinstance(error, NotARun | UnknownTensor | NothingRecorded)
    broken = isinstance(error, CorruptRun | NewerFormat)
    return sentence(404 if unknown else 422 if broken else 400, told(error))


def explain_http(request: Request, error: Exception) -> Response:
    """The framework's own errors in the same form."""
    assert isinstance(error, HTTPException)
    return sentence(error.status_code, error.detail)


def explain_os(told: Callable[[Exception], str], request: Request, error: Exception) -> Response:
    """A disk that does not answer, a folder that may not be read."""
    return sentence(500, f"The run cannot be read: {told(error)}")


def sentence(status: int, text: str) -> Response:
    """An error in words."""
    return JSONResponse({"error": text}, status_code=status, headers={"cache-control": "no-store"})


def nothing_here(request: Request) -> Response:
    """For all addresses that are no endpoint."""
    return sentence(404, f"There is nothing at {request.url.path}.")


def stream(content: bytes | memoryview) -> Response:
    """An Arrow stream that is made already."""
    return Response(content, media_type=MEDIA_TYPE, headers={"cache-control": "no-store"})


def is_gone(request: Request) -> bool:
    """Has the browser taken its question back while it waited? Asked on a thread of the framework's pool."""
    try:
        return anyio.from_thread.run(request.is_disconnected)
    except RuntimeError:  # asked by this program itself (kept.py), without a connection
        return False
