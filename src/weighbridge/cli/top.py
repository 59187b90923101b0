"""`weighbridge top`: a run on one screen, growing while it trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from weighbridge.diagnosis import Diagnosis

LEAST_SECONDS: Final = 0.2
GROWN_BY: Final = 0.2  # the rules are asked again when the run is so much longer


def register(app: typer.Typer) -> None:
    @app.command()
    def top(
        run: Annotated[
            str | None,
            typer.Argument(
                metavar="RUN",
                show_default=False,
                help="A run's folder, or its name below ./weighbridge-runs. [default: the newest]",
            ),
        ] = None,
        every: Annotated[float, typer.Option("--every", metavar="SECONDS", help="Look again so often.")] = 1.0,
        once: Annotated[bool, typer.Option("--once", help="Print one screen and end; so it is in a pipe.")] = False,
    ) -> None:
        """Watch a run on one screen: loss, what the rules say, the tensors that stand out most, own cost.

        For people on ssh. Ends with Ctrl-C, or when the run has ended; the last screen stays.
        """
        import sys

        from weighbridge.cli.where import find_run

        path = find_run(run)
        if once or not sys.stdout.isatty():
            _print_once(path)
        else:
            _watch(path, max(every, LEAST_SECONDS))


def _print_once(path: Path) -> None:
    from weighbridge.cli import screen
    from weighbridge.diagnosis.engine import diagnose
    from weighbridge.report.top import lines
    from weighbridge.store.record import open_run

    record = open_run(path)
    screen.show(lines(record, diagnose(path), screen.width(), 40))


def _watch(path: Path, seconds: float) -> None:
    import time

    from rich.console import Console, Group
    from rich.live import Live

    from weighbridge.report.top import lines
    from weighbridge.store.record import open_run

    console, record, asked = Console(), open_run(path), _Asked(path)
    with Live(console=console, auto_refresh=False, screen=False) as live:
        while True:
            record.refresh()
            info = record.info
            diagnosis = asked.answer(info.steps, info.state)
            live.update(Group(*lines(record, diagnosis, console.width, console.height - 1)), refresh=True)
            if info.state != "live" and not asked.is_busy:
                return
            time.sleep(seconds)


class _Asked:
    """The rules, asked on a thread of their own, so that the screen does not wait for them."""

    def __init__(self, path: Path) -> None:
        from concurrent.futures import Future, ThreadPoolExecutor

        self._path = path
        self._pool = ThreadPoolExecutor(1, "weighbridge-rules")
        self._future: Future[Diagnosis] | None = None
        self._last: Diagnosis | None = None
        self._key: tuple[int, str] = (-1, "")

    @property
    def is_busy(self) -> bool:
        return self._future is not None

    def answer(self, steps: int, state: str) -> Diagnosis | None:
        """The last diagnosis; asks for a new one where the run has grown or ended."""
        from weighbridge.diagnosis.engine import diagnose

        if self._future is not None and self._future.done():
            self._last, self._future = self._future.result(), None
        due = self._key[0] < 0 or steps > self._key[0] * (1 + GROWN_BY) or (state != self._key[1] and state != "live")
        if self._future is None and due:
            self._key = (steps, state)
            self._future = self._pool.submit(diagnose, self._path)
        return self._last
