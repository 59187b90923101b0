"""The options that choose rules, the same for every command that asks them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from weighbridge.diagnosis import Diagnosis, Rule
    from weighbridge.diagnosis.choice import Choice
    from weighbridge.diagnosis.muted import Muted

Select = Annotated[
    list[str] | None,
    typer.Option(
        "--select", metavar="ID", help="Only this rule, or those of a pattern such as '*-gradient'; may be given again."
    ),
]
Ignore = Annotated[list[str] | None, typer.Option("--ignore", metavar="ID", help="Not this rule; as --select.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="RULE.CONSTANT=VALUE", help="Another limit for a rule; may be given again."),
]
RulesFrom = Annotated[
    list[str] | None, typer.Option("--rules-from", metavar="FILE", help="Rules of your own in a Python file, which is run.")
]


def chosen(
    select: Sequence[str] | None, ignore: Sequence[str] | None, settings: Sequence[str] | None, files: Sequence[str] | None
) -> Choice:
    """What was chosen on the command line, on top of the project's file. Raises BadInput."""
    from weighbridge.diagnosis.choice import choose, parse_settings

    return choose(select or (), ignore or (), parse_settings(settings or ()), files or ())


def rules_of(choice: Choice) -> tuple[type[Rule], ...]:
    """The rules; what could not be loaded is said on stderr."""
    return choice.rules(_say)


def ask(run: str | None, choice: Choice) -> tuple[Diagnosis, tuple[type[Rule], ...], tuple[Muted, ...]]:
    """What the chosen rules say of a run, which they were, and what of it was muted and left out."""
    from weighbridge.cli.where import find_run
    from weighbridge.diagnosis.engine import diagnose_by
    from weighbridge.diagnosis.muted import set_aside
    from weighbridge.store.labels import shown_labels

    rules = rules_of(choice)
    path = find_run(run)
    diagnosis, quiet = set_aside(diagnose_by(path, rules), shown_labels(path).muted)
    return diagnosis, rules, quiet


def _say(message: str) -> None:
    from weighbridge.format import visible

    print(f"weighbridge: {visible(message)}", file=sys.stderr)
