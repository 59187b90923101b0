"""weighbridge check: the diagnosis as an exit code, for CI."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

import typer

from weighbridge.cli.choosing import Ignore, RulesFrom, Select, Settings, ask, chosen
from weighbridge.cli.where import NewestOr

EXIT_FOUND = 1


class Level(StrEnum):
    error = "error"
    warning = "warning"
    note = "note"


def register(app: typer.Typer) -> None:
    @app.command()
    def check(
        run: NewestOr = None,
        fail_on: Annotated[
            Level, typer.Option("--fail-on", help="Findings of this severity and graver ones fail.")
        ] = Level.error,
        skip_muted: Annotated[
            bool, typer.Option("--skip-muted", help="What was muted for this run, and follows from that alone, does not fail.")
        ] = False,
        select: Select = None,
        ignore: Ignore = None,
        settings: Settings = None,
        rules_from: RulesFrom = None,
    ) -> None:
        """Diagnose a run and fail where something is wrong with it; prints one line per finding that fails.

        Exit code 0: no finding of that severity. 1: there is one, or a rule itself failed. 2: the run cannot be read.
        """
        from weighbridge.diagnosis import Outcome
        from weighbridge.diagnosis.muted import covered_by, follows_from
        from weighbridge.diagnosis.rule import SEVERITIES
        from weighbridge.format import counted, visible

        diagnosis, _, muted = ask(run, chosen(select, ignore, settings, rules_from))
        grave = SEVERITIES[: SEVERITIES.index(fail_on.value) + 1]
        found = (*diagnosis.findings, *(one.finding for one in muted))
        judged = {one.finding.key: "muted" for one in muted} | {
            one.key: f"follows from {follows_from(one, diagnosis)}" for one in found if one.key in covered_by(diagnosis)
        }
        failing = [one for one in found if one.severity in grave and not (skip_muted and one.key in judged)]
        broken = [answer for answer in diagnosis.answers if answer.outcome is Outcome.FAILED]
        if run is None:
            print(f"the newest run, {visible(diagnosis.subject)}")
        for finding in failing:
            quiet = f" ({judged[finding.key]}, and --skip-muted is not given)" if finding.key in judged else ""
            print(visible(f"{finding.severity}: {finding.key}{quiet}, from step {finding.first_step}: {finding.message}"))
        for answer in broken:
            print(visible(f"failed: {answer.rule} ({answer.reason})"))
        if failing or broken:
            raise typer.Exit(EXIT_FOUND)
        skipped = f" Muted: {_listed(judged)}." if skip_muted and judged else ""
        of = visible(run or diagnosis.subject)
        print(f"{of}: no finding of severity {' or '.join(grave)} in {counted(diagnosis.steps, 'step')}.{visible(skipped)}")


def _listed(judged: Mapping[str, str]) -> str:
    """What was muted, and what follows from it."""
    return ", ".join(key if why == "muted" else f"{key} ({why})" for key, why in sorted(judged.items()))
