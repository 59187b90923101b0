"""Findings to a web address: one POST of JSON for each, on a thread of its own.

    {"text": "...", "run": "...", "finding": {...}}

`text` is one line, which chat tools show as it is; `finding` is the record of `weighbridge diagnose --json`.
"""

from __future__ import annotations

import json
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from weighbridge.diagnosis.kept import jsonable
from weighbridge.diagnosis.rule import Finding
from weighbridge.errors import BadInput

TIMEOUT_SECONDS: Final = 10.0
MOST_WAITING: Final = 64  # findings; more are left out, and said
CLOSE_SECONDS: Final = 5.0  # to wait at the end of a run for what is under way


class Webhook:
    """Sends to one address. `send` never blocks; what cannot be delivered is told once, never tried again."""

    def __init__(self, address: str, run: Path, tell: Callable[[str], None]) -> None:
        self.address, self.run, self.tell = checked(address), run, tell
        self._waiting: queue.Queue[bytes | None] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._has_failed = False

    def send(self, finding: Finding) -> None:
        """Soon."""
        text = f"{finding.severity}: {finding.key}, from step {finding.first_step} of {self.run.name}: {finding.message}"
        content: Any = jsonable({"text": text, "run": str(self.run), "finding": finding.record()})
        try:
            self._waiting.put_nowait(json.dumps(content, allow_nan=False).encode())
        except queue.Full:
            self.tell(f"alerts to {self._host} are slower than findings come; some are left out")
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="weighbridge-alerts", daemon=True)
            self._thread.start()

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Wait for what is under way, for so long at most."""
        if self._thread is None:
            return
        try:
            self._waiting.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)

    @property
    def _host(self) -> str:
        return urlsplit(self.address).netloc.rpartition("@")[2]  # what stands behind it may be a secret

    def _work(self) -> None:
        while (content := self._waiting.get()) is not None:
            try:
                self._post(content)
            except Exception as error:
                if not self._has_failed:
                    self._has_failed = True
                    told = f"an alert to {self._host} was not delivered ({type(error).__name__}: {error})"
                    self.tell(f"{told}; training goes on, and later ones are tried")

    def _post(self, content: bytes) -> None:
        headers = {"content-type": "application/json", "user-agent": "weighbridge"}
        request = urllib.request.Request(self.address, content, headers, method="POST")
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            answer.read(1)


def checked(address: str) -> str:
    """The address, if it is one. Raises BadInput."""
    parts = urlsplit(address) if isinstance(address, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadInput(f"alert={address!r} is not a web address. Write alert='https://...'.")
    return address
