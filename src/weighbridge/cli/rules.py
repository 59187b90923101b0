"""weighbridge rules: all rules of the diagnosis."""

from __future__ import annotations

from typing import Annotated

import typer

from weighbridge.cli.choosing import Ignore, RulesFrom, Select, chosen, rules_of


def register(app: typer.Typer) -> None:
    @app.command()
    def rules(
        select: Select = None,
        ignore: Ignore = None,
        rules_from: RulesFrom = None,
        json: Annotated[bool, typer.Option("--json", help="For programs: one JSON list.")] = False,
    ) -> None:
        """List the rules of the diagnosis: id, severity, certainty (proof, test or heuristic) and title.

        Those that are asked here: with your own, and without those that the project's file leaves out.
        """
        import json as text

        from weighbridge.cli import screen
        from weighbridge.report.findings import rule_lines

        listed = rules_of(chosen(select, ignore, None, rules_from))
        if json:
            names = ("id", "title", "severity", "certainty", "since")
            screen.put(text.dumps([{name: getattr(rule, name) for name in names} for rule in listed], indent=1))
        else:
            screen.show(rule_lines(listed, screen.width()))
