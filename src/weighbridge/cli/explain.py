"""weighbridge explain: what a rule looks for, how it decides, what to do, and when it errs."""

from __future__ import annotations

from typing import Annotated

import typer

from weighbridge.cli.choosing import RulesFrom, rules_of


def register(app: typer.Typer) -> None:
    @app.command()
    def explain(
        rule: Annotated[str, typer.Argument(metavar="ID", help="Id of a rule; see weighbridge rules.")],
        rules_from: RulesFrom = None,
    ) -> None:
        """Explain one rule: the symptom, how it decides, what to do, when it errs, and where it comes from."""
        from pathlib import Path

        from weighbridge.cli import screen
        from weighbridge.diagnosis import registry
        from weighbridge.diagnosis.choice import Choice, constants, of_project
        from weighbridge.report.findings import explanation_lines

        every = {one.id: one for one in rules_of(Choice(own=(*of_project(Path.cwd()).own, *(rules_from or ()))))}
        found = every.get(rule) or registry.rule(rule)
        screen.show(explanation_lines(found, registry.explanation(found), constants(found), screen.width()))
