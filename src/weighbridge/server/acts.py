"""What a person does to runs on the page: tags, a note, away and back, deletion and its undoing.

All by POST, of JSON, from this server's own page (gate.py), by the user who started it (peers.py).
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from weighbridge.errors import BadInput, WeighbridgeError
from weighbridge.server.answers import sentence
from weighbridge.server.peers import is_someone_else
from weighbridge.server.runs import Runs
from weighbridge.store.labels import Labels, read_labels, write_labels
from weighbridge.store.layout import is_run
from weighbridge.store.trash import GRACE_SECONDS, UNDO_SECONDS, delete_runs, restore, sweep

MOST_BYTES: Final = 64 * 1024
MOST_RUNS: Final = 1000  # at once
CHANGES: Final = {"add": list, "remove": list, "note": str, "archived": bool, "mute": dict, "unmute": list}


class Acts:
    """`locked`: why nothing may be changed here; empty where it may."""

    def __init__(self, runs: Runs, locked: str = "") -> None:
        self._runs, self._locked = runs, locked
        self._lock = threading.Lock()  # one change at a time: labels are read and written again

    @property
    def locked(self) -> str:
        """Why nothing may be changed, as far as it is known beforehand."""
        return self._locked or _not_mine(self._runs.root)

    async def act(self, request: Request) -> Response:
        """POST /api/act/label, /delete or /undo."""
        if is_someone_else(request.scope):
            return sentence(403, "Refused: only the user who started this page may change runs.")
        if self.locked:
            return sentence(403, self.locked)
        asked = await _json_of(request)
        does = {"label": self.label, "delete": self.delete, "undo": self.undo}[request.url.path.rpartition("/")[2]]
        return JSONResponse(await run_in_threadpool(does, asked))

    def label(self, asked: dict[str, Any]) -> dict[str, Any]:
        """{"runs": [...], "add": [tags], "remove": [tags], "note": text, "archived": yes or no,
        "mute": {key of a finding: reason}, "unmute": [keys]}; what is left out stays."""
        names = _names(asked)
        changes = {key: asked[key] for key in CHANGES if asked.get(key) is not None}
        for key, value in changes.items():
            words = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
            if not isinstance(value, CHANGES[key]) or not all(isinstance(word, str) for word in words):
                raise BadInput(f"{key} is of another kind: {value!r}.")
        with self._lock:
            changed = [(path, _labels_of(path, changes)) for path in map(self._runs.path, names)]
            for path, labels in changed:
                write_labels(path, labels)
        return {"runs": names}

    def delete(self, asked: dict[str, Any]) -> dict[str, Any]:
        """{"runs": [...]}: moved aside; "undo" in the answer brings them back for so many seconds."""
        names = _names(asked)
        if is_run(self._runs.root):
            raise WeighbridgeError("This page shows one run by itself and cannot delete it. Remove its folder by hand.")
        for name in names:
            self._runs.path(name)
        token = delete_runs(self._runs.root, names)
        for name in names:
            self._runs.close(name)
        timer = threading.Timer(UNDO_SECONDS + GRACE_SECONDS + 0.5, sweep, [self._runs.root])
        timer.daemon = True  # what it leaves, the next one removes
        timer.start()
        return {"runs": names, "undo": token, "seconds": UNDO_SECONDS}

    def undo(self, asked: dict[str, Any]) -> dict[str, Any]:
        """{"undo": what `delete` gave}."""
        return {"runs": restore(self._runs.root, str(asked.get("undo", "")))}


def _labels_of(run: Path, changes: dict[str, Any]) -> Labels:
    now = read_labels(run)
    named = {name: changes[name] for name in CHANGES.keys() & changes.keys() - {"archived"}}
    return now.changed(**named, is_archived=changes.get("archived"))


def _names(asked: dict[str, Any]) -> list[str]:
    names = asked.get("runs")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise BadInput('Name the runs: {"runs": ["first"]}.')
    if len(names) > MOST_RUNS:
        raise BadInput(f"{len(names):,} runs at once are too many; {MOST_RUNS:,} are the most.")
    return list(dict.fromkeys(names))


async def _json_of(request: Request) -> dict[str, Any]:
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise BadInput("Send JSON, with content-type: application/json.")  # no form of another page can
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BYTES:
            raise BadInput(f"More than {MOST_BYTES:,} bytes were sent.")
    try:
        asked = json.loads(body)
    except ValueError:
        raise BadInput("What was sent is no JSON.") from None
    if not isinstance(asked, dict):
        raise BadInput("Send one JSON object.")
    return asked


def _not_mine(root: Path) -> str:
    if os.access(root, os.W_OK):
        return ""
    try:
        owner = root.owner()
    except (KeyError, OSError, RuntimeError):  # a user without a name; a system that tells no owners
        owner = "somebody else"
    return f"{root} belongs to {owner} and may only be read: nothing can be changed here."
