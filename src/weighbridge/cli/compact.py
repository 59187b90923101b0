"""weighbridge compact: closed segments become sorted Parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    @app.command()
    def compact(
        runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or folders that hold runs.")],
    ) -> None:
        """Turn closed segments into sorted Parquet: smaller, and quick to read over many steps.

        Safe at any time, beside a training and beside another compact: what a run is still writing is left alone.
        """
        from weighbridge.cli.where import RUNS
        from weighbridge.format import visible
        from weighbridge.store.compact import compact_run
        from weighbridge.store.layout import find_runs
        from weighbridge.store.status import require_run, size_of

        for given in runs:
            given = given if given.exists() else RUNS / given
            found = find_runs(given)
            if not found:
                require_run(given)  # says what is wrong
            for run in found:
                before = size_of(run)
                done = compact_run(run)
                after = size_of(run)
                print(
                    f"{visible(str(run))}: {done} segment(s) compacted, {before / 1e6:.1f} MB before, {after / 1e6:.1f} MB now"
                )
