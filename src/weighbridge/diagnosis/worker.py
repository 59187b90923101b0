"""The process in which the page's rules are asked: `python -m weighbridge.diagnosis.worker`.

It reads one JSON object a line from its input and writes one a line. Rules take the interpreter for minutes; here they take it
from nobody. It ends when its input ends, and when nothing was asked for a while.

    {"run": "/runs/first", "folder": "/work"}    read this run by the rules that hold in this folder
    {"steps": 900, "state": "finished", "diagnosis": {...}}    or {"error": "..."}
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
from pathlib import Path
from typing import Any, Final, TextIO

from weighbridge.diagnosis.engine import diagnose
from weighbridge.diagnosis.kept import diagnosis_to_json
from weighbridge.store.record import open_run

NICE: Final = 10  # the page answers first
IDLE_SECONDS: Final = 60.0


def answer(asked: dict[str, str]) -> dict[str, Any]:
    """What the rules say of a run, as far as it has come; an error in words."""
    try:
        with contextlib.chdir(asked["folder"]):
            record = open_run(Path(asked["run"]))
            info = record.info
            return {"steps": info.steps, "state": info.state, "diagnosis": diagnosis_to_json(diagnose(record))}
    except Exception as error:  # a damaged run must not end the process
        return {"error": str(error) or type(error).__name__}


def _listen(source: TextIO, lines: queue.SimpleQueue[str]) -> None:
    for line in source:
        lines.put(line)
    os._exit(0)  # whoever asked has gone: nobody waits for what is under way


def main() -> None:
    """Until nothing is asked any more."""
    if hasattr(os, "nice"):
        os.nice(NICE)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin, lines), daemon=True).start()
    with contextlib.suppress(queue.Empty):
        while True:
            print(json.dumps(answer(json.loads(lines.get(timeout=IDLE_SECONDS))), allow_nan=False), flush=True)


if __name__ == "__main__":
    main()
