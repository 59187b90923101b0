"""The process in which the Lab's page trains: `python -m weighbridge.teaching.worker SCRATCH KEEP`.

It reads one JSON object a line from its input, what the page wants, and writes one a line, what there is to see. It ends
when its input ends. A reader that is slow is waited for: nothing is kept for it.

    {"do": "open", "link": "data=ring&layers=4,3"}   begin this training at step 0
    {"do": "play", "until": 900} {"do": "pause"} {"do": "step"}        without until: as long as it may
    {"do": "set", "word": "lr", "value": 0.1}        from the next step on
    {"do": "pace", "value": 50}                      steps a second; 0 = as many as there can be
    {"do": "keep"} {"do": "code"}

Every answer bears the number of the last `open` as "id".
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final, TextIO

from weighbridge.diagnosis.kept import jsonable
from weighbridge.errors import BadInput, WeighbridgeError
from weighbridge.teaching import lessons, link, networks, planes, words
from weighbridge.teaching.data import NAMES
from weighbridge.teaching.player import Player, Rules
from weighbridge.teaching.training import one_thread

FRAME_SECONDS: Final = 0.1
UNTOUCHED_SECONDS: Final = 120.0  # of play without a word from the page
NICE: Final = 5  # the server answers first
THUMB_EVERY: Final = 3  # of the rows, odd: both classes


class Worker:
    """Does what it is told, and tells what there is to see."""

    def __init__(self, scratch: Path, keep: Path | None, out: TextIO) -> None:
        self.scratch, self.keep, self._out = scratch, keep, out
        self.commands: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.player: Player | None = None
        self.id = 0
        self.is_playing = False
        self.pace = 0.0
        self._until = sys.maxsize
        self._touched = 0.0
        self._lock = threading.Lock()
        self._rules = Rules(self._findings)
        self._rules.start()

    def tell(self, event: str, **what: Any) -> None:
        """One line. Waits where nobody reads."""
        with self._lock:
            self._out.write(
                json.dumps({"event": event, "id": self.id, **jsonable(what)}, ensure_ascii=False, allow_nan=False) + "\n"
            )
            self._out.flush()

    def work(self) -> None:
        """Until the input ends."""
        self.tell("hello", **known())
        while (command := self._next()) is not None:
            if command:
                self._touched = time.monotonic()
                self._obey(command)
            if self.is_playing:
                self._play()
        if self.player is not None:
            self.player.close()

    def _next(self) -> dict[str, Any] | None:
        """The next command; an empty one where it is playing and none is there."""
        try:
            return self.commands.get(block=not self.is_playing)
        except queue.Empty:
            return {}

    def _obey(self, command: dict[str, Any]) -> None:
        try:
            self._do(str(command.get("do")), command)
        except (WeighbridgeError, TypeError, ValueError, OverflowError) as error:  # numbers that are none, too
            self.tell("refused", error=str(error), do=str(command.get("do")))

    def _do(self, what: str, command: dict[str, Any]) -> None:
        if what == "open":
            self._open(str(command.get("link", "")), int(command.get("id", 0)))
        elif what == "pace":
            self.pace = max(0.0, min(1000.0, float(command.get("value", 0))))
        elif self.player is None:
            raise BadInput("There is no training yet: open one first.")
        elif what == "play":
            self._until = int(command.get("until") or sys.maxsize)
            self.is_playing = not self.player.ended and self.player.steps < self._until
            self._frame()
        elif what == "pause":
            self._pause()
        elif what == "step":
            self.is_playing = False
            if not self.player.ended:
                self.player.step()
            self._frame()
            self._ask_rules()
        elif what == "set":
            self.player.set(str(command.get("word")), command.get("value"))
            self._frame()
        elif what == "keep":
            self._keep()
        elif what == "code":
            self.tell("code", **self.player.code())
        else:
            raise BadInput(f"{what!r} is nothing that can be done here.")

    def _open(self, query: str, number: int) -> None:
        self.is_playing, self.id = False, number
        link.read(query)  # what cannot be trained leaves the last training as it is
        if self.player is not None:
            self.player.close()
            self.player = None
        self.player = Player(query, self.scratch)
        self.tell("opened", **self.player.opened())
        self._frame()

    def _pause(self, why: str = "") -> None:
        self.is_playing = False
        self._frame(why)
        self._ask_rules(is_last=True)

    def _keep(self) -> None:
        assert self.player is not None
        if self.keep is None:
            raise BadInput(
                "This page shows a single run. Start weighbridge ui over a folder of runs, and the Lab can keep its own there."
            )
        self.is_playing = False
        name, twin = self.player.keep(self.keep), self.player.kept_twin
        self.tell("kept", run=name, twin=twin.name if twin is not None else "")
        self._frame()

    def _play(self) -> None:
        """Steps until the next frame is due."""
        player = self.player
        assert player is not None
        began, taken = time.monotonic(), 0
        wanted = max(1, round(self.pace * FRAME_SECONDS)) if self.pace else 10**9
        length = max(FRAME_SECONDS, 1 / self.pace) if self.pace else FRAME_SECONDS
        wanted = min(wanted, self._until - player.steps)
        while taken < wanted and time.monotonic() - began < length and not player.ended:
            player.step()
            taken += 1
        while self.pace and (rest := length - (time.monotonic() - began)) > 0 and self.commands.empty():
            time.sleep(min(rest, 0.02))
        seconds = time.monotonic() - began
        if player.ended or player.steps >= self._until:
            self._pause()
        elif time.monotonic() - self._touched > UNTOUCHED_SECONDS:
            self._pause(f"Paused after {UNTOUCHED_SECONDS / 60:.0f} minutes without a touch. Play goes on.")
        else:
            self._frame(speed=taken / seconds)
            self._ask_rules()

    def _frame(self, why: str = "", speed: float = 0.0) -> None:
        assert self.player is not None
        self.tell("frame", playing=self.is_playing, why=why, speed=speed, **self.player.frame())

    def _ask_rules(self, is_last: bool = False) -> None:
        assert self.player is not None
        grown = self.player.steps > self.player.diagnosed if is_last else self.player.diagnosis_is_due()
        if grown and self.player.kept is None and self.player.steps:
            self._rules.ask(self.player)

    def _findings(self, player: Player, told: dict[str, Any]) -> None:
        if player is self.player and player.kept is None:
            self.tell("findings", **told)


def known() -> dict[str, Any]:
    """What there is to choose from."""
    thumbs = {}
    for name, made in planes.PLANES.items():
        x, y = made()
        edge = abs(x).max() * 1.1
        thumbs[name] = [
            [round(a / edge, 3), round(b / edge, 3), int(c)]
            for (a, b), c in zip(x[::THUMB_EVERY], y[::THUMB_EVERY], strict=True)
        ]
    as_json = [
        [{"title": lesson.title, "look": lesson.look, "link": lesson.link} for lesson in group]
        for group in (lessons.TUTORIALS, lessons.LESSONS)
    ]
    return {
        "data": list(NAMES), "thumbs": thumbs, "activations": ["none", *networks.ACTIVATIONS], "norms": list(words.NORMS),
        "starts": ["torch", *words.INITS[1:]], "bias_starts": ["torch", *words.BIAS_INITS[1:]],
        "optimizers": [name for name in networks.optimizer_names() if name != "lbfgs"],
        "defaults": {**link.DEFAULTS, "seed": str(link.SEED)}, "tutorials": as_json[0], "lessons": as_json[1],
        "most_values": link.MOST_VALUES, "most_layers": link.MOST_LAYERS - 1,
    }  # fmt: skip


def read_commands(worker: Worker, source: Any) -> None:
    """On a thread of its own: every line of the input, then the end."""
    for line in source:
        try:
            command = json.loads(line)
        except ValueError:
            continue
        if isinstance(command, dict):
            worker.commands.put(command)
    worker.commands.put(None)


def main() -> None:
    """Output goes to the page alone: what anything prints goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    os.nice(NICE)
    scratch, keep = Path(sys.argv[1]), sys.argv[2]
    worker = Worker(scratch, Path(keep) if keep else None, out)
    threading.Thread(target=read_commands, args=(worker, sys.stdin), daemon=True).start()
    try:
        with one_thread():
            worker.work()
    except BrokenPipeError:
        pass  # nobody reads any more
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
