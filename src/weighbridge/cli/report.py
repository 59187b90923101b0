"""`weighbridge report`: a run as one HTML file, to send and to keep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from weighbridge.cli.where import WHERE, find_run

MOST: Final = 8


def register(app: typer.Typer) -> None:
    @app.command()
    def report(
        run: Annotated[
            list[str] | None,
            typer.Argument(
                metavar="RUN...",
                show_default=False,
                help=f"{WHERE} Several in one file: name them all. [default: the newest]",
            ),
        ] = None,
        output: Annotated[
            Path | None,
            typer.Option("--output", "-o", metavar="FILE", show_default=False, help="Where it goes. [default: NAME.html]"),
        ] = None,
    ) -> None:
        """Write a run as one HTML file: cause, findings with evidence, loss, and every tensor at every step.

        It needs no server and no network; its charts answer to the pointer as the page's do.
        """
        from weighbridge.errors import BadInput
        from weighbridge.format import size
        from weighbridge.server.onefile import one_file

        if run and len(run) > MOST:
            raise BadInput(f"{len(run)} runs are too many for one file; name {MOST} at most.")
        places = [find_run(name) for name in run] if run else [find_run(None)]
        target = output or Path(f"{places[0].resolve().name}.html")
        text = one_file(places)
        target.write_text(text, encoding="utf-8")
        print(f"{target}  {size(len(text.encode()))}")
