"""How far a run has grown, told as server-sent events; the numbers themselves are fetched by whoever wants them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from weighbridge.errors import WeighbridgeError
from weighbridge.server.runs import Runs
from weighbridge.server.shapes import run_json

LOOK_EVERY_SECONDS: Final = 0.25  # at most four events a second
QUIET_LOOK_EVERY_SECONDS: Final = 2.0  # a run that has ended can still be started again
REST: Final = 4.0  # times as long at rest as a look took: the training beside us needs the processor more
SAY_SOMETHING_SECONDS: Final = 15.0  # a comment now and then, so that a cut line is noticed


async def growth(runs: Runs, name: str, request: Request) -> AsyncIterator[str]:
    """Events `grown` with the run's facts, whenever they have changed; `trouble` with a sentence where reading fails."""
    told: dict[str, Any] | None = None
    silent = 0.0
    yield "retry: 1000\n\n"
    while not await request.is_disconnected():
        began = time.monotonic()
        event, facts = await run_in_threadpool(_look, runs, name)
        took = time.monotonic() - began
        if facts != told:
            told, silent = facts, 0.0
            yield f"event: {event}\ndata: {json.dumps(facts)}\n\n"
        wait = LOOK_EVERY_SECONDS if facts.get("state") == "live" else QUIET_LOOK_EVERY_SECONDS
        wait = max(wait, REST * took)
        silent += wait
        if silent >= SAY_SOMETHING_SECONDS:
            silent = 0.0
            yield ": still here\n\n"
        await asyncio.sleep(wait)


def _look(runs: Runs, name: str) -> tuple[str, dict[str, Any]]:
    try:
        with runs.use(name) as record:
            return "grown", run_json(name, record)
    except WeighbridgeError as error:
        return "trouble", {"error": runs.told(error)}
    except OSError as error:
        return "trouble", {"error": f"The run {name!r} cannot be read: {runs.told(error)}"}
