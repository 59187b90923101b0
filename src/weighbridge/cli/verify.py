"""weighbridge verify: is every byte of a run as it was written?"""

from __future__ import annotations

from typing import Annotated

import typer

from weighbridge.cli.where import OneRun, find_run


def register(app: typer.Typer) -> None:
    @app.command()
    def verify(
        run: OneRun,
        json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
    ) -> None:
        """Compare every byte of a run with its checksums; name each damaged file and the bytes in it.

        Exit code 0: everything is as it was written. 2: something is damaged.
        """
        import json as text

        from weighbridge.format import visible
        from weighbridge.store.verify import verify_run

        damages = verify_run(find_run(run))
        if json:
            listed = [{"file": str(d.path), "start": d.start, "stop": d.stop, "what": d.what} for d in damages]
            print(text.dumps({"run": str(run), "damages": listed}))
        elif damages:
            for damage in damages:
                print(visible(str(damage)))
            print(f"{len(damages)} damaged place(s) in {run}. Restore these files from a copy; all others are sound.")
        else:
            print(f"{visible(str(run))}: every byte is as it was written.")
        if damages:
            raise typer.Exit(2)
