"""`weighbridge ls`: which runs there are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    @app.command("ls")
    def ls(
        folder: Annotated[
            str | None,
            typer.Argument(metavar="DIR", show_default=False, help="Folder that holds runs. [default: ./weighbridge-runs]"),
        ] = None,
        everything: Annotated[bool, typer.Option("--all", help="Archived runs, too.")] = False,
        json: Annotated[bool, typer.Option("--json", help="Print JSON for programs, archived runs included.")] = False,
    ) -> None:
        """List the runs of a folder, newest first.

        Shows name, state, start, steps, tensors, last loss, size and tags of each. Tags and archiving: weighbridge label.
        """
        from weighbridge.cli import screen
        from weighbridge.report.machine import runs_json
        from weighbridge.report.runs import run_lines, unreadable
        from weighbridge.store.record import list_runs
        from weighbridge.store.trash import sweep

        path = _existing(folder)
        sweep(path)  # runs that were deleted on the page
        runs = sorted(list_runs(path), key=lambda info: info.started, reverse=True) if path.is_dir() else []
        if json:
            screen.put(runs_json(runs, unreadable(runs, path)))
        else:
            screen.show(run_lines(runs, path, screen.width(), everything))


def _existing(folder: str | None) -> Path:
    from weighbridge.cli.where import RUNS
    from weighbridge.errors import NotARun

    path = RUNS if folder is None else Path(folder).expanduser()
    if folder is not None and not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "does not exist"
        raise NotARun(f"The folder {folder} {what}. Runs are in ./{RUNS} unless the training said otherwise: weighbridge ls")
    return path
