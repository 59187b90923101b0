"""From what a person types to the folder of a run: a path, a name below ./weighbridge-runs, or nothing for the newest."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from weighbridge.errors import NotARun, nearest

RUNS: Final = Path("weighbridge-runs")
HOW_TO_RECORD: Final = "Record one with weighbridge.watch(model) in your training, or with: weighbridge demo"


def find_run(wanted: str | None) -> Path:
    """The folder of the run. Raises NotARun, naming the nearest, where there is none."""
    from weighbridge.store.layout import find_runs, is_run

    if wanted is None:
        return newest_run()
    for path in (Path(wanted).expanduser(), RUNS / wanted):
        if is_run(path):
            return path
    given = Path(wanted).expanduser()
    if given.is_dir():
        inside = [p.name for p in find_runs(given)]
        if inside:
            shown = ", ".join(inside[:5]) + (", ..." if len(inside) > 5 else "")
            raise NotARun(
                f"{wanted} holds runs but is none itself. Name one of them: {shown}. All of them: weighbridge ls {wanted}"
            )
        raise NotARun(f"{wanted} is a folder but no run: it has no run.json. {HOW_TO_RECORD}")
    if given.is_file():
        raise NotARun(
            f"{wanted} is a file; a run is a folder, such as weighbridge-runs/first. See which there are: weighbridge ls"
        )
    known = [p.name for p in find_runs(RUNS)]
    if not known:
        raise NotARun(f"There is no run {wanted!r}, neither as a path nor below ./{RUNS}. {HOW_TO_RECORD}")
    ending = ended_by(RUNS, wanted)
    if len(ending) == 1:
        return RUNS / ending[0]
    meant = f" Several end so: {', '.join(ending)}." if ending else nearest(wanted, known)
    raise NotARun(f"There is no run {wanted!r}, neither as a path nor below ./{RUNS}.{meant} See all: weighbridge ls")


def ended_by(folder: Path, words: str) -> list[str]:
    """The runs in a folder whose name ends with these words: calm-oak of 20261126-132305-calm-oak."""
    from weighbridge.store.layout import run_names

    return [name for name in run_names(folder) if name.endswith(f"-{words}")]


def newest_run() -> Path:
    """The run below ./weighbridge-runs that was started last."""
    from weighbridge.store.listed import listed

    runs = listed(RUNS, most=1).runs if RUNS.is_dir() else []
    if not runs:
        raise NotARun(f"There is no run below ./{RUNS}. {HOW_TO_RECORD}")
    return runs[0].path
