"""Compaction by whoever reads: the closed segments of the runs that people look at, in the background.

The training process compacts only when it finishes, and for a few seconds at most; a long run, or one that was killed,
would be read from its segments for ever.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pyarrow as pa

from weighbridge.errors import WeighbridgeError
from weighbridge.server.runs import Runs
from weighbridge.store.compact import compact_run, is_due

PAUSE_SECONDS: Final = 5.0
RUN_SECONDS: Final = 2.0  # for one run before it is the next one's turn; a unit that was begun is ended
_NICE: Final = 10  # a training on this machine goes first


def elsewhere(run: Path, seconds: float) -> int:
    """As compact_run, in a process of its own, where there is anything to do: one segment takes about a gigabyte for a moment,
    which the server would keep. Raises OSError where that process could not do it."""
    if not is_due(run):
        return 0
    command = [sys.executable, "-P", "-m", "weighbridge.store.compact", str(run), str(seconds)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise OSError(done.stderr.strip().rpartition("\n")[2] or f"the process ended with {done.returncode}")
    return int(done.stdout)


class Compactor:
    """Compacts runs that the server has open, one segment after another, on one thread of low priority."""

    def __init__(self, runs: Runs, compact: Callable[[Path, float], int] = compact_run) -> None:
        self._runs, self._compact = runs, compact
        self._given_up: set[str] = set()  # may not be written, or is damaged: said by `verify`, not here

    def start(self) -> None:
        """Begin; the thread ends with the process. A unit in the making is a folder of its own until it is renamed."""
        threading.Thread(target=self._work, name="weighbridge-compactor", daemon=True).start()

    def look(self) -> int:
        """One round over all open runs. Gives the number of segments that were compacted."""
        done = 0
        for name in self._runs.open_names():
            if name in self._given_up:
                continue
            try:
                done += self._compact(self._runs.path(name), RUN_SECONDS)
            except (OSError, WeighbridgeError, pa.ArrowException):
                self._given_up.add(name)
        return done

    def _work(self) -> None:
        if sys.platform == "linux":  # where priority is the thread's own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        pause = threading.Event()
        while not pause.wait(PAUSE_SECONDS):
            self.look()
