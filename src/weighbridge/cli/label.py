"""`weighbridge label`: tags, a note, put away or back."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from weighbridge.cli.where import WHERE


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("label")(label)


def label(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", show_default=False, help=WHERE)],
    tag: Annotated[list[str] | None, typer.Option("--tag", metavar="WORD", help="Add a tag; may be given again.")] = None,
    untag: Annotated[list[str] | None, typer.Option("--untag", metavar="WORD", help="Take a tag off.")] = None,
    note: Annotated[str | None, typer.Option(help="Another note; '' takes it off.")] = None,
    mute: Annotated[
        list[str] | None,
        typer.Option(
            "--mute",
            metavar="FINDING",
            help="Put a finding aside, as diagnose names it: 'dead-units at 0'.",
        ),
    ] = None,
    why: Annotated[str, typer.Option("--why", metavar="REASON", help="Why it is muted.")] = "",
    unmute: Annotated[list[str] | None, typer.Option("--unmute", metavar="FINDING", help="Take it back.")] = None,
    archive: Annotated[
        bool | None, typer.Option("--archive/--no-archive", show_default=False, help="Put away (ls --all shows it), or back.")
    ] = None,
) -> None:
    """Show or change what is said of runs: tags, a note, archived or not, findings that were judged and muted.

    Without options prints it. The page shows and changes the same; it stands in labels.json in the run's folder.
    What is muted must be a finding of each of these runs.
    """
    from weighbridge.cli.where import find_run
    from weighbridge.format import visible
    from weighbridge.store.labels import read_labels, write_labels

    found = [(path, read_labels(path)) for path in map(find_run, runs)]
    muted = dict.fromkeys(mute or (), why)
    for path, _ in found:
        _require_findings(path, muted)
    changed = [(path, labels.changed(tag or (), untag or (), note, archive, muted, unmute or ())) for path, labels in found]
    for (path, before), (_, after) in zip(found, changed, strict=True):
        if after != before:
            write_labels(path, after)
        _print(path.name, after.tags, after.note, after.is_archived)
        for key, reason in after.muted:
            print(visible(f"  muted: {key}{f': {reason}' if reason else ''}"))


def _require_findings(path: Path, keys: Iterable[str]) -> None:
    """Raises BadInput where the run has no such finding: a word that mutes nothing would go unnoticed."""
    from weighbridge.cli.choosing import chosen, rules_of
    from weighbridge.diagnosis.engine import diagnose_by
    from weighbridge.errors import BadInput, nearest

    if not keys:
        return
    known = [one.key for one in diagnose_by(path, rules_of(chosen(None, None, None, None))).findings]
    for key in keys:
        if key not in known:
            has = f"It has: {', '.join(known)}." if known else "It has none."
            raise BadInput(f"The run {path.name} has no finding {key!r}.{nearest(key, known)} {has} Nothing was changed.")


def _print(name: str, tags: tuple[str, ...], note: str, is_archived: bool) -> None:
    from weighbridge.format import visible

    words = [*(["(archived)"] if is_archived else []), *tags]
    print(f"{visible(name)}: {visible(' '.join(words)) or 'no tags'}{f'  {visible(note)}' if note else ''}")
