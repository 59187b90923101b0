"""Trainings of the Lab's page: each in a process of its own, few at a time, the others wait in line.

This server trains nothing and knows nothing of networks. It passes lines between a page and its worker
(weighbridge/teaching/worker.py): commands by POST, what there is to see as server-sent events. The events are the life line:
when the page goes away, its worker is ended and its files are removed. Nothing is kept for a slow page: the worker waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from weighbridge.errors import BadInput
from weighbridge.server.answers import sentence
from weighbridge.server.runs import Runs
from weighbridge.store.layout import is_run

WORKERS: Final = max(1, min(4, os.cpu_count() or 1))  # at a time
MOST_WAITING: Final = 16
LIFE_SECONDS: Final = 1800.0  # of one worker
UNTOUCHED_SECONDS: Final = 120.0  # after which it gives its place to who waits
LOOK_SECONDS: Final = 0.5
MOST_LINE_BYTES: Final = 4 * 2**20  # of a worker; a frame has about 30,000
MOST_COMMAND_BYTES: Final = 4096
MOST_EARLY: Final = 16  # commands from a page that still waits
DOES: Final = frozenset({"open", "play", "pause", "step", "set", "pace", "keep", "code"})
WORKER: Final = "weighbridge.teaching.worker"

ENDED: Final = "This training has ended. Open the Lab again."
NO_TORCH: Final = (
    "The Lab trains with PyTorch, which is not installed where this page is served. Install it there: "
    "pip install 'weighbridge[lab]', and start weighbridge ui again."
)


@dataclass(eq=False)
class Session:
    """One page."""

    token: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    process: asyncio.subprocess.Process | None = None
    early: deque[bytes] = field(default_factory=lambda: deque(maxlen=MOST_EARLY))
    touched: float = field(default_factory=time.monotonic)

    def tell(self, line: bytes) -> bool:
        """Pass a command on; False where the worker does not take any more."""
        self.touched = time.monotonic()
        if self.process is None or self.process.stdin is None:
            self.early.append(line)
            return True
        if self.process.stdin.transport.get_write_buffer_size() > 16 * MOST_COMMAND_BYTES:
            return False
        with contextlib.suppress(ConnectionError):
            self.process.stdin.write(line)
        return True


class Desk:
    """Who trains, and who waits for a place."""

    def __init__(self, runs: Runs, workers: int = WORKERS) -> None:
        self.keep = "" if is_run(runs.root) else str(runs.root.absolute())
        self.workers = workers
        self.hello = ""  # what every worker says first; pages that wait have it from the one before
        self.sessions: dict[str, Session] = {}
        self.line: list[Session] = []  # in the order in which they came; the first `workers` of them train

    def routes(self) -> list[BaseRoute]:
        """Both endpoints."""
        return [
            Route("/api/lab/events", self.events, methods=["GET"]),
            Route("/api/lab/tell", self.tell, methods=["POST"]),
        ]

    def events(self, request: Request) -> Response:
        """The life line of a page."""
        return StreamingResponse(self._attend(request), media_type="text/event-stream", headers={"cache-control": "no-store"})

    async def tell(self, request: Request) -> Response:
        """A command of a page for its worker."""
        session = self.sessions.get(request.query_params.get("session", ""))
        if session is None:
            return JSONResponse({"ended": ENDED})  # no error: pages and trainings end while a command is on its way
        line = command_of(await _body(request))
        if not session.tell(line):
            return sentence(429, "The training does not answer: it still does what it was told before.")
        return JSONResponse({})

    def ahead_of(self, session: Session) -> int:
        """How many trainings have to end before this one begins; 0 = it may."""
        return max(0, self.line.index(session) - self.workers + 1)

    async def _attend(self, request: Request) -> AsyncIterator[str]:
        if importlib.util.find_spec("torch") is None:
            yield _event("trouble", error=NO_TORCH)
            return
        if len(self.line) >= self.workers + MOST_WAITING:
            yield _event(
                "trouble", error=f"{len(self.line)} pages of the Lab are open here already. Close one, or come back later."
            )
            return
        session = Session()
        self.sessions[session.token] = session
        self.line.append(session)
        try:
            yield _event("session", session=session.token, keeps=self.keep != "")
            if self.hello:
                yield self.hello
            told = 0
            while ahead := self.ahead_of(session):
                if ahead != told:
                    yield _event("waiting", ahead=ahead)
                    told = ahead
                if await request.is_disconnected():
                    return
                await asyncio.sleep(LOOK_SECONDS)
            async for line in self._train(session, request):
                yield line
        finally:
            self.sessions.pop(session.token, None)
            self.line.remove(session)

    async def _train(self, session: Session, request: Request) -> AsyncIterator[str]:
        scratch = Path(tempfile.mkdtemp(prefix="weighbridge-lab-"))
        process = None
        try:
            process = await self._start(scratch)
            session.process = process
            session.touched = began = time.monotonic()
            while session.early:
                session.tell(session.early.popleft())
            assert process.stdout is not None
            while not await request.is_disconnected():
                try:
                    line = await asyncio.wait_for(process.stdout.readline(), LOOK_SECONDS)
                except TimeoutError:
                    line = None
                if line:
                    event = f"data: {line.decode()}\n"
                    self.hello = self.hello or event
                    yield event
                elif line is not None:
                    yield _event("ended", error=_last_words(scratch))
                    return
                now = time.monotonic()
                if now - began > LIFE_SECONDS:
                    yield _event(
                        "ended", error=f"This training has had its {LIFE_SECONDS / 60:.0f} minutes. Reset begins a new one."
                    )
                    return
                if len(self.line) > self.workers and now - session.touched > UNTOUCHED_SECONDS:
                    yield _event(
                        "ended", error="Others were waiting, and nothing was done here for two minutes: the place went to them."
                    )
                    return
        finally:
            _end(process, scratch)

    async def _start(self, scratch: Path) -> asyncio.subprocess.Process:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        with (scratch / "stderr.txt").open("wb") as stderr:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", WORKER, str(scratch / "runs"), self.keep,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=stderr,
                limit=MOST_LINE_BYTES, env=environment,
            )  # fmt: skip


def command_of(body: bytes) -> bytes:
    """A command as one line for the worker. Raises BadInput."""
    try:
        command: Any = json.loads(body)
    except ValueError:
        raise BadInput("A command to the Lab is one JSON object.") from None
    if not isinstance(command, dict) or command.get("do") not in DOES:
        raise BadInput(f"A command to the Lab has a 'do': {', '.join(sorted(DOES))}.")
    return json.dumps(command).encode() + b"\n"


async def _body(request: Request) -> bytes:
    found = b""
    async for piece in request.stream():
        found += piece
        if len(found) > MOST_COMMAND_BYTES:
            raise BadInput(f"A command to the Lab has {MOST_COMMAND_BYTES:,} bytes at most.")
    return found


def _event(name: str, **what: Any) -> str:
    return f"data: {json.dumps({'event': name, **what})}\n\n"


def _last_words(scratch: Path) -> str:
    """Why a worker has ended by itself, as far as it could say so."""
    try:
        lines = (scratch / "stderr.txt").read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return f"The training's process has ended{': ' + lines[-1][:300] if lines else ''}. Reset begins a new one."


def _end(process: asyncio.subprocess.Process | None, scratch: Path) -> None:
    """At once, and without waiting: whoever asked is gone."""
    if process is not None and process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    loop = asyncio.get_running_loop()
    _ending.add(task := loop.create_task(_removed(process, scratch)))
    task.add_done_callback(_ending.discard)


async def _removed(process: asyncio.subprocess.Process | None, scratch: Path) -> None:
    if process is not None:
        await process.wait()
    await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)


_ending: set[asyncio.Task[None]] = set()  # kept until they are done
