"""weighbridge diagnose: what is wrong with a run, where, since when, and what to try."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    @app.command()
    def diagnose(
        run: Annotated[
            str | None,
            typer.Argument(
                show_default=False, help="The run: its folder, or its name below ./weighbridge-runs. [default: the newest]"
            ),
        ] = None,
        json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
    ) -> None:
        """Say what is wrong with a run: what, where, since which step, what shows it, and what to try first.

        Causes come first. A rule that had too little to go on says so. For an exit code, see: weighbridge check
        """
        import json as text

        from weighbridge.cli import screen
        from weighbridge.cli.where import find_run
        from weighbridge.diagnosis.engine import diagnose as ask
        from weighbridge.report.findings import jsonable, lines

        diagnosis = ask(find_run(run))
        if json:
            screen.put(text.dumps(jsonable(diagnosis.record()), ensure_ascii=False, allow_nan=False, indent=1))
        else:
            screen.show(lines(diagnosis, screen.width()))
