"""The page's own files from the first moment on.

What answers the page's questions reads Parquet, knows all rules, and takes a third of a second to import. That goes on beside,
while the browser fetches the page and starts it; a question that comes earlier waits. Imports nothing of that itself.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from weighbridge.server.answers import explain_http
from weighbridge.server.gate import LOOPBACK_NAMES, Gate
from weighbridge.server.page import STATIC, file_or_page

QUESTIONS: Final = "/api/"


class Early:
    """The whole application, from before it is there."""

    def __init__(
        self,
        make: Callable[[], Starlette],
        *,
        names: frozenset[str] = LOOPBACK_NAMES,
        any_address: bool = False,
        static: Path = STATIC,
    ) -> None:
        """`make` is called on a thread of its own; where it raises, so does every question. Its `state.ahead` is told of the
        pages that were sent meanwhile. The rest: as for create_app."""
        self._sent: list[Request] = []

        def page(request: Request) -> Response:
            self._sent.append(request)
            return file_or_page(static, request)

        self._files: ASGIApp = Starlette(
            routes=[Route("/{path:path}", page, methods=["GET"])],
            middleware=[Middleware(Gate, names=names, any_address=any_address)],
            exception_handlers={HTTPException: explain_http},
        )
        self._whole: Future[Starlette] = Future()
        threading.Thread(target=self._make, args=(make,), name="weighbridge-imports", daemon=True).start()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_file = scope["type"] == "http" and not scope["path"].startswith(QUESTIONS)
        if is_file and not self._whole.done():
            await self._files(scope, receive, send)
            return
        whole = await asyncio.wrap_future(self._whole)
        await whole(scope, receive, send)

    def _make(self, make: Callable[[], Starlette]) -> None:
        try:
            whole = make()
        except BaseException as problem:
            self._whole.set_exception(problem)
            raise
        self._whole.set_result(whole)
        ahead: Callable[[Request], Any] = whole.state.ahead
        for request in self._sent:
            ahead(request)
