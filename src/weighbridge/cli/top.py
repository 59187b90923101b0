"""`weighbridge top`: a run on one screen, growing while it trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from weighbridge.cli.where import NewestOr, find_run

if TYPE_CHECKING:
    from pathlib import Path

LEAST_SECONDS: Final = 0.2


def register(app: typer.Typer) -> None:
    @app.command()
    def top(
        run: NewestOr = None,
        every: Annotated[float, typer.Option("--every", metavar="SECONDS", help="Look again so often.")] = 1.0,
        once: Annotated[bool, typer.Option("--once", help="Print one screen and end; so it is in a pipe.")] = False,
    ) -> None:
        """Watch a run on one screen: loss, what the rules say, the tensors that stand out most, own cost.

        For people on ssh. Ends with Ctrl-C, or when the run has ended; the last screen stays.
        """
        import sys

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

    from weighbridge.errors import WeighbridgeError
    from weighbridge.report.top import lines
    from weighbridge.server.diagnosing import Diagnoser
    from weighbridge.server.runs import Runs
    from weighbridge.store.record import open_run

    console, record, diagnoser = Console(), open_run(path), Diagnoser(Runs(path))
    with Live(console=console, auto_refresh=False, screen=False) as live:
        while True:
            record.refresh()
            known = diagnoser.known(path.resolve().name, record)
            if known.error:
                raise WeighbridgeError(known.error)
            live.update(Group(*lines(record, known.diagnosis, console.width, console.height - 1)), refresh=True)
            if record.info.state != "live" and not known.is_pending:
                return
            time.sleep(seconds)
