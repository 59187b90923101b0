"""`weighbridge ls`: which runs there are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

LAST = 200  # more lines than these nobody reads


def register(app: typer.Typer) -> None:
    @app.command("ls")
    def ls(
        folder: Annotated[
            str | None,
            typer.Argument(metavar="DIR", show_default=False, help="Folder that holds runs. [default: ./weighbridge-runs]"),
        ] = None,
        everything: Annotated[bool, typer.Option("--all", help="Archived runs, too.")] = False,
        last: Annotated[int, typer.Option(min=0, metavar="N", help="The newest N runs only; 0 for all.")] = LAST,
        json: Annotated[
            bool, typer.Option("--json", help="Print JSON for programs: all runs, archived ones included.")
        ] = False,
    ) -> None:
        """List the runs of a folder, newest first.

        Shows name, state, start, steps, tensors, last loss, size and tags of each. Tags and archiving: weighbridge label.
        """
        from weighbridge.cli import screen
        from weighbridge.report.machine import runs_json
        from weighbridge.report.runs import is_shown, run_lines
        from weighbridge.store.listed import listed
        from weighbridge.store.trash import sweep

        path = _existing(folder)
        sweep(path)  # runs that were deleted on the page
        if json:
            found = listed(path)
            screen.put(runs_json(found.runs, found.unreadable))
        else:
            found = listed(path, last or None, None if everything else is_shown)
            screen.show(run_lines(found, path, screen.width()))


def _existing(folder: str | None) -> Path:
    from weighbridge.cli.where import RUNS
    from weighbridge.errors import NotARun

    path = RUNS if folder is None else Path(folder).expanduser()
    if folder is not None and not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "does not exist"
        raise NotARun(f"The folder {folder} {what}. Runs are in ./{RUNS} unless the training said otherwise: weighbridge ls")
    return path
