"""weighbridge diagnose: what is wrong with a run, where, since when, and what to try."""

from __future__ import annotations

from typing import Annotated

import typer

from weighbridge.cli.choosing import Ignore, RulesFrom, Select, Settings, ask, chosen
from weighbridge.cli.where import NewestOr


def register(app: typer.Typer) -> None:
    @app.command()
    def diagnose(
        run: NewestOr = None,
        select: Select = None,
        ignore: Ignore = None,
        settings: Settings = None,
        rules_from: RulesFrom = None,
        json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
        sarif: Annotated[bool, typer.Option("--sarif", help="For code scanning: SARIF 2.1.0.")] = False,
    ) -> None:
        """Say what is wrong with a run: what, where, since which step, what shows it, and what to try first.

        Causes come first. A rule that had too little to go on says so. What was muted for this run
        (weighbridge label --mute) is a line. For an exit code, see: weighbridge check
        """
        import json as text

        from weighbridge.cli import screen
        from weighbridge.diagnosis.kept import jsonable
        from weighbridge.errors import BadInput
        from weighbridge.report import sarif as scanning
        from weighbridge.report.findings import lines

        if json and sarif:
            raise BadInput("--json and --sarif cannot both be printed. Choose one.")
        diagnosis, rules, muted = ask(run, chosen(select, ignore, settings, rules_from))
        if json or sarif:
            told = scanning.sarif(diagnosis, rules, muted) if sarif else jsonable(diagnosis.record())
            screen.put(text.dumps(told, ensure_ascii=False, allow_nan=False, indent=1))
        else:
            screen.show(lines(diagnosis, screen.width(), muted))
