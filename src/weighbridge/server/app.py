"""The web server of `weighbridge ui`, put together: gate, endpoints, page."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from weighbridge.errors import WeighbridgeError
from weighbridge.server.answers import explain, explain_http, explain_os
from weighbridge.server.api import Api
from weighbridge.server.gate import LOOPBACK_NAMES, Gate
from weighbridge.server.lab import Desk
from weighbridge.server.page import STATIC, file_or_page
from weighbridge.server.runs import Runs

FIRST_STATISTIC: Final = "gradient.rms"  # that the page of a run shows, as frontend/src/heat/menu.ts says


def create_app(
    runs: Runs,
    *,
    names: frozenset[str] = LOOPBACK_NAMES,
    any_address: bool = False,
    asks_ahead: bool = False,
    locked: str = "",
    static: Path = STATIC,
) -> Starlette:
    """The application over a folder of runs (or one run). It reads; what a person changes on the page is acts.py's, what is
    found out may be kept (`Runs.keeps`), compaction is compactor.py's, and the Lab trains in processes of its own (lab.py).

    `names` are the host names that a request may be addressed to; `any_address` also takes IP addresses, for a server
    that is bound to an outside address on purpose. `asks_ahead` and `locked`: as for Api; with the first,
    what the page of a run shows first is read while the page is on its way.
    """

    api = Api(runs, asks_ahead, locked)

    def ahead(request: Request) -> None:
        name = request.url.path.removeprefix("/run/")
        if asks_ahead and runs.find(name) is not None:
            api.ahead(name, request.query_params.get("stat", FIRST_STATISTIC))

    def page(request: Request) -> Response:
        ahead(request)
        return file_or_page(static, request)

    app = Starlette(
        routes=[*Desk(runs).routes(), *api.routes(), Route("/{path:path}", page, methods=["GET"])],
        middleware=[Middleware(Gate, names=names, any_address=any_address)],
        exception_handlers={
            WeighbridgeError: partial(explain, runs.told),
            HTTPException: explain_http,
            OSError: partial(explain_os, runs.told),
        },
    )
    app.state.ahead = ahead
    return app
