"""The list of runs in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.text import Text

from weighbridge import format as plain
from weighbridge.errors import WeighbridgeError
from weighbridge.report import grid
from weighbridge.report.text import STATE_STYLES, TROUBLE, wrapped
from weighbridge.store.labels import Labels, shown_labels
from weighbridge.store.layout import find_runs
from weighbridge.store.record import RunInfo, open_run


def unreadable(runs: Sequence[RunInfo], folder: Path) -> list[tuple[Path, str]]:
    """The runs of a folder that are not among `runs`, and why they cannot be read."""
    known = {info.path for info in runs}
    found = []
    for path in find_runs(folder):
        if path not in known:
            try:
                _ = open_run(path).info  # it may have become readable meanwhile; then it is in the next list
            except WeighbridgeError as error:
                found.append((path, str(error)))
    return found


def run_lines(runs: Sequence[RunInfo], folder: Path, width: int, everything: bool = False) -> list[Text]:
    """One line a run, and what to do where there is none or where one cannot be read. Archived ones where `everything` is."""
    unread = unreadable(runs, folder)
    labels = {info.path: shown_labels(info.path) for info in runs}
    shown = [info for info in runs if everything or not labels[info.path].is_archived]
    lines = grid.lines(_columns(shown, width, labels)) if shown else []
    if len(shown) < len(runs):
        lines.append(Text(f"{plain.counted(len(runs) - len(shown), 'archived run')} not shown: weighbridge ls --all"))
    if not runs and not unread:
        return wrapped(Text(_nothing(folder)), width)
    for path, reason in unread:
        lines += wrapped(Text.assemble((f"! {plain.visible(path.name)}  ", TROUBLE), plain.visible(reason)), width)
    return lines


def _nothing(folder: Path) -> str:
    where = plain.visible(str(folder))
    what = f"No runs in {where} yet." if folder.is_dir() else f"There is no folder {where} here, so no runs yet."
    return f"{what} Record one with weighbridge.watch(model) in a training, or try: weighbridge demo"


def _columns(runs: Sequence[RunInfo], width: int, labels: Mapping[Path, Labels]) -> list[grid.Column]:
    columns = _worded(runs, {}) + _labelled(runs, labels)
    if grid.total_width(columns) > width:
        columns = _worded(runs, {"ended without finish": "no finish"}) + _labelled(runs, labels)
    room = max(columns[0].width - max(grid.total_width(columns) - width, 0), 12)
    columns[0] = grid.column("run", [plain.cut_middle(cell.plain, room) for cell in columns[0].cells], right=False)
    return columns


def _labelled(runs: Sequence[RunInfo], labels: Mapping[Path, Labels]) -> list[grid.Column]:
    """A column where any of them has a tag, or is archived."""
    words = [[*(["(archived)"] if (one := labels[run.path]).is_archived else []), *one.tags] for run in runs]
    return [grid.column("tags", [plain.visible(" ".join(each)) for each in words], right=False)] if any(words) else []


def _worded(runs: Sequence[RunInfo], shorter: dict[str, str]) -> list[grid.Column]:
    return [
        grid.column("run", [plain.visible(r.name) for r in runs], right=False),
        grid.column(
            "state", [Text(shorter.get(r.state, r.state), style=STATE_STYLES.get(r.state, "")) for r in runs], right=False
        ),
        grid.column("started", [plain.when(r.started) for r in runs], right=False),
        grid.column("steps", [plain.count(r.steps) for r in runs]),
        grid.column("tensors", [plain.count(r.tensors) for r in runs]),
        grid.column("last loss", [_loss(r.last_loss) for r in runs]),
        grid.column("size", [plain.size(r.size_bytes) for r in runs]),
    ]


def _loss(value: float | None) -> Text:
    return Text(plain.metric(value), style=TROUBLE if value is not None and not math.isfinite(value) else "")
