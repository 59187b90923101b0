"""The arguments that name a run (store/find.py says how it is found)."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from weighbridge.store.find import RUNS, find_run

__all__ = ["RUNS", "WHERE", "NewestOr", "OneRun", "find_run"]

WHERE: Final = "A run's folder, or its name below ./weighbridge-runs, or the last words of it."
OneRun = Annotated[str, typer.Argument(metavar="RUN", show_default=False, help=WHERE)]
NewestOr = Annotated[str | None, typer.Argument(metavar="RUN", show_default=False, help=f"{WHERE} [default: the newest]")]
