"""The process beside a notebook's kernel: reads runs while they grow and writes what is new as lines of JSON.

    python -m weighbridge.notebook.feed RUN...

    {"answers": {question: answer, ...}}    what the page would be told by a server (server/kept.py); none: nothing is new
    {"later": html}                         now and then: the picture that stays if the notebook is saved now
    {"still": html}                         the last line, once no run is being written any more

A process of its own, so that reading takes nothing from the training in the kernel but a few lines a second. It ends with its
standard input, that is with the kernel. Each round sends the picture of the first statistic and one of the others: together
they stay far below what a Jupyter server lets through (1 MB a second).
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, Final

from weighbridge.errors import WeighbridgeError
from weighbridge.notebook.still import picture, still
from weighbridge.server import kept
from weighbridge.server.api import Api
from weighbridge.server.runs import SomeRuns

LOOK_EVERY_SECONDS: Final = 0.5
QUIET_LOOK_EVERY_SECONDS: Final = 2.0  # while nothing grows
REST: Final = 3.0  # times as long at rest as a look took
CELLS: Final = 100_000  # of all pictures of a run
LATER_EVERY_SECONDS: Final = 10.0
ALIVE_EVERY_SECONDS: Final = 5.0  # the page takes longer silence for a kernel that has gone
LEVEL: Final = 5  # of the compression
_NICE: Final = 10


def rounds(api: Api, mark: str, now: Any = time.monotonic) -> Iterator[dict[str, Any] | None]:
    """What is new, one line after the other; None: rest. Ends when no run is live any more."""
    for asked in kept.of_any_run():
        yield {"answers": kept.answer(api, asked, kept.LEAST_COLUMNS, LEVEL)}
    feeds = [_Feed(api, name) for name in api.runs.names()]
    drawn_at, told_at = float("-inf"), now()
    while True:
        has_news = False
        for feed in feeds:
            if answers := feed.news():
                has_news, told_at = True, now()
                yield {"answers": answers}
        if now() - told_at >= ALIVE_EVERY_SECONDS:
            told_at = now()
            yield {"answers": {}}
        if not any(feed.is_live for feed in feeds):
            break
        if has_news and now() - drawn_at >= LATER_EVERY_SECONDS:
            yield {"later": picture(api, f"weighbridge-later-{mark}")}
            drawn_at = now()
        yield None
    yield {"still": still(api)}


class _Feed:
    """One run: what was told of it last."""

    def __init__(self, api: Api, name: str) -> None:
        self.api, self.name, self.is_live = api, name, True
        self._told: tuple[Any, ...] = ()
        self._tensors = -1
        self._pending = True
        self._turn = cycle(kept.PICTURES[1:])

    def news(self) -> dict[str, str]:
        """Answers that have changed: all at once, so that the page shows one moment of the run."""
        with self.api.runs.use(self.name) as record:
            info = record.info
            keys, findings = record.log_keys(), record.whole("findings").num_rows
            diagnosis = self.api.diagnoser.known(self.name, record)
        facts = (info.steps, info.state, info.tensors, tuple(keys), findings)
        self.is_live = info.state == "live"
        grown, self._told = facts != self._told, facts
        was_pending, self._pending = self._pending, diagnosis.is_pending
        if not grown and not was_pending:
            return {}
        has_new_tensors, self._tensors = self._tensors != info.tensors, info.tensors
        shown = kept.PICTURES if has_new_tensors else (kept.PICTURES[0], next(self._turn))
        left_out = () if has_new_tensors else ("tensors",)
        columns = kept.columns_for(CELLS, info.tensors)
        answers: dict[str, str] = {}
        for what, of in kept.of_a_run(self.name, keys, shown if grown else ()):
            if what not in left_out:
                answers |= kept.answer(self.api, (what, of), columns, LEVEL)
        return answers


def main(arguments: Sequence[str]) -> None:
    """Write lines until no run grows any more."""
    if hasattr(os, "nice"):
        os.nice(_NICE)
    threading.Thread(target=_end_with_the_kernel, daemon=True).start()
    mark, *places = arguments
    began = time.monotonic()
    try:
        for line in rounds(Api(SomeRuns([Path(place) for place in places])), mark):
            took, told = time.monotonic() - began, line is not None
            if line is not None:
                print(json.dumps(line), flush=True)
                continue
            time.sleep(max(LOOK_EVERY_SECONDS if told else QUIET_LOOK_EVERY_SECONDS, REST * took))
            began = time.monotonic()
    except (WeighbridgeError, OSError) as error:
        print(json.dumps({"trouble": str(error)}), flush=True)


def _end_with_the_kernel() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
