"""weighbridge rules: all rules of the diagnosis."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    @app.command()
    def rules(json: Annotated[bool, typer.Option("--json", help="For programs: one JSON list.")] = False) -> None:
        """List the rules of the diagnosis: id, severity, certainty (proof, test or heuristic) and title."""
        import json as text

        from weighbridge.cli import screen
        from weighbridge.diagnosis import registry
        from weighbridge.report.findings import rule_lines

        listed = registry.rules()
        if json:
            names = ("id", "title", "severity", "certainty", "since")
            screen.put(text.dumps([{name: getattr(rule, name) for name in names} for rule in listed], indent=1))
        else:
            screen.show(rule_lines(listed, screen.width()))
