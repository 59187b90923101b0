"""weighbridge explain: what a rule looks for, how it decides, what to do, and when it errs."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    @app.command()
    def explain(rule: Annotated[str, typer.Argument(metavar="ID", help="Id of a rule; see weighbridge rules.")]) -> None:
        """Explain one rule: the symptom, how it decides, what to do, when it errs, and where it comes from."""
        from weighbridge.cli import screen
        from weighbridge.diagnosis import registry
        from weighbridge.report.findings import explanation_lines

        found = registry.rule(rule)
        screen.show(explanation_lines(found, registry.explanation(found), screen.width()))
