"""weighbridge check: the diagnosis as an exit code, for CI."""

from __future__ import annotations

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
        skip_muted: Annotated[bool, typer.Option("--skip-muted", help="What was muted for this run does not fail.")] = False,
        select: Select = None,
        ignore: Ignore = None,
        settings: Settings = None,
        rules_from: RulesFrom = None,
    ) -> None:
        """Diagnose a run and fail where something is wrong with it; prints one line per finding that fails.

        Exit code 0: no finding of that severity. 1: there is one, or a rule itself failed. 2: the run cannot be read.
        """
        from weighbridge.diagnosis import Outcome
        from weighbridge.diagnosis.rule import SEVERITIES
        from weighbridge.format import counted, visible

        diagnosis, _, muted = ask(run, chosen(select, ignore, settings, rules_from))
        grave = SEVERITIES[: SEVERITIES.index(fail_on.value) + 1]
        counted_too = () if skip_muted else tuple(one.finding for one in muted)
        failing = [finding for finding in (*diagnosis.findings, *counted_too) if finding.severity in grave]
        judged = {one.finding.key for one in muted}
        broken = [answer for answer in diagnosis.answers if answer.outcome is Outcome.FAILED]
        if run is None:
            print(f"the newest run, {visible(diagnosis.subject)}")
        for finding in failing:
            quiet = " (muted, and --skip-muted is not given)" if finding.key in judged else ""
            print(visible(f"{finding.severity}: {finding.key}{quiet}, from step {finding.first_step}: {finding.message}"))
        for answer in broken:
            print(visible(f"failed: {answer.rule} ({answer.reason})"))
        if failing or broken:
            raise typer.Exit(EXIT_FOUND)
        skipped = f" Muted: {', '.join(sorted(judged))}." if skip_muted and judged else ""
        of = visible(run or diagnosis.subject)
        print(f"{of}: no finding of severity {' or '.join(grave)} in {counted(diagnosis.steps, 'step')}.{visible(skipped)}")
